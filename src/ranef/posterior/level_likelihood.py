"""Marginal likelihood of each level of a grouping, for every posterior draw.

For level j with group effects b and all other parameters phi (hyperparameters, common effects and
the effects of other groupings), this module computes

    p(y_j | phi) = integral prod_(i in j) p(y_i | eta_i + z_i' b, ...) N(b; 0, Sigma(phi)) db,

where eta_i is the linear predictor of row i without b.

If the response is normal and b acts on its mean, the integral has a closed form. With r = y - eta,
W the diagonal matrix of residual precisions, Sigma = R R' and M = I + R' Z'W Z R,

    log p = -1/2 [n_j log 2 pi - log|W| + log|M| + r'W r - (R'Z'W r)' M^-1 (R'Z'W r)].

Otherwise the integral is estimated by importance sampling of b at quasi-random points, half of
them from a t distribution around the level's posterior and half from its prior N(0, Sigma(phi)).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from ranef.errors import OptionError
from ranef.inference.base import Draws
from ranef.lazy import Array as JaxArray
from ranef.lazy import jax, jnp, stats
from ranef.numerics.shapes import Float, Int
from ranef.posterior.posterior import Posterior
from ranef.posterior.predictive import Predictive
from ranef.posterior.program_replay import RowChunk
from ranef.terms.base import RunOptions
from ranef.terms.blocks import LinearBlock

Array = NDArray[np.float64]
# The level of each of n rows.
Codes = Int[NDArray[np.int64], "n"]
# A number for each draw and level.
Matrix = Float[Array, "draws levels"]
# The k effects of each level, at every draw or the same at all of them.
Effects = Float[Array, "draws levels k"] | Float[Array, "levels k"]
# A root R (k, k) at every draw.
Roots = Float[Array, "draws k k"]

# Largest number of posterior draws of phi that are used; more draws are thinned to this number.
_DRAWS = 1_000
# Importance points of b from each of the two halves of the proposal.
_EACH = 128
# Degrees of freedom of the t proposal.
_NU = 5.0
# Scale of the t proposal, as a multiple of the posterior sd of the level's effects.
_WIDER = 1.6
# Largest accepted value of draws x levels x (effects per level)^2. An array of this many numbers
# takes 1.6 GB.
_CELLS = 200_000_000


@dataclass(frozen=True)
class LevelLikelihood:
    """Marginal likelihoods of the levels of one grouping of a fit.

    Attributes:
        posterior: the fit's posterior, thinned to at most `_DRAWS` draws.
        labels: labels of the terms that vary by the grouping.
        blocks: linear blocks of these terms at unit scales. Their columns side by side form Z.
            Empty for a model without the grouping, whose likelihood needs no integral.
        codes: level of each row.
    """

    posterior: Posterior
    labels: tuple[str, ...]
    blocks: tuple[LinearBlock, ...]
    codes: Codes

    @classmethod
    def of(cls, posterior: Posterior, group: str, codes: Codes) -> "LevelLikelihood":
        """The likelihood of the grouping named `group`, with the level of each row in `codes`.

        Raises:
            OptionError: if the arrays would be too large for memory, or if the model has columns
                in mi(), whose missing values are integrated out row by row.
        """
        problem = posterior.problem
        if problem.incomplete:
            raise OptionError(
                f"the levels of {group} cannot be left out beside {problem.incomplete[0]}, whose "
                "missing values are integrated over row by row; leave out rows, by fit.loo()"
            )
        known = {
            label: block
            for label, block in problem.unit_blocks().items()
            if block is not None and block.grouping == group and block.codes is not None
        }
        blocks = tuple(known.values())
        draws = posterior.draws
        count = next((v.shape[0] * v.shape[1] for v in draws.sites.values()), 1)
        if count > _DRAWS:
            draws, count = draws.thinned(_DRAWS), _DRAWS
        width, levels = sum(b.columns.shape[1] for b in blocks), int(codes.max()) + 1
        if count * levels * max(width, 1) ** 2 > _CELLS:
            raise OptionError(
                f"{levels:,} levels of {group} are too many to leave out one by one with "
                f"{count:,} draws; fit with fewer draws, or compare on rows that are held out"
            )
        return cls(replace(posterior, draws=draws), tuple(known), blocks, codes)

    @property
    def _columns(self) -> Float[Array, "n k"]:
        return np.concatenate([np.asarray(b.columns, np.float64) for b in self.blocks], axis=1)

    @property
    def levels(self) -> int:
        """Number of levels J."""
        return self.blocks[0].levels if self.blocks else int(self.codes.max()) + 1

    @property
    def _is_normal(self) -> bool:
        program, training = self.posterior.program, self.posterior.training
        predicts = self.posterior.problem.predicts
        located = all(predicts[label] == program.location for label in self.labels)
        return located and program.family.normal(training.response) is not None

    def log_likelihood(self, seed: int) -> Matrix:
        """Log p(y_j | phi) of every draw and level.

        Args:
            seed: for the quasi-random importance points.
        """
        with jax.enable_x64(True):
            if not self.blocks:
                return self._rows(self._predictive())
            if self._is_normal:
                return self._normal(self._roots())
            return self._drawn(self._roots(), seed)

    def _roots(self) -> Roots:
        """R, the root of Sigma = R R', at every draw, block diagonal by term."""
        program, training = self.posterior.program, self.posterior.training
        known = {n: v for n, v in self.posterior.draws.points.items() if np.ndim(v) == 0}
        named = {n for block in self.blocks for n in (*block.scales, block.cholesky) if n}
        sites = {n: _flat(v) for n, v in self._sites().items() if n in named}
        few = jax.tree.map(lambda a: a[:1], training.designs)

        def one(values: Mapping[str, JaxArray]) -> Float[JaxArray, "k k"]:
            blocks = program.blocks(training.state, few, {**values, **known})
            factors = [jnp.asarray(blocks[label].factor) for label in self.labels]
            return jax.scipy.linalg.block_diag(
                *(f if f.ndim == 2 else jnp.diag(f) for f in factors)
            )

        if not sites:
            root = np.asarray(one({}))
            return np.broadcast_to(root, (self._count, *root.shape))
        return np.asarray(jax.jit(jax.vmap(one))(jax.tree.map(jnp.asarray, sites)))

    def _sites(self) -> Mapping[str, NDArray]:
        return self.posterior.draws.sites

    @property
    def _count(self) -> int:
        return next((v.shape[0] * v.shape[1] for v in self._sites().values()), 1)

    def _with(self, effects: Effects) -> Draws:
        """The draws with the grouping's effects replaced by `effects`."""
        sites = {name: _flat(self._sites()[name]) for name in self._sites()}
        start = 0
        for block in self.blocks:
            for (name, count), shape in zip(block.sites, block.shapes, strict=True):
                value = effects[..., start : start + count]
                value = value.reshape(*effects.shape[:-1], *shape)
                sites[name] = np.broadcast_to(value, (self._count, self.levels, *shape))
                start += count
        draws = self.posterior.draws
        whole = {name: value[None] for name, value in sites.items()}
        return Draws(lambda: whole, draws.points, draws.carried, True, "")

    def _predictive(self) -> Predictive:
        """Predictions with the grouping's effects set to zero."""
        program, training = self.posterior.program, self.posterior.training
        width = sum(block.columns.shape[1] for block in self.blocks)
        none = self._with(np.zeros((self.levels, width)))
        return Predictive(program, training.state, none, RunOptions(False, "zero"), 0)

    def _chunks(self, predictive: Predictive) -> Iterator[RowChunk]:
        training = self.posterior.training
        return predictive.over(training.designs, training.response, training.held)

    def _normal(self, roots: Roots) -> Matrix:
        """The closed form of a normal response, from cross-products summed within each level."""
        program, (draws, k) = self.posterior.program, roots.shape[:2]
        columns, codes = self._columns, self.codes
        log_w, square = np.zeros((draws, self.levels)), np.zeros((draws, self.levels))
        moment = np.zeros((draws, self.levels, k))
        second = np.zeros((draws, self.levels, k, k))
        for chunk in self._chunks(self._predictive()):
            own, z = codes[chunk.places], columns[chunk.places]
            variance = chunk.own(program.family.variance(chunk.response, **chunk.values))
            y = np.asarray(chunk.response.value, np.float64)[: chunk.count]
            r = y - chunk.own(chunk.values[program.location])
            w = 1 / variance
            add = _by_level(own, self.levels)
            log_w += add(np.log(w))
            square += add(w * r**2)
            for a in range(k):
                moment[..., a] += add(w * r * z[:, a])
                for b in range(a, k):
                    second[..., a, b] += add(w * z[:, a] * z[:, b])
                    second[..., b, a] = second[..., a, b]
        r = roots[:, None]
        whitened = np.swapaxes(r, -1, -2) @ second @ r + np.eye(k)
        pulled = (np.swapaxes(r, -1, -2) @ moment[..., None])[..., 0]
        inside = (pulled * np.linalg.solve(whitened, pulled[..., None])[..., 0]).sum(axis=-1)
        rows = np.bincount(codes, minlength=self.levels)
        log_det = np.linalg.slogdet(whitened)[1]
        return -0.5 * (rows * np.log(2 * np.pi) - log_w + log_det + square - inside)

    def _drawn(self, roots: Roots, seed: int) -> Matrix:
        """Estimate log p(y_j | phi) by importance sampling of b, for all levels at once.

        The proposal is a half-and-half mixture: quasi-random points from a t distribution around
        the level's posterior, and from its prior N(0, Sigma(phi)). The first half alone fails
        when Sigma(phi) is much narrower than the posterior, the second when it is much wider.
        Every point is weighted by the density of the mixture, which is the balance heuristic
        (Veach and Guibas, 1995).
        """
        occurs = np.unique(self.codes)
        own = self._own()
        k = own.shape[-1]
        proposal = _Proposal.of(own, occurs)
        inverse = np.linalg.inv(roots)
        log_det = np.log(np.abs(np.diagonal(roots, axis1=1, axis2=2))).sum(axis=1)
        constant = (-0.5 * k * np.log(2 * np.pi) - log_det)[:, None]
        out = np.full((len(roots), self.levels), -np.inf)
        predictive = self._predictive()
        normal, t = _points(k, seed)
        for e, step in zip(normal, t, strict=True):
            near = proposal.at(step)
            z = np.einsum("skl,jl->sjk", inverse, near)
            prior = constant - 0.5 * (z**2).sum(axis=-1)
            far = np.broadcast_to((roots @ e)[:, None], (len(roots), self.levels, k))
            for b, known in ((near, prior), (far, constant - 0.5 * float(e @ e))):
                mixed = np.logaddexp(known, proposal.log_density(b)) - np.log(2)
                rows = self._rows(predictive.with_draws(self._with(b)))
                out = np.logaddexp(out, known - mixed + rows)
        return out - np.log(2 * len(normal))

    def _own(self) -> Float[Array, "draws levels k"]:
        """Posterior draws of the grouping's effects."""
        each = [
            _flat(self._sites()[name]).reshape(self._count, self.levels, count)
            for block in self.blocks
            for name, count in block.sites
        ]
        return np.concatenate(each, axis=-1)

    def _rows(self, predictive: Predictive) -> Matrix:
        """Log likelihood of the rows of each level given its effects."""
        out = np.zeros((self._count, self.levels))
        for chunk in self._chunks(predictive):
            out += _by_level(self.codes[chunk.places], self.levels)(predictive.log_density(chunk))
        return out


@dataclass(frozen=True)
class _Proposal:
    """A multivariate t proposal around each level's posterior, with `_NU` degrees of freedom.

    Attributes:
        mean: posterior means of the effects.
        factor: Cholesky factors of the scale matrices.
    """

    mean: Float[Array, "levels k"]
    factor: Float[Array, "levels k k"]

    @classmethod
    def of(
        cls, draws: Float[Array, "draws levels k"], occurs: Int[NDArray[np.int64], "_"]
    ) -> "_Proposal":
        """The proposal from posterior draws of the effects.

        Levels that are not in `occurs` have no rows; their scale matrix is the identity.
        """
        k = draws.shape[-1]
        mean = draws.mean(axis=0)
        away = np.moveaxis(draws[:, occurs] - mean[occurs], 0, -1)
        covariance = away @ np.swapaxes(away, -1, -2) / len(draws)
        size = np.trace(covariance, axis1=-2, axis2=-1)[:, None, None]
        factor = np.broadcast_to(np.eye(k), (len(mean), k, k)).copy()
        factor[occurs] = _WIDER * np.linalg.cholesky(covariance + 1e-12 * size * np.eye(k))
        return cls(mean, factor)

    def at(self, step: Float[Array, "k"]) -> Float[Array, "levels k"]:
        """The point of every level for one standardized t vector `step`."""
        return self.mean + self.factor @ step

    def log_density(self, b: Float[Array, "*draws levels k"]) -> Float[Array, "*draws levels"]:
        """Log density at b."""
        k = b.shape[-1]
        z = np.linalg.solve(self.factor, (b - self.mean)[..., None])[..., 0]
        constant = gammaln((_NU + k) / 2) - gammaln(_NU / 2) - 0.5 * k * np.log(_NU * np.pi)
        constant = constant - np.log(np.diagonal(self.factor, axis1=-2, axis2=-1)).sum(axis=-1)
        return constant - 0.5 * (_NU + k) * np.log1p((z**2).sum(axis=-1) / _NU)


def _points(k: int, seed: int) -> tuple[Float[Array, "points k"], Float[Array, "points k"]]:
    """`_EACH` scrambled Sobol points of a k-dimensional normal and t distribution."""
    even = stats.qmc.Sobol(k + 1, rng=np.random.default_rng([seed, 7])).random(_EACH)
    even = np.clip(even, 1e-9, 1 - 1e-9)
    normal = stats.norm.ppf(even[:, :k])
    return normal, normal * np.sqrt(_NU / stats.chi2.ppf(even[:, k:], _NU))


def _flat(values: Float[NDArray, "chains _ ..."]) -> Float[Array, "draws ..."]:
    """The draws of all chains along one axis."""
    array = np.asarray(values, np.float64)
    return array.reshape(array.shape[0] * array.shape[1], *array.shape[2:])


def _by_level(
    codes: Int[NDArray[np.int64], "rows"], levels: int
) -> Callable[[Float[Array, "draws rows"]], Matrix]:
    """A function that sums values over the rows of each level."""
    order = np.argsort(codes, kind="stable")
    present, starts = np.unique(codes[order], return_index=True)

    def add(values: Float[Array, "draws rows"]) -> Matrix:
        out = np.zeros((len(values), levels))
        out[:, present] = np.add.reduceat(values[:, order], starts, axis=1)
        return out

    return add
