"""Closed-form step of block ascent for a Gaussian response: the linear blocks given the networks.

Given the networks f(x; w), y - f follows a Gaussian mixed model. The step computes the mode of the
posterior of its hyperparameters theta (scales and correlations), with all coefficients integrated
out, and the posterior mean of the coefficients at this mode. The mean of the group effects is a
common effect of its own (``parameter_expansion``), which the networks take over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypedDict

import numpy as np

from ranef.inference.block_ascent.parameter_expansion import (
    CommonParts,
    Effects,
    LayerChange,
    UnseenLevels,
    of_unseen,
)
from ranef.inference.glmm.arrays import Array, CommonEffects, PerRow, Point, SiteValues
from ranef.inference.hyperparameters.point_estimates import HyperDensity
from ranef.inference.lmm.degenerate_residual import refuse_without_residual
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior
from ranef.inference.lmm.model import LinearMixedModel
from ranef.inference.lmm.sufficient_statistics import accumulate, batch_to_rows
from ranef.inference.pwls.cross_products import Centre, CrossProducts, cross_products
from ranef.inference.pwls.solver import PWLS
from ranef.lazy import Array as JaxArray
from ranef.lazy import jnp
from ranef.numerics.bfgs import minimise
from ranef.numerics.blas_threads import threads_for
from ranef.numerics.shapes import Float
from ranef.program.problem import Batch, Problem
from ranef.program.training import Rows

# The search for the mode of theta ends when a further step would gain less than this, in nats.
_GAIN = 1e-3
# The search starts no scale below this share of its default start, because the posterior is flat
# near zero.
_AGAIN = 0.3
# Size of the largest dense matrix of the solver above which the search for the scales costs more
# than the gradient steps of a round.
_DEAR = 300


class LMMLossRows(TypedDict):
    """What the gradient steps of the networks hold fixed, by row.

    Attributes:
        target: (n,) the response less all terms but the networks.
        weights: (n,) v / sigma^2.
    """

    target: JaxArray | Array
    weights: JaxArray | Array


class LMMLossNumbers(TypedDict):
    """What the gradient steps of the networks hold fixed for all rows.

    Attributes:
        coefficients: (k,) of the columns of each network, by label.
    """

    coefficients: Mapping[str, JaxArray | Array]


@dataclass(frozen=True)
class LMMUpdate:
    """The `ClosedFormUpdate` for a Gaussian response.

    Attributes:
        mixed: the mixed model of y - f, with its cross-products.
        sites: scales and correlations at their mode, by site.
        sigma: residual sd.
        evidence: log p(theta, y - f) at the mode in nats, coefficients integrated out.
        common: posterior mean of the common effects, those of common parts at the end.
        effects: posterior means of the effects by factor.
        parts: common parts of group effects, and changes of last layers.
    """

    mixed: LinearMixedModel
    sites: SiteValues
    sigma: float
    evidence: float
    common: CommonEffects
    effects: Effects
    parts: CommonParts

    @property
    def begin(self) -> Mapping[str, Array]:
        """Nothing: the next round starts from the hyperparameters alone."""
        return {}

    @classmethod
    def of(
        cls,
        problem: Problem,
        before: SiteValues,
        earlier: CrossProducts | None = None,
        *,
        patient: bool = True,
        parts: CommonParts | None = None,
    ) -> "LMMUpdate":
        """The linear blocks of a problem with known networks.

        Args:
            problem: the model and its rows.
            before: hyperparameters of an earlier round by site, the warm start; may be empty.
            earlier: cross-products of further rows, added to those of the problem.
            patient: whether to search for the mode even if that is expensive. Otherwise
                expensive hyperparameters stay at `before`.
            parts: the common parts, which are among the terms of the problem.

        Raises:
            MethodError: for a model that is not of this form.
            DataError: if the common effects fit the response exactly, so that no residual is left.
        """
        mixed = accumulate(problem, "svi", earlier)
        refuse_without_residual(mixed, problem)
        with np.errstate(all="ignore"), threads_for(mixed.solver.largest):
            marginal = LMMHyperposterior.of(mixed, problem.priors, problem.residual_scale)
            start = marginal.start
            # Changes of last layers have a scale from the second closed form on. The scales
            # before that belong to effects that absorbed what the networks should learn, and are
            # no warm start.
            known = before if set(before) >= set(marginal.sites(start)) else {}
            if known:
                start = away_from_zero(marginal.coordinates.inverse(known), marginal)
            if known and not patient and mixed.solver.largest > _DEAR:
                x = marginal.coordinates.inverse(known)
                evidence = float(marginal.log_density(x[None])[0])
            else:
                x, evidence = mode(marginal, start)
            solution, sigma = marginal.solve(x)
        return cls(
            mixed,
            marginal.sites(x),
            float(sigma[0]),
            evidence,
            solution.common[0],
            tuple(effects[0] for effects in solution.effects),
            parts or CommonParts({}, {}, {}, {}),
        )

    def error(self, known: Problem, rows: Rows, unseen: UnseenLevels) -> float:
        """Minus the mean log density of rows, at the posterior means of the coefficients."""
        batch = known.batch(rows)
        assert batch.normal is not None
        away, v = self.residuals(batch, known)
        changes = self.parts.changes(self.parts.features(known, rows.designs))
        added = self.parts.eta(batch, changes, self.common, self.effects, unseen)
        away -= added.get(known.location, 0.0)
        blocks = of_unseen(batch, unseen)
        if blocks is None:
            variance = self.sigma**2 / v
            return float(0.5 * np.mean(np.log(2 * np.pi * variance) + away**2 / variance))
        own = Batch(replace(batch.normal, value=away), blocks)
        layout, sigma, row_batch = batch_to_rows(own, known, "svi")
        products = cross_products(row_batch, Centre.of(row_batch))
        none = np.zeros(0)
        mixed = LinearMixedModel(
            *(PWLS(products), layout.groupings, (), (), none, none, sigma, len(away)),
            *(products.log_weights, float(products.common[-1, -1]), (0.0, 0.0)),
        )
        with np.errstate(all="ignore"), threads_for(mixed.solver.largest):
            marginal = LMMHyperposterior.of(mixed, known.priors, known.residual_scale)
            return -marginal.log_likelihood(marginal.coordinates.inverse(self.sites)) / len(away)

    def log_density(self, known: Problem, rows: Rows) -> PerRow:
        """Log N(y_i; eta_i, sigma^2 / v_i) of each row."""
        away, v = self.residuals(known.batch(rows), known)
        variance = self.sigma**2 / v
        return -0.5 * (np.log(2 * np.pi * variance) + away**2 / variance)

    def moves(self) -> dict[str, LayerChange]:
        """Changes of last layers by label, as from `CommonParts.moves`."""
        return self.parts.moves(self.effects)

    def loss_arguments(
        self, known: Problem, rows: Rows, labels: Sequence[str]
    ) -> tuple[LMMLossRows, LMMLossNumbers]:
        """What the gradient steps of the networks hold fixed."""
        batch = known.batch(rows)
        target, v = self.residuals(batch, known)
        coefficients: dict[str, JaxArray | Array] = {}
        for label in labels:
            columns, coefficients[label] = shared(batch, label, self.mixed, self.effects)
            target = target + columns @ coefficients[label]
        return {"target": target, "weights": v / self.sigma**2}, {"coefficients": coefficients}

    def residuals(self, batch: Batch, problem: Problem) -> tuple[PerRow, PerRow]:
        """Residuals y - eta of the rows of a batch, and their weights v.

        Common parts and changes of last layers are left out of eta.
        """
        *_, rows = batch_to_rows(batch, problem, "svi")
        away = rows.response - rows.common @ self.common[: rows.common.shape[1]]
        own = self.effects[: len(rows.factors)]
        for factor, effects in zip(rows.factors, own, strict=True):
            away -= np.einsum("nk,nk->n", factor.columns, effects[factor.codes])
        return away, np.ones(len(away)) if rows.weights is None else rows.weights


class LMMStep:
    """The `ClosedFormStep` for networks in the mean of a Gaussian response.

    Args:
        problem: the model and its rows.
        one_window: whether every round has all rows. Only then may last layers change in closed
            form.
    """

    finish: ClassVar[str] = "exact"

    def __init__(self, problem: Problem, *, one_window: bool) -> None:
        # With several windows, cross-products are accumulated over rounds between which the
        # features of the networks change.
        self.problem, self.parts = problem, CommonParts.of(problem, features=one_window)

    def update(
        self,
        known: Problem,
        rows: Rows,
        before: SiteValues,
        earlier: CrossProducts | None,
        *,
        patient: bool,
        silent: bool,
    ) -> LMMUpdate:
        """The linear blocks given the networks; refuses common effects that leave no residual."""
        batch = known.batch(rows)
        n = len(batch.normal.value) if batch.normal else 0
        features = {} if silent else self.parts.features(known, rows.designs)
        parts = self.parts.along(features)
        beside = parts.beside(batch, parts.changes(features))
        own = replace(parts.problem(known), n=n, batches=lambda: iter([beside]))
        return LMMUpdate.of(own, before, earlier, patient=patient, parts=parts)

    def started(self, known: Problem, before: SiteValues) -> Problem:
        """The problem itself, because the posterior of the coefficients has one mode."""
        return known

    def loss(
        self,
        bases: Mapping[str, Float[JaxArray, "n _"]],
        rows: LMMLossRows,
        fixed: LMMLossNumbers,
    ) -> Float[JaxArray, ""]:
        """Mean over a minibatch of v (y - eta)^2 / (2 sigma^2)."""
        eta = sum(bases[label] @ c for label, c in fixed["coefficients"].items())
        return 0.5 * jnp.mean(rows["weights"] * (rows["target"] - eta) ** 2)


def shared(
    batch: Batch, label: str, mixed: LinearMixedModel, effects: Effects
) -> tuple[Float[Array, "n k"], Float[Array, "k"]]:
    """Columns of a block without levels, and their coefficients.

    The coefficients are posterior means if the model infers them, else prior means.

    Args:
        batch: the rows.
        label: label of the term.
        mixed: the mixed model of the linear blocks.
        effects: effects by factor.
    """
    block = batch.blocks[label]
    assert block is not None
    coefficients = np.asarray(block.mean, dtype=np.float64)
    for grouping in mixed.groupings:
        if grouping.label == label:
            coefficients = effects[grouping.factor][0, grouping.columns]
    return np.asarray(block.columns), coefficients


def away_from_zero(x: Point, density: HyperDensity) -> Point:
    """A warm start x with its scales moved away from zero.

    The density of a scale is flat at zero. A scale that was zero in a round in which the networks
    had not learned much would otherwise stay there.
    """
    again = density.coordinates.folded
    out = x.copy()
    out[again] = np.maximum(np.abs(x[again]), _AGAIN * density.start[again])
    return out


def mode(marginal: HyperDensity, start: Point) -> tuple[Point, float]:
    """The mode of a hyperposterior by BFGS.

    Args:
        marginal: log density of theta and its gradient.
        start: where the search begins.

    Returns:
        The mode, and the log density there.
    """

    def negative(x: Point) -> tuple[float, Point]:
        value, gradient = marginal.value_and_gradient(x)
        return -value, -gradient

    found = minimise(negative, start, gain=_GAIN, width=marginal.width)
    return found.x, -found.value
