"""The closed-form step of a round of block ascent, which solves all that is linear.

`LMMStep` takes Gaussian responses whose mean alone has a predictor, `GLMMStep` all others. J is the
number of levels of a grouping, n that of rows and p that of common effects.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from ranef.inference.block_ascent.glmm_step import GLMMStep
from ranef.inference.block_ascent.lmm_step import LMMStep
from ranef.inference.block_ascent.parameter_expansion import (
    CommonParts,
    LayerChange,
    UnseenLevels,
)
from ranef.inference.glmm.arrays import Array, PerRow, SiteValues
from ranef.inference.lmm.model import LinearMixedModel
from ranef.inference.pwls.cross_products import CrossProducts
from ranef.lazy import Array as JaxArray
from ranef.numerics.shapes import Float
from ranef.program.problem import Problem
from ranef.program.training import Rows

# What the gradient steps of the networks hold fixed: arrays by row, (n, ...) by name, and numbers
# for all rows by name.
LossArguments = tuple[Mapping[str, object], Mapping[str, object]]


@runtime_checkable
class ClosedFormUpdate(Protocol):
    """The linear blocks given the networks: hyperparameters at their mode, coefficients there."""

    @property
    def mixed(self) -> LinearMixedModel:
        """The mixed model of the linear blocks."""
        ...

    @property
    def sites(self) -> SiteValues:
        """The hyperparameters at their mode, by site."""
        ...

    @property
    def begin(self) -> Mapping[str, Array]:
        """Further starting values for the next round, by keys that begin with "/"."""
        ...

    @property
    def evidence(self) -> float:
        """Log p(theta, y | w) at the mode in nats, all coefficients integrated out."""
        ...

    def error(self, known: Problem, rows: Rows, unseen: UnseenLevels) -> float:
        """Minus the mean log density of rows, the effects of unseen levels integrated out.

        Args:
            known: the problem with known networks.
            rows: any rows.
            unseen: (J,) whether no training row has a level, by grouping.

        Returns:
            The error in nats per row.
        """
        ...

    def log_density(self, known: Problem, rows: Rows) -> PerRow:
        """Log density of each row in nats, at the posterior means of the coefficients.

        Common parts of group effects and changes of last layers are left out.

        Args:
            known: the problem with known networks.
            rows: any rows of known levels.
        """
        ...

    def moves(self) -> dict[str, LayerChange]:
        """Changes of last layers by label."""
        ...

    def loss_arguments(self, known: Problem, rows: Rows, labels: Sequence[str]) -> LossArguments:
        """What the gradient steps of the networks hold fixed, the arguments of `loss`.

        Args:
            known: the problem with known networks.
            rows: the rows of the steps.
            labels: labels of the terms that have networks.
        """
        ...


@runtime_checkable
class ClosedFormStep(Protocol):
    """Solves for the linear blocks given the networks, and has the loss of the networks.

    Attributes:
        finish: name of the method that computes the posterior at the end.
    """

    finish: ClassVar[str]

    @property
    def parts(self) -> CommonParts:
        """The common parts of group effects, which networks may take over."""
        ...

    def update(
        self,
        known: Problem,
        rows: Rows,
        before: SiteValues,
        earlier: CrossProducts | None,
        *,
        patient: bool,
        silent: bool,
    ) -> ClosedFormUpdate:
        """The linear blocks given the networks.

        Args:
            known: the problem with known networks.
            rows: the rows of the round.
            before: `sites` and `begin` of the round before; empty in the first.
            earlier: cross-products of earlier windows, or None. Only Gaussian models use them.
            patient: whether to search for the mode of the hyperparameters even if that is
                expensive; otherwise they may stay at `before`.
            silent: whether the networks add nothing, so that their last layers do not change.

        Raises:
            DataError: if there is no finite posterior, or no residual is left.
        """
        ...

    def started(self, known: Problem, before: SiteValues) -> Problem:
        """The problem from which the last method starts where a round ended."""
        ...

    def loss(
        self, bases: Mapping[str, Float[JaxArray, "n _"]], rows: Any, fixed: Any
    ) -> Float[JaxArray, ""]:
        """Minus the mean expected log density of a minibatch, up to a constant, in nats.

        Args:
            bases: columns of the networks by label.
            rows: arrays by row, the first of what `ClosedFormUpdate.loss_arguments` returns.
            fixed: numbers for all rows, the second of it.
        """
        ...


def is_gaussian(problem: Problem) -> bool:
    """Whether the response is normal and its mean is the only parameter with a predictor."""
    if problem.normal() is None:
        return False
    return all(problem.predicts[label] == problem.location for label in problem.predicts)


def step_for(problem: Problem) -> type[LMMStep] | type[GLMMStep]:
    """The class of the closed-form step that suits a model."""
    return LMMStep if is_gaussian(problem) else GLMMStep
