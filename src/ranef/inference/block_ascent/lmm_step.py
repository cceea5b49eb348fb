"""What the linear blocks of a Gaussian model say while its networks are held.

With f(x; w) known, y - f is a Gaussian mixed model: its scales are taken at the mode of their
posterior, coefficients integrated out, and the coefficients at their mean given these. What group
effects have in common is a common effect of its own (``parameter_expansion``), which the networks
take over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ranef.inference.block_ascent.parameter_expansion import CommonParts, of_unseen
from ranef.inference.hyperparameters.point_estimates import HyperDensity
from ranef.inference.lmm.degenerate_residual import refuse_without_residual
from ranef.inference.lmm.marginal_posterior import LMMHyperposterior
from ranef.inference.lmm.model import LinearMixedModel
from ranef.inference.lmm.sufficient_statistics import accumulate, batch_to_rows
from ranef.inference.pwls.cross_products import Centre, CrossProducts, cross_products
from ranef.inference.pwls.solver import PWLS
from ranef.lazy import jnp
from ranef.numerics.bfgs import minimise
from ranef.numerics.blas_threads import threads_for
from ranef.program.problem import Batch, Problem

Array = NDArray[np.float64]

# Nats that a further step of the search for the mode should gain.
_GAIN = 1e-3
# A scale near zero, where its posterior is flat, begins again at this share of the default.
_AGAIN = 0.3
# Columns of a dense matrix from which a search for the scales costs more than steps do.
_DEAR = 300


@dataclass(frozen=True)
class LMMUpdate:
    """The linear blocks given the networks.

    Attributes:
        mixed: the model of y - f.
        sites: scales and correlations at their mode, by site.
        sigma: of the residual.
        evidence: log p(theta, y - f) there, coefficients integrated out.
        common: (p,) posterior mean of the common effects, those of common parts the last.
        effects: by factor, (J, k).
        parts: what group effects have in common.
    """

    mixed: LinearMixedModel
    sites: Mapping[str, Any]
    sigma: float
    evidence: float
    common: Array
    effects: tuple[Array, ...]
    parts: CommonParts
    # A round's closed form needs nothing of the one before.
    begin: ClassVar[Mapping[str, Array]] = {}

    @classmethod
    def of(
        cls,
        problem: Problem,
        before: Mapping[str, Any],
        earlier: CrossProducts | None = None,
        *,
        patient: bool = True,
        parts: CommonParts | None = None,
    ) -> "LMMUpdate":
        """Given the networks that `problem` knows, from scales that were `before`, if any.

        `parts` are among the terms of the problem. `earlier` is of rows that count in addition to
        those of the problem. Without patience scales that are dear to search for stay as they were.

        Raises:
            MethodError: for a model that is not of this form.
            DataError: where there is nothing left for sigma.
        """
        mixed = accumulate(problem, "svi", earlier)
        refuse_without_residual(mixed, problem)
        with np.errstate(all="ignore"), threads_for(mixed.solver.largest):
            marginal = LMMHyperposterior.of(mixed, problem.priors, problem.residual_scale)
            start = marginal.start
            # Changes of networks first have a scale in the second round, in which those of effects
            # that stood in for the networks are no place to begin.
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

    def error(self, known: Problem, rows: Any, unseen: Mapping[str, NDArray[np.bool_]]) -> float:
        """Minus the mean log density of any rows, at the coefficients' means.

        The effects of levels that are `unseen` are integrated over their prior.
        """
        part = known.batch(rows)
        assert part.normal is not None
        away, v = self.residuals(part, known)
        changes = self.parts.changes(self.parts.features(known, rows[0]))
        added = self.parts.eta(part, changes, self.common, self.effects, unseen)
        away -= added.get(known.location, 0.0)
        blocks = of_unseen(part, unseen)
        if blocks is None:
            variance = self.sigma**2 / v
            return float(0.5 * np.mean(np.log(2 * np.pi * variance) + away**2 / variance))
        own = Batch(replace(part.normal, value=away), blocks)
        layout, sigma, given = batch_to_rows(own, known, "svi")
        products = cross_products(given, Centre.of(given))
        none = np.zeros(0)
        mixed = LinearMixedModel(
            *(PWLS(products), layout.groupings, (), (), none, none, sigma, len(away)),
            *(products.log_weights, float(products.common[-1, -1]), (0.0, 0.0)),
        )
        with np.errstate(all="ignore"), threads_for(mixed.solver.largest):
            marginal = LMMHyperposterior.of(mixed, known.priors, known.residual_scale)
            return -marginal.log_likelihood(marginal.coordinates.inverse(self.sites)) / len(away)

    def moves(self) -> dict[str, tuple[Array, float]]:
        """Changes of last layers, as `CommonParts.moves` has them."""
        return self.parts.moves(self.effects)

    def held(self, known: Problem, rows: Any, labels: Sequence[str]) -> tuple[Any, Any]:
        """What steps of the networks hold on to: arrays by row, and numbers for all of them.

        Args:
            known: the problem with the networks at hand.
            rows: that the steps are over.
            labels: of the terms that have networks.
        """
        part = known.batch(rows)
        target, v = self.residuals(part, known)
        coefficients = {}
        for label in labels:
            columns, coefficients[label] = shared(part, label, self.mixed, self.effects)
            target = target + columns @ coefficients[label]
        return {"target": target, "weights": v / self.sigma**2}, {"coefficients": coefficients}

    def residuals(self, part: Batch, problem: Problem) -> tuple[Array, Array]:
        """Y - eta of any rows, (n,), common parts apart, and the weight of each."""
        *_, rows = batch_to_rows(part, problem, "svi")
        away = rows.response - rows.common @ self.common[: rows.common.shape[1]]
        own = self.effects[: len(rows.factors)]
        for factor, effects in zip(rows.factors, own, strict=True):
            away -= np.einsum("nk,nk->n", factor.columns, effects[factor.codes])
        return away, np.ones(len(away)) if rows.weights is None else rows.weights


class LMMStep:
    """How networks in the mean of a Gaussian model are trained."""

    finish = "exact"

    def __init__(self, problem: Problem, *, one_window: bool) -> None:
        # Cross-products of several windows add up, and features change in between.
        self.problem, self.parts = problem, CommonParts.of(problem, features=one_window)

    def given(
        self,
        known: Problem,
        rows: Any,
        before: Mapping[str, Any],
        earlier: CrossProducts | None,
        *,
        patient: bool,
        silent: bool,
    ) -> LMMUpdate:
        """The linear blocks given the networks that `known` knows, from such rows.

        Without patience scales that are dear to search for stay as they were. Networks that are
        `silent` are not to be changed either.
        """
        part = known.batch(rows)
        n = len(part.normal.value) if part.normal else 0
        features = {} if silent else self.parts.features(known, rows[0])
        parts = self.parts.along(features)
        beside = parts.beside(part, parts.changes(features))
        own = replace(parts.problem(known), n=n, batches=lambda: iter([beside]))
        return LMMUpdate.of(own, before, earlier, patient=patient, parts=parts)

    def started(self, known: Problem, before: Mapping[str, Any]) -> Problem:
        """The problem itself: its posterior has one mode."""
        return known

    def loss(self, bases: Mapping[str, Any], rows: Any, fixed: Any) -> Any:
        """Mean over a minibatch of v (y - eta)^2 / (2 sigma^2)."""
        eta = sum(bases[label] @ c for label, c in fixed["coefficients"].items())
        return 0.5 * jnp.mean(rows["weights"] * (rows["target"] - eta) ** 2)


def shared(
    part: Batch, label: str, mixed: LinearMixedModel, effects: Sequence[Array]
) -> tuple[Array, Array]:
    """Columns (n, k) of a block that all rows share, and their coefficients (k,)."""
    block = part.blocks[label]
    assert block is not None
    coefficients = np.asarray(block.mean, dtype=np.float64)
    for grouping in mixed.groupings:
        if grouping.label == label:
            coefficients = effects[grouping.factor][0, grouping.columns]
    return np.asarray(block.columns), coefficients


def away_from_zero(x: Array, density: Any) -> Array:
    """Where a search begins that was at x (d,): at a scale of zero the density is flat.

    A search that ended there in a round whose networks had not learned much would stay.
    """
    again = density.coordinates.folded
    out = x.copy()
    out[again] = np.maximum(np.abs(x[again]), _AGAIN * density.start[again])
    return out


def mode(marginal: HyperDensity, start: Array) -> tuple[Array, float]:
    """Of the scales, and their log density there."""

    def negative(x: Array) -> tuple[float, Array]:
        value, gradient = marginal.value_and_gradient(x)
        return -value, -gradient

    found = minimise(negative, start, gain=_GAIN, width=marginal.width)
    return found.x, -found.value
