"""`MixedRegressor`: a mixed-effects model of numbers as an estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

from ranef.errors import OptionError
from ranef.names import FamilyName, MethodName, MethodOptions, NewLevels
from ranef.sklearn.base import MixedEstimator, Rows, checked_response, name_of

if TYPE_CHECKING:
    from typing import Self

    from ranef.families.mixture_spec import Mixture
    from ranef.priors import Prior

# Families whose response is a class.
_OF_CLASSES = ("bernoulli", "categorical")


class MixedRegressor(RegressorMixin, MixedEstimator):
    """A Bayesian mixed-effects model of a number, as an estimator of scikit-learn.

        y_i ~ Family(link^-1(eta_i), ...),    eta = common effects + group effects + other terms

    Rows are given as a table with named columns, which the formula names, or as an array, whose
    columns are called x0, x1, and so on. Groups are columns of the table, or are passed beside X,
    as in ``fit(X, y, groups=g)``.

    Args:
        formula: the model in Wilkinson notation, such as "~ x + (1 | zip)" or "y ~ x + (1 | zip)".
            The y of `fit` is the column on its left side. By default all columns of X are common
            effects, and each grouping in `groups` has an intercept for each of its levels.
        family: the distribution of the response, as for `ranef.Model`.
        groups: column or columns of X that are groupings, if there is no formula.
        priors: parameter name to prior, as for `ranef.Model`.
        networks: name to Keras model, as for `ranef.Model`. Every fit trains a copy, and the layers
            have to be ones that `ranef.Fit.save` can keep.
        missing: texts that stand for a missing level, as for `ranef.Model`.
        method: "auto", "exact", "laplace", "svi" or "nuts", as for `ranef.Model.fit`.
        draws: number of posterior draws, in each chain.
        seed: seed of all random numbers.
        new_levels: what predictions do with a level that did not occur in training: "sample"
            draws its effects from the normal distribution of the grouping's effects, "zero" sets
            them to zero, "error" refuses it.
        options: options of the method, by name, as for `ranef.Model.fit`.

    Attributes:
        fit_: the fit, a `ranef.Fit` with its summaries, checks and predictions.
        formula_: the formula that was fitted, response included.
        n_features_in_: number of columns of X.
        feature_names_in_: their names, for a table.
    """

    family: FamilyName | Mixture

    def __init__(
        self,
        formula: str | None = None,
        *,
        family: FamilyName | Mixture = "gaussian",
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
            y: the response, (n,).
            sample_weight: the weight of each row. For the families gaussian and student it is a
                precision: the scale of row i is sigma / sqrt(w_i), as with weights(y, w) in a
                formula. For any other family it is the number of times that the row counts, a
                whole number. Rows of weight zero are left out.
            groups: the group of each row, (n,). Without a formula there is an intercept for each
                group; a formula names them as groups, as in "~ x + (1 + x | groups)".

        Returns:
            The estimator itself.

        Raises:
            RanefError: one of its subclasses, as for `ranef.Model.fit`.
            ValueError: for rows that scikit-learn refuses, in its words.
        """
        name = name_of(self.family)
        if name in _OF_CLASSES:
            raise OptionError(
                f"the response of the family {name!r} is a class; use ranef.sklearn.MixedClassifier"
            )
        rows = self._read(X, y, sample_weight, groups)
        response = checked_response(y, rows.n, dtype="numeric").astype(np.float64)
        return self._fit(rows, self.family, response)

    def predict(
        self, X: Rows, return_std: bool = False, groups: Any = None
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The posterior mean of the mean of each row's response.

        Args:
            X: rows as for `fit`, without the response.
            return_std: whether to return the sd of a new response beside it. It comprises the
                uncertainty about all parameters and the residual.
            groups: the group of each row, (n,), for a model that was fitted with groups. Without
                it, predictions are at the population level: the effects of groups are zero.

        Returns:
            The means, (n,), or a tuple of the means and the sds.

        Raises:
            RanefError: one of its subclasses, as for `ranef.Fit.predict`.
        """
        mean = self._predicted(X, groups)["mean"]
        if not return_std:
            return mean
        return mean, self._predicted(X, groups, kind="response")["sd"]

    def predict_interval(
        self, X: Rows, interval: float = 0.9, groups: Any = None
    ) -> NDArray[np.float64]:
        """The central interval of a new response in each row.

        Args:
            X: rows as for `predict`.
            interval: probability of the interval.
            groups: as for `predict`.

        Returns:
            Lower and upper bounds, (n, 2).

        Raises:
            RanefError: one of its subclasses, as for `ranef.Fit.predict`.
        """
        found = self._predicted(X, groups, kind="response", interval=interval)
        return np.column_stack([found["lower"], found["upper"]])

    def score(self, X: Rows, y: Any, sample_weight: Any = None, groups: Any = None) -> float:
        """The coefficient of determination of `predict`, 1 - sum (y - m)^2 / sum (y - mean y)^2.

        Args:
            X: rows as for `predict`.
            y: their responses, (n,).
            sample_weight: weights of the squares, (n,).
            groups: as for `predict`.
        """
        return float(r2_score(y, self.predict(X, groups=groups), sample_weight=sample_weight))
