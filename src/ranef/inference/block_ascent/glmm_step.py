"""What the linear blocks of any family say while its networks are held.

As ``lmm_step`` for a Gaussian model: hyperparameters at the mode of their posterior, the
coefficients' posterior given these the nearest normal one (``glmm.gaussian_approximation``). The
networks then take steps on

    -mean_i E log p(y_i | f(x_i; w) + r_i),     r_i ~ N(m_i, C_i)

r_i being what the linear blocks add to the predictors of row i.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError
from ranef.inference.block_ascent.lmm_step import away_from_zero, mode, shared
from ranef.inference.block_ascent.minibatches import kept
from ranef.inference.block_ascent.parameter_expansion import CommonParts, of_unseen, rows_of_unseen
from ranef.inference.glmm.expected_log_density import averages_of, root_of
from ranef.inference.glmm.gaussian_approximation import GaussianPosterior
from ranef.inference.glmm.marginal_posterior import GLMMHyperposterior
from ranef.inference.glmm.reweighted_products import ReweightedProducts
from ranef.inference.lmm.design_layout import DesignLayout
from ranef.inference.pwls.cross_products import CrossProducts
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.lazy import jnp
from ranef.numerics.blas_threads import threads_for
from ranef.numerics.gauss_hermite import rule
from ranef.program.problem import Batch, Problem

Array = NDArray[np.float64]

# Nodes of the averages behind a step.
_NODES = 3
# What a round hands to the next beside its scales: what the blocks add to each predictor, on the
# mean; how many rounds there were; coefficients, those of factors by their number. No site has
# such a name.
_STARTS, _HELD, _COMMON, _EFFECTS = "/starts", "/rounds", "/common", "/effects"
# Nats that a round may leave to gain: the networks move it by more.
_LEFT = 0.003
# Rounds in which the components of a response stay where they began: before the networks tell
# rows apart, the closed form would make most of them empty.
_FIRST = 6
# The most rows whose linear blocks are gone through in every round.
MOST = 2_000_000


@dataclass(frozen=True)
class GLMMUpdate:
    """The linear blocks given the networks.

    Attributes:
        density: of the hyperparameters.
        sites: these at their mode, by site.
        begin: where the search for q in the next round begins.
        q: the normal posterior of the coefficients there.
        evidence: log p(theta, y | w) there, by the bound that q gives.
        places: of each term, the place of its predictor.
        parts: what group effects have in common.
        changes: what `parts.changes` says of the rows.
    """

    density: GLMMHyperposterior
    sites: Mapping[str, Any]
    begin: Mapping[str, Array]
    q: GaussianPosterior
    evidence: float
    places: Mapping[str, int]
    parts: CommonParts
    changes: Mapping[str, Array]

    @property
    def mixed(self) -> Any:
        return self.density.mixed

    @property
    def _effects(self) -> tuple[Array, ...]:
        return tuple(b[0] for b in self.q.solution.effects)

    @property
    def _numbers(self) -> dict[str, Any]:
        return {name: self.sites[name] for name in self.density.numbers}

    def error(self, known: Problem, rows: Any, unseen: Mapping[str, NDArray[np.bool_]]) -> float:
        """Minus the mean log density of any rows, at the coefficients' means.

        The effects of levels that are `unseen` are integrated over their prior, by the bound that
        the nearest normal gives.
        """
        part = known.batch(rows)
        n = len(rows[1].value)
        layout = DesignLayout.of(part.blocks, n, known, "svi")
        eta = ReweightedProducts(layout).layout.known.copy()
        common = self.q.solution.common[0]
        for c, k in enumerate(layout.predictor):
            eta[:, k] += layout.columns[:, c] * common[c]
        changes = self.parts.changes(self.parts.features(known, rows[0]))
        own = self.parts.eta(part, changes, common, self._effects, unseen)
        for name, added in own.items():
            eta[:, layout.predictors.index(name)] += added
        none = replace(layout, columns=layout.columns[:, :0], predictor=layout.predictor[:0])
        none = replace(none, known=eta)
        eta = ReweightedProducts(none).predictors(np.zeros(0), self._effects[: len(layout.factors)])
        new = rows_of_unseen(part, unseen)
        total = self._of_unseen(known, kept(rows, new), part.keep(new), eta[new], unseen)
        if total is None:
            new, total = np.zeros(n, bool), 0.0
        averages = averages_of(known.family, kept(rows[1], ~new), layout.predictors)
        return -(total + averages.at(self._numbers, eta[~new])) / n

    def _of_unseen(
        self,
        known: Problem,
        rows: Any,
        part: Batch,
        eta: Array,
        unseen: Mapping[str, NDArray[np.bool_]],
    ) -> float | None:
        """The log density of rows that all have an unseen level, `eta` being all else.

        None where there are no such rows, or no normal posterior of their effects is found.
        """
        blocks = of_unseen(part, unseen) if len(eta) else None
        if blocks is None:
            return None
        for k, name in enumerate(dict.fromkeys(known.predicts[label] for label in blocks)):
            first = next(label for label in blocks if known.predicts[label] == name)
            blocks[first] = replace(blocks[first], known=eta[:, k])
        own = replace(known, data=rows, n=len(eta), unit_blocks=lambda: blocks)
        density = GLMMHyperposterior.of(own, "svi")
        density.left = _LEFT
        with np.errstate(all="ignore"), threads_for(density.mixed.solver.largest):
            q = density.near(density.coordinates.inverse(self.sites))
        return None if q is None else q.value

    def moves(self) -> dict[str, tuple[Array, float]]:
        """Changes of last layers, as `CommonParts.moves` has them."""
        return self.parts.moves(self._effects)

    def held(self, known: Problem, rows: Any, labels: Sequence[str]) -> tuple[Any, Any]:
        """As of a Gaussian model."""
        part = known.batch(rows)
        rest = self.q.mean.copy()
        # What group effects have in common is left to the networks.
        names = list(dict.fromkeys(known.predicts[label] for label in part.blocks))
        common, changes = self.q.solution.common[0], self.changes
        for name, added in self.parts.eta(part, changes, common, self._effects, {}).items():
            rest[:, names.index(name)] -= added
        coefficients = {}
        for label in labels:
            columns, coefficients[label] = shared(part, label, self.mixed, self._effects)
            rest[:, self.places[label]] -= columns @ coefficients[label]
        response = rows[1]
        root = np.asarray(root_of(jnp.asarray(self.q.covariance)))
        return (
            {"rest": rest, "root": root, "response": response},
            {"coefficients": coefficients, "numbers": self._numbers},
        )


class GLMMStep:
    """How networks in the predictors of any family are trained."""

    finish = "laplace"

    def __init__(self, problem: Problem, *, one_window: bool) -> None:
        self.problem, self.parts = problem, CommonParts.of(problem, features=one_window)
        predictors = tuple(
            dict.fromkeys(problem.predicts[label] for label in problem.unit_blocks())
        )
        self._predictors = predictors
        self._places = {n: predictors.index(p) for n, p in problem.predicts.items()}

    def given(
        self,
        known: Problem,
        rows: Any,
        before: Mapping[str, Any],
        earlier: CrossProducts | None,
        *,
        patient: bool,
        silent: bool,
    ) -> GLMMUpdate:
        """The linear blocks given the networks that `known` knows, from such rows.

        Without patience scales that are dear to search for stay as they were. Networks that are
        `silent` are not to be changed either.
        """
        part = known.batch(rows)
        features = {} if silent else self.parts.features(known, rows[0])
        parts = self.parts.along(features)
        changes = parts.changes(features)
        beside = parts.beside(part, changes)
        own = replace(
            parts.problem(known),
            data=rows,
            n=len(rows[1].value),
            unit_blocks=lambda: beside.blocks,
        )
        own = self.started(own, before)
        try:
            density = GLMMHyperposterior.of(own, "svi")
            density.left = _LEFT
            with np.errstate(all="ignore"), threads_for(density.mixed.solver.largest):
                scales = {name: v for name, v in before.items() if not name.startswith("/")}
                if _COMMON in before:
                    factors = density.working.layout.factors
                    old = len(factors) - len(changes)
                    effects = (
                        *(before[f"{_EFFECTS}/{f}"] for f in range(old)),
                        # Those of changes would be along the directions of the round before.
                        *(np.zeros((1, own.shape[1])) for own in changes.values()),
                    )
                    density.working = density.working.warm_started(before[_COMMON], effects)
                x = density.coordinates.inverse({**density.sites(density.start), **scales})
                held = int(before.get(_HELD, 0))
                if known.family.parts() and held < _FIRST:
                    q = density.initial_posterior(x)
                    value = q.value
                else:
                    if patient and len(x):
                        x, _ = mode(density, away_from_zero(x, density))
                    value = float(density.log_density(x[None])[0])
                    q = density.near(x) or density.fit(x)
        except (ArithmeticError, DependentColumnError, np.linalg.LinAlgError):
            raise DataError(
                "svi ended where the linear terms have no finite posterior given the networks; "
                "check the scale of the columns, or take smaller steps by optimizer="
            ) from None
        starts = (q.mean - density.working.layout.known).mean(axis=0)
        begin = {_STARTS: starts, _HELD: np.array(held + 1.0), _COMMON: q.solution.common[0]}
        begin |= {f"{_EFFECTS}/{f}": b[0] for f, b in enumerate(q.solution.effects)}
        return GLMMUpdate(density, density.sites(x), begin, q, value, self._places, parts, changes)

    def started(self, known: Problem, before: Mapping[str, Any]) -> Problem:
        """The problem whose search begins where a round ended.

        Where the log density is not concave a search from elsewhere may end in another mode, which
        the networks are not of.
        """
        if _STARTS not in before:
            return known
        scales = dict(known.predictor_scales)
        for name, start in zip(self._predictors, before[_STARTS], strict=True):
            scales[name] = replace(scales[name], away=float(start) - scales[name].location)
        return replace(known, predictor_scales=scales)

    def loss(self, bases: Mapping[str, Any], rows: Any, fixed: Any) -> Any:
        """Mean over a minibatch of -E log p."""
        eta = rows["rest"]
        for label, c in fixed["coefficients"].items():
            eta = eta.at[:, self._places[label]].add(bases[label] @ c)
        points, weights = rule(eta.shape[1], _NODES if eta.shape[1] == 1 else 0)
        law = self.problem.family
        numbers = law.on_link_scale(**fixed["numbers"])
        total = 0.0
        for point, weight in zip(points, weights, strict=True):
            moved = eta + jnp.einsum("nkl,l->nk", rows["root"], point)
            each = {name: moved[:, k] for k, name in enumerate(self._predictors)}
            density = law.log_density(rows["response"], **each, **numbers)
            total = total + weight * jnp.mean(density)
        return -total
