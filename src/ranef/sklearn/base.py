"""`MixedEstimator`: what the estimators have in common, from X, y and groups to a fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from ranef import registry
from ranef.data.tables import read
from ranef.errors import ColumnError, DataError, ExactFitError, OptionError, suggestion
from ranef.families.mixture_spec import Mixture
from ranef.model import Model
from ranef.names import FamilyName, MethodName, MethodOptions, NewLevels, PredictionKind
from ranef.sklearn.formulas import GROUPS, WEIGHTS, completed
from ranef.storage.networks import restored, stored

if TYPE_CHECKING:
    from typing import Self

    from ranef.data.frame import Frame
    from ranef.fit import Fit
    from ranef.priors import Prior

# A table or array of rows, as scikit-learn calls it.
Rows = Any
# The sigma of a response that the columns fit exactly, as a share of the response's sd.
_SMALL = 1e-3


@dataclass(frozen=True)
class TrainingRows:
    """The rows of `fit`.

    Attributes:
        columns: name to the column of X.
        n: number of rows.
        groups: the group of each row, or None.
        weights: the weight of each row, or None.
    """

    columns: Mapping[str, object]
    n: int
    groups: NDArray | None
    weights: NDArray[np.float64] | None


class MixedEstimator(BaseEstimator):
    """What the estimators have in common.

    Attributes:
        fit_: the fit, with its summaries, checks and predictions.
        formula_: the formula that was fitted, response included.
        n_features_in_: number of columns of X.
        feature_names_in_: their names, for a table.
    """

    formula: str | None
    groups: str | Sequence[str] | None
    priors: Mapping[str, Prior | float] | None
    networks: Mapping[str, object] | None
    missing: Sequence[str]
    method: MethodName
    draws: int
    seed: int
    new_levels: NewLevels
    options: MethodOptions | None
    fit_: Fit
    formula_: str

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.categorical = True
        return tags

    def _read(self, X: Rows, y: Any, sample_weight: Any, groups: Any) -> TrainingRows:
        """The rows of `fit`, checked; y only for being there."""
        columns, n = self._columns(X, y, reset=True)
        return TrainingRows(
            columns, n, _one_for_each(GROUPS, groups, n), _weights(sample_weight, n)
        )

    def _columns(
        self, X: Rows, y: Any = "no_validation", *, reset: bool
    ) -> tuple[dict[str, object], int]:
        """The columns of X by name, and the number of rows.

        Args:
            X: a table, whose columns the formula may name, or an array, whose columns are x0, x1,
                and so on.
            y: the response where rows are fitted.
            reset: whether X sets the names and the number of columns, or has to have them.
        """
        if _is_dict(X):
            raise OptionError(
                "X must be a table, such as a pandas or polars DataFrame, or an array of numbers, "
                "not a dict; write pandas.DataFrame(X)"
            )
        if _is_table(X):
            names = _names(X)
            twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
            if twice is not None:
                raise DataError(f"X has the column {twice!r} twice; rename one")
            if not len(X):
                raise DataError("X has no rows; give at least two to fit, and one to predict")
            validate_data(self, X, y, reset=reset, skip_check_array=True)
            return {name: X[name] for name in names}, len(X)
        try:
            least = 2 if reset else 1
            checked = check_array(X, ensure_min_samples=least, estimator=self, input_name="X")
        except ValueError as error:
            if "could not convert string" in str(error):
                raise DataError(
                    "X is an array with texts; pass a table, such as a pandas or polars DataFrame, "
                    "whose columns of texts are factors and groupings"
                ) from None
            raise
        validate_data(self, X, y, reset=reset, skip_check_array=True)
        names = getattr(self, "feature_names_in_", None)
        if names is None:
            names = [f"x{i}" for i in range(checked.shape[1])]
        return dict(zip(map(str, names), checked.T, strict=True)), len(checked)

    def _fit(self, rows: TrainingRows, family: FamilyName | Mixture, y: object) -> Self:
        """Fits the model to the rows with the response y."""
        precise = rows.weights is not None and _takes_precisions(family)
        listed = [self.groups] if isinstance(self.groups, str) else list(self.groups or ())
        for name in listed:
            if name not in rows.columns:
                hint = suggestion(str(name), rows.columns)
                raise ColumnError(f"the grouping {name!r} is no column of X; {hint}")
        if self.groups is not None and self.formula is not None:
            raise OptionError(
                f"the formula has its groupings in it, as in '~ x + (1 | {listed[0]})'; leave out "
                "the argument groups"
            )
        columns = dict(rows.columns)
        if rows.groups is not None:
            if GROUPS in columns:
                raise OptionError(
                    "X has a column 'groups', and fit() was given groups as well; leave out one"
                )
            columns[GROUPS] = rows.groups
            listed = [*listed, GROUPS]
        whole = completed(self.formula, list(rows.columns), listed, weighted=precise)
        columns[whole.response] = y
        if precise:
            columns[WEIGHTS] = rows.weights
        networks = restored(stored(self.networks or {}, {}))
        model = Model(whole.text, family, self.priors, networks, self.missing)
        needs = model.program.needs()
        if rows.groups is not None and GROUPS not in needs:
            raise OptionError(
                "fit() was given groups, which the formula does not use; add '(1 | groups)' to it, "
                "or leave out groups"
            )
        frame = read(columns, list(needs), model.program.missing)
        if rows.weights is not None:
            counts = (rows.weights > 0).astype(np.int64) if precise else _counts(rows.weights)
            frame = frame.take(np.repeat(np.arange(rows.n), counts))
        self.fit_ = self._fitted(model, frame, whole.response)
        self.formula_ = whole.text
        return self

    def _fitted(self, model: Model, frame: Frame, response: str) -> Fit:
        """The fit of a model. A sigma of which the rows say nothing is fixed, with a warning.

        This happens where there are as many columns as rows, or y is a sum of columns.
        """

        def fit(model: Model) -> Fit:
            options: MethodOptions = {**(self.options or {})}
            return model.fit(frame, self.method, self.seed, self.draws, progress=False, **options)

        try:
            return fit(model)
        except ExactFitError as error:
            program = model.program
            family = cast(FamilyName, program.family.name)
            if error.unknown != ("sigma",) or not _takes_precisions(family):
                raise
            sigma = _SMALL * float(np.std(frame.numbers(response)))
            warnings.warn(
                f"the columns fit y exactly, so sigma is fixed at {sigma:.3g}, which is "
                f"{_SMALL:g} times the sd of y; leave columns out, or give a prior of sigma",
                stacklevel=4,
            )
            priors = {**program.user_priors, "sigma": sigma}
            networks = program.starting_networks()[0]
            return fit(Model(model.formula, family, priors, networks, program.missing))

    def _predicted(
        self, X: Rows, groups: Any = None, kind: PredictionKind = "mean", interval: float = 0.9
    ) -> dict[str, NDArray[np.float64]]:
        """Predictions of the rows of X by column, as `Fit.predict` computes them.

        Without groups, a model that was fitted with groups predicts at the population level.
        """
        check_is_fitted(self, "fit_")
        columns, n = self._columns(X, reset=False)
        program = self.fit_.program
        wanted: str | list[str] = "all"
        if groups is not None:
            columns[GROUPS] = _one_for_each(GROUPS, groups, n)
            if GROUPS not in program.needs(response=False, companion=False):
                raise OptionError("predict() was given groups, and fit() was not; leave them out")
        elif GROUPS not in columns:
            # Without its column the effects of the groups are left out.
            known = program.groupings()
            without = [name for name in known if GROUPS not in name.split(":")]
            wanted = "all" if len(without) == len(known) else without
        if self.formula_.startswith("weights(") and WEIGHTS not in columns:
            columns[WEIGHTS] = np.ones(n)  # of a new response; its sd is that of weight one
        if wanted != "all":
            program = program.limited_to(wanted)
        needs = program.needs(response=False, companion=kind == "response")
        frame = read(columns, list(needs), program.missing)
        table = self.fit_.predict(frame, kind, interval, self.new_levels, self.seed, groups=wanted)
        return {str(name): np.asarray(table[name]) for name in table.columns}


def name_of(family: FamilyName | Mixture) -> str:
    """The name of a family; what is none is left to the registry, which refuses it."""
    return family.name if isinstance(family, Mixture) else family


def _is_dict(X: Rows) -> bool:
    """Whether X is a dict of columns; sparse arrays may be dicts too, but have a shape."""
    return isinstance(X, Mapping) and not hasattr(X, "shape")


def _is_table(X: Rows) -> bool:
    """Whether X has named columns: a DataFrame of pandas or polars, or a table of pyarrow."""
    names = _names(X)
    return bool(names) and all(isinstance(name, str) for name in names)


def _names(X: Rows) -> list[Any]:
    """The column names of a table; [] for an array."""
    if hasattr(X, "column_names"):
        return list(X.column_names)
    return list(getattr(X, "columns", []))


def _takes_precisions(family: FamilyName | Mixture) -> bool:
    """Whether a family has a scale that precision weights divide."""
    return "weights" in registry.load("family", name_of(family)).forms


def _one_for_each(name: str, values: Any, n: int) -> NDArray | None:
    """One value for each of n rows, or None.

    Raises:
        DataError: for another number of values, or more than one dimension.
    """
    if values is None:
        return None
    column = np.asarray(values)
    if column.ndim != 1:
        raise DataError(
            f"{name} must be one value for each row; put several groupings into X, and into the "
            "formula"
        )
    if len(column) != n:
        raise DataError(f"{name} has {len(column):,} values for {n:,} rows; give one for each row")
    return column


def _weights(sample_weight: Any, n: int) -> NDArray[np.float64] | None:
    """Weights of n rows, which are finite and not below zero, or None.

    Raises:
        DataError: naming the first weight that is not.
    """
    if sample_weight is None:
        return None
    given = np.asarray(sample_weight, np.float64)
    if given.ndim == 0:
        given = np.full(n, float(given))
    if given.shape != (n,):
        raise DataError(
            f"sample_weight has the shape {given.shape} for {n:,} rows; give one for each row"
        )
    bad = ~(np.isfinite(given) & (given >= 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"sample_weight is {given[row]} in row {row + 1}; weights must be finite and not below "
            "zero"
        )
    if not given.any():
        raise DataError("sample_weight is zero in every row; at least one must be above zero")
    return given


def _counts(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Weights as numbers of times that a row counts.

    Raises:
        DataError: for a weight that is no whole number.
    """
    odd = weights != np.round(weights)
    if odd.any():
        row = int(np.argmax(odd))
        raise DataError(
            f"sample_weight is {weights[row]:g} in row {row + 1}; for this family it says how "
            "often a row counts, so give whole numbers, or leave it out"
        )
    return weights.astype(np.int64)


def checked_response(y: Any, n: int, **options: Any) -> NDArray:
    """The response as one finite value for each of n rows.

    Raises:
        ValueError: in scikit-learn's words.
    """
    try:
        column = check_array(y, ensure_2d=False, input_name="y", **options)
    except ValueError as error:
        if "string" in str(error):
            raise DataError(
                "y holds texts, and a regressor takes numbers; use MixedClassifier for classes"
            ) from None
        raise
    column = column_or_1d(column, warn=True)
    check_consistent_length(np.empty((n, 1)), column)
    return column


def names_of(values: ArrayLike) -> list[str]:
    """Names of the classes, which have to differ as texts.

    Raises:
        DataError: for two classes of one name.
    """
    names = [str(value) for value in np.asarray(values).tolist()]
    if len(set(names)) < len(names):
        raise DataError("two classes have one name as texts; rename one of them")
    return names
