"""`MixedClassifier`: a mixed-effects model of classes as an estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets

from ranef.errors import DataError, OptionError
from ranef.names import MethodName, MethodOptions, NewLevels
from ranef.sklearn.base import MixedEstimator, Rows, checked_response, names_of

if TYPE_CHECKING:
    from typing import Self

    from ranef.priors import Prior

ClassFamily: TypeAlias = Literal["auto", "bernoulli", "categorical", "ordinal", "cumulative"]


class MixedClassifier(ClassifierMixin, MixedEstimator):
    """A Bayesian mixed-effects model of a class, as an estimator of scikit-learn.

        y_i ~ Bernoulli(link^-1(eta_i)),      or Categorical(softmax(0, eta_i2, ..., eta_iK))

    Rows and groups are given as for `MixedRegressor`. The classes are in sorted order, and the
    first of them is the reference: eta is the log odds of another class against it.

    Args:
        formula: the model in Wilkinson notation, such as "~ x + (1 | zip)" or "y ~ x + (1 | zip)".
            The y of `fit` is the column on its left side. By default all columns of X are common
            effects, and each grouping in `groups` has an intercept for each of its levels.
        family: "auto" for "bernoulli" with two classes and "categorical" with more, one of these
            two, or "ordinal" for classes whose sorted order has a meaning.
        groups: column or columns of X that are groupings, if there is no formula.
        priors: parameter name to prior, as for `ranef.Model`.
        networks: name to Keras model, as for `ranef.Model`. Every fit trains a copy, and the layers
            have to be ones that `ranef.Fit.save` can keep.
        missing: texts that stand for a missing level, as for `ranef.Model`.
        method: "auto", "laplace", "svi" or "nuts", as for `ranef.Model.fit`.
        draws: number of posterior draws, in each chain.
        seed: seed of all random numbers.
        new_levels: what predictions do with a level that did not occur in training: "sample"
            draws its effects from the normal distribution of the grouping's effects, "zero" sets
            them to zero, "error" refuses it.
        options: options of the method, by name, as for `ranef.Model.fit`.

    Attributes:
        classes_: the classes, in sorted order.
        fit_: the fit, a `ranef.Fit` with its summaries, checks and predictions.
        formula_: the formula that was fitted, response included.
        n_features_in_: number of columns of X.
        feature_names_in_: their names, for a table.
    """

    family: ClassFamily
    classes_: NDArray

    def __init__(
        self,
        formula: str | None = None,
        *,
        family: ClassFamily = "auto",
        groups: str | Sequence[str] | None = None,
        priors: Mapping[str, Prior | float] | None = None,
        networks: Mapping[str, object] | None = None,
        missing: Sequence[str] = (),
        method: MethodName = "auto",
        draws: int = 1000,
        seed: int = 0,
        new_levels: NewLevels = "sample",
        options: MethodOptions | None = None,
    ) -> None:
        self.formula = formula
        self.family = family
        self.groups = groups
        self.priors = priors
        self.networks = networks
        self.missing = missing
        self.method = method
        self.draws = draws
        self.seed = seed
        self.new_levels = new_levels
        self.options = options

    def fit(self, X: Rows, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """Fit the model.

        Args:
            X: a table with named columns, or an array of numbers (n, p).
            y: the class of each row, (n,), of any type that can be sorted.
            sample_weight: the number of times that each row counts, whole numbers (n,). Rows of
                weight zero are left out.
            groups: the group of each row, (n,). Without a formula there is an intercept for each
                group; a formula names them as groups, as in "~ x + (1 + x | groups)".

        Returns:
            The estimator itself.

        Raises:
            RanefError: one of its subclasses, as for `ranef.Model.fit`.
            ValueError: for rows that scikit-learn refuses, in its words.
        """
        if self.family not in get_args(ClassFamily):
            raise OptionError(
                "the family of a classifier must be one of "
                f"{', '.join(map(repr, get_args(ClassFamily)))}, not {self.family!r}; "
                "ranef.sklearn.MixedRegressor takes the others"
            )
        rows = self._read(X, y, sample_weight, groups)
        given = checked_response(y, rows.n, dtype=None)
        counted = given if rows.weights is None else given[rows.weights > 0]
        try:
            check_classification_targets(given)
            classes = np.unique(counted)
        except TypeError:
            raise DataError(
                "y has classes that cannot be sorted, such as texts beside numbers or None; "
                "convert them to one type"
            ) from None
        if len(classes) < 2:
            raise DataError(
                f"y has one class, {classes.tolist()[0]!r}; a classifier needs at least two"
            )
        if len(classes) > 2 and self.family == "bernoulli":
            raise OptionError(
                f"y has {len(classes)} classes, and the family 'bernoulli' takes two; use 'auto'"
            )
        # Rows of weight zero may have a class that no other row has.
        codes = np.where(np.isin(given, classes), np.searchsorted(classes, given), 0)
        response = pd.Categorical.from_codes(codes, names_of(classes), ordered=True)
        usual = "bernoulli" if len(classes) == 2 else "categorical"
        self._fit(rows, usual if self.family == "auto" else self.family, response)
        self.classes_ = classes
        return self

    def predict_proba(self, X: Rows, groups: Any = None) -> NDArray[np.float64]:
        """The posterior predictive probability of each class.

        Args:
            X: rows as for `fit`, without the response.
            groups: the group of each row, (n,), for a model that was fitted with groups. Without
                it, predictions are at the population level: the effects of groups are zero.

        Returns:
            The probabilities, (n, number of classes), in the order of `classes_`.

        Raises:
            RanefError: one of its subclasses, as for `ranef.Fit.predict`.
        """
        found = self._predicted(X, groups)
        of_classes = [values for name, values in found.items() if name.startswith("p[")]
        if of_classes:
            return np.column_stack(of_classes)
        return np.column_stack([1 - found["mean"], found["mean"]])

    def predict_log_proba(self, X: Rows, groups: Any = None) -> NDArray[np.float64]:
        """The logarithm of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X, groups))

    def predict(self, X: Rows, groups: Any = None) -> NDArray:
        """The most probable class of each row, (n,); arguments and errors as `predict_proba`."""
        best = np.argmax(self.predict_proba(X, groups), axis=1)
        return self.classes_[best]

    def score(self, X: Rows, y: Any, sample_weight: Any = None, groups: Any = None) -> float:
        """The share of rows whose most probable class is their own.

        Args:
            X: rows as for `predict_proba`.
            y: their classes, (n,).
            sample_weight: weights of the rows, (n,).
            groups: as for `predict_proba`.
        """
        predicted = self.predict(X, groups=groups)
        return float(accuracy_score(y, predicted, sample_weight=sample_weight))
