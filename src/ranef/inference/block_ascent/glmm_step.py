"""Closed-form step of block ascent for any family: the linear blocks given the networks.

The step computes the mode of the posterior of the hyperparameters theta (scales, correlations,
family parameters) and, at this mode, the variational Gaussian approximation q of the coefficients
(``glmm.gaussian_approximation``). The networks then take gradient steps on

    -mean_i E log p(y_i | f(x_i; w) + r_i),     r_i ~ N(m_i, C_i)

where r_i is the contribution of the linear blocks to the predictors of row i under q.
``lmm_step`` is the same step for a Gaussian response.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypedDict

import numpy as np

from ranef.errors import DataError
from ranef.families.response_design import ResponseDesign
from ranef.inference.block_ascent.lmm_step import away_from_zero, mode, shared
from ranef.inference.block_ascent.minibatches import kept
from ranef.inference.block_ascent.parameter_expansion import (
    Columns,
    CommonParts,
    Effects,
    LayerChange,
    UnseenLevels,
    of_unseen,
    rows_of_unseen,
)
from ranef.inference.glmm.arrays import Array, FamilyValues, PerRow, Predictors, SiteValues
from ranef.inference.glmm.expected_log_density import expected_log_density_of, root_of
from ranef.inference.glmm.gaussian_approximation import GaussianPosterior
from ranef.inference.glmm.marginal_posterior import GLMMHyperposterior
from ranef.inference.glmm.reweighted_products import ReweightedProducts
from ranef.inference.lmm.design_layout import DesignLayout
from ranef.inference.lmm.model import LinearMixedModel
from ranef.inference.pwls.cross_products import CrossProducts
from ranef.inference.pwls.schur_complement import DependentColumnError
from ranef.lazy import Array as JaxArray
from ranef.lazy import jax, jnp
from ranef.numerics.blas_threads import threads_for
from ranef.numerics.gauss_hermite import rule
from ranef.numerics.shapes import Float
from ranef.program.problem import Batch, Problem
from ranef.program.training import Rows

# Gauss-Hermite nodes of the loss of a gradient step for one predictor. Several predictors use a
# rule of degree three.
_NODES = 3
# Keys under which a round hands starting values to the next, beside the hyperparameters by site.
# No site has a name that begins with "/".
# Mean contribution of the linear blocks to each predictor.
_STARTS = "/starts"
# Number of rounds so far.
_HELD = "/rounds"
# Posterior mean of the common effects.
_COMMON = "/common"
# Posterior means of the effects of a factor, followed by "/" and the number of the factor.
_EFFECTS = "/effects"
# The search for q may stop with this many nats left to gain. The next steps of the networks change
# the bound by more.
_LEFT = 0.003
# Rounds in which the components of a mixture stay where they began. Before the networks have
# learned to distinguish rows, the closed form would make most components empty.
_FIRST = 6
# Maximal number of rows: every round goes through all of them.
MOST = 2_000_000


class GLMMLossRows(TypedDict):
    """What the gradient steps of the networks hold fixed, by row.

    Attributes:
        rest: (n, K) the mean predictors without networks.
        root: (n, K, K) a root of the predictors' covariance.
        response: the response.
    """

    rest: JaxArray | Array
    root: JaxArray | Array
    response: ResponseDesign


class GLMMLossNumbers(TypedDict):
    """What the gradient steps of the networks hold fixed for all rows.

    Attributes:
        coefficients: (k,) of the columns of each network, by label.
        numbers: values of the family parameters.
    """

    coefficients: Mapping[str, JaxArray | Array]
    numbers: Mapping[str, JaxArray | Array | float]


@dataclass(frozen=True)
class GLMMUpdate:
    """The `ClosedFormUpdate` for any family.

    Attributes:
        density: posterior density of the hyperparameters.
        sites: the hyperparameters at their mode, by site.
        begin: further starting values for the next round, by keys that begin with "/".
        q: the Gaussian approximation of the coefficients at the mode.
        evidence: log p(theta, y | w) at the mode in nats, approximated by the bound that q gives.
        places: index of the predictor of each term, by label.
        parts: common parts of group effects, and changes of last layers.
        changes: columns of the changes of last layers in the rows, by label.
    """

    density: GLMMHyperposterior
    sites: SiteValues
    begin: Mapping[str, Array]
    q: GaussianPosterior
    evidence: float
    places: Mapping[str, int]
    parts: CommonParts
    changes: Mapping[str, Columns]

    @property
    def mixed(self) -> LinearMixedModel:
        """The mixed model of the linear blocks."""
        return self.density.mixed

    @property
    def _effects(self) -> Effects:
        """Posterior means of the effects by factor."""
        return tuple(b[0] for b in self.q.solution.effects)

    @property
    def _numbers(self) -> FamilyValues:
        """The family parameters without a predictor, at the mode."""
        return {name: self.sites[name] for name in self.density.numbers}

    def error(self, known: Problem, rows: Rows, unseen: UnseenLevels) -> float:
        """Minus the mean log density of rows, at the posterior means of the coefficients.

        The effects of unseen levels are integrated over their prior by the bound of a Gaussian
        approximation.
        """
        batch = known.batch(rows)
        n = rows.n
        layout = DesignLayout.of(batch.blocks, n, known, "svi")
        eta = ReweightedProducts(layout).layout.known.copy()
        common = self.q.solution.common[0]
        for c, k in enumerate(layout.predictor):
            eta[:, k] += layout.columns[:, c] * common[c]
        changes = self.parts.changes(self.parts.features(known, rows.designs))
        own = self.parts.eta(batch, changes, common, self._effects, unseen)
        for name, added in own.items():
            eta[:, layout.predictors.index(name)] += added
        none = layout.without_common(eta)
        eta = ReweightedProducts(none).predictors(np.zeros(0), self._effects[: len(layout.factors)])
        new = rows_of_unseen(batch, unseen)
        total = self._of_unseen(known, kept(rows, new), batch.keep(new), eta[new], unseen)
        if total is None:
            new, total = np.zeros(n, bool), 0.0
        averages = expected_log_density_of(
            known.family, kept(rows.response, ~new), layout.predictors
        )
        return -(total + averages.at(self._numbers, eta[~new])) / n

    def _of_unseen(
        self,
        known: Problem,
        rows: Rows,
        batch: Batch,
        eta: Predictors,
        unseen: UnseenLevels,
    ) -> float | None:
        """Log density of rows that all have an unseen level, its effects integrated out.

        Args:
            known: the problem with known networks.
            rows: the rows.
            batch: the same rows as a batch.
            eta: predictors without the effects of unseen levels.
            unseen: whether no training row has a level, by grouping.

        Returns:
            The sum over the rows in nats. None if there are no rows, or the search for the
            Gaussian approximation fails.
        """
        blocks = of_unseen(batch, unseen) if len(eta) else None
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

    def log_density(self, known: Problem, rows: Rows) -> PerRow:
        """Log p(y_i | eta_i, family parameters) of each row."""
        layout = DesignLayout.of(known.batch(rows).blocks, rows.n, known, "svi")
        common = self.q.solution.common[0]
        eta = ReweightedProducts(layout).layout.known.copy()
        for c, k in enumerate(layout.predictor):
            eta[:, k] += layout.columns[:, c] * common[c]
        none = layout.without_common(eta)
        eta = ReweightedProducts(none).predictors(np.zeros(0), self._effects)
        with jax.enable_x64(True):
            each = {name: jnp.asarray(eta[:, k]) for k, name in enumerate(layout.predictors)}
            family = known.family
            found = family.log_density(
                rows.response, **each, **family.on_link_scale(**self._numbers)
            )
            return np.asarray(found, np.float64)

    def moves(self) -> dict[str, LayerChange]:
        """Changes of last layers by label, as from `CommonParts.moves`."""
        return self.parts.moves(self._effects)

    def loss_arguments(
        self, known: Problem, rows: Rows, labels: Sequence[str]
    ) -> tuple[GLMMLossRows, GLMMLossNumbers]:
        """What the gradient steps of the networks hold fixed."""
        batch = known.batch(rows)
        rest = self.q.mean.copy()
        # Leave the common parts of group effects to the networks.
        names = list(dict.fromkeys(known.predicts[label] for label in batch.blocks))
        common, changes = self.q.solution.common[0], self.changes
        for name, added in self.parts.eta(batch, changes, common, self._effects, {}).items():
            rest[:, names.index(name)] -= added
        coefficients: dict[str, JaxArray | Array] = {}
        for label in labels:
            columns, coefficients[label] = shared(batch, label, self.mixed, self._effects)
            rest[:, self.places[label]] -= columns @ coefficients[label]
        response = rows.response
        root = np.asarray(root_of(jnp.asarray(self.q.covariance)))
        return (
            {"rest": rest, "root": root, "response": response},
            {"coefficients": coefficients, "numbers": self._numbers},
        )


class GLMMStep:
    """The `ClosedFormStep` for networks in the predictors of any family.

    Args:
        problem: the model and its rows.
        one_window: whether every round has all rows. Only then may last layers change in closed
            form.
    """

    finish: ClassVar[str] = "laplace"

    def __init__(self, problem: Problem, *, one_window: bool) -> None:
        self.problem, self.parts = problem, CommonParts.of(problem, features=one_window)
        predictors = tuple(
            dict.fromkeys(problem.predicts[label] for label in problem.unit_blocks())
        )
        self._predictors = predictors
        self._places = {n: predictors.index(p) for n, p in problem.predicts.items()}

    def update(
        self,
        known: Problem,
        rows: Rows,
        before: SiteValues,
        earlier: CrossProducts | None,
        *,
        patient: bool,
        silent: bool,
    ) -> GLMMUpdate:
        """The linear blocks given the networks.

        If it is not `patient`, the hyperparameters stay at `before`. `earlier` is always None: a
        model of `MOST` rows or fewer has a single window, and there are no cross-products to keep
        from round to round, because the working weights change.
        """
        batch = known.batch(rows)
        features = {} if silent else self.parts.features(known, rows.designs)
        parts = self.parts.along(features)
        changes = parts.changes(features)
        beside = parts.beside(batch, changes)
        own = replace(
            parts.problem(known),
            data=rows,
            n=rows.n,
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
                    common = np.asarray(before[_COMMON])
                    old = len(factors) - len(changes)
                    effects = (
                        *(np.asarray(before[f"{_EFFECTS}/{f}"]) for f in range(old)),
                        # Changes start at zero, because their directions differ in each round.
                        *(np.zeros((1, own.shape[1])) for own in changes.values()),
                    )
                    density.working = density.working.warm_started(common, effects)
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

    def started(self, known: Problem, before: SiteValues) -> Problem:
        """The problem with its predictors starting where a round ended.

        If the log density is not concave, a search from another start may end in another mode, to
        which the networks were not trained.
        """
        if _STARTS not in before:
            return known
        scales = dict(known.predictor_scales)
        for name, start in zip(self._predictors, np.asarray(before[_STARTS]), strict=True):
            scales[name] = replace(scales[name], away=float(start) - scales[name].location)
        return replace(known, predictor_scales=scales)

    def loss(
        self,
        bases: Mapping[str, Float[JaxArray, "n _"]],
        rows: GLMMLossRows,
        fixed: GLMMLossNumbers,
    ) -> Float[JaxArray, ""]:
        """Mean over a minibatch of -E log p(y_i | eta_i) in nats, by quadrature."""
        eta = jnp.asarray(rows["rest"])
        for label, c in fixed["coefficients"].items():
            eta = eta.at[:, self._places[label]].add(bases[label] @ c)
        points, weights = rule(eta.shape[1], _NODES if eta.shape[1] == 1 else 0)
        family = self.problem.family
        numbers = family.on_link_scale(**fixed["numbers"])
        total: JaxArray | float = 0.0
        for point, weight in zip(points, weights, strict=True):
            moved = eta + jnp.einsum("nkl,l->nk", rows["root"], point)
            each = {name: moved[:, k] for k, name in enumerate(self._predictors)}
            density = family.log_density(rows["response"], **each, **numbers)
            total = total + weight * jnp.mean(density)
        return -jnp.asarray(total)
