"""q of the factors of a table: normal by level, each side in closed form given the other.

With r_i what is left of the response of row i, w_i its weight and beta = 1 / sigma^2,

    q(u_j) = N(m_j, C_j),   C_j^-1 = E diag(tau^-2) + beta sum_(i of j) w_i E v v',
                            C_j^-1 m_j = beta sum_(i of j) w_i r_i E v,

v being that of row i's level on the other side; likewise q(v), whose prior is N(0, I); and

    q(tau_k) ~ p(tau_k) tau_k^-J exp(-sum_j E u_jk^2 / (2 tau_k^2)),

each the optimum given the others (Lim and Teh, 2007). Turning u to A u and v to A'^-1 v leaves what
the rows say as it is and moves the priors' part of the bound: the best A is known in closed form
(Luttinen and Ilin, 2010), and without it the sweeps would take hundreds of steps to get there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ranef import priors
from ranef.errors import OptionError
from ranef.numerics.counter_rng import CounterRNG
from ranef.priors import Prior
from ranef.priors.log_density import log_density
from ranef.terms.blocks import Bilinear

Array = NDArray[np.float64]

# Products of the table with itself that lead to where the search begins.
_POWERS = 8
# Points of log tau, coarse and fine, and how far the coarse ones reach from their middle.
_COARSE, _FINE, _REACH = 801, 801, 12.0
# Draws that memory is taken for at once: 3.2 GB of them.
_REALISED = 400_000_000


@dataclass(frozen=True)
class FactorPosterior:
    """The factors of the levels of one grouping.

    Attributes:
        mean: (J, K).
        covariance: (J, K, K).
    """

    mean: Array
    covariance: Array

    @property
    def second(self) -> Array:
        """E u u' of each level, (J, K, K)."""
        return self.mean[:, :, None] * self.mean[:, None] + self.covariance

    def turned(self, a: Array) -> "FactorPosterior":
        """Of A u."""
        return FactorPosterior(self.mean @ a.T, a @ self.covariance @ a.T)

    def entropy(self) -> float:
        """Of q in nats, less K / 2 log(2 pi) for each level."""
        log_det = np.linalg.slogdet(self.covariance)[1].sum()
        return 0.5 * (float(log_det) + self.mean.size)


@dataclass(frozen=True)
class ScalePosterior:
    """q(tau), component by component.

    Attributes:
        log_tau, mass: (K, G) points of log tau and their probabilities.
        bound: what tau and the prior of u add to the bound, u's entropy aside and 2 pi left out.
    """

    log_tau: Array
    mass: Array
    bound: float

    @classmethod
    def of(cls, prior: Prior, squares: Array, levels: int) -> "ScalePosterior":
        """From sum_j E u_jk^2 (K,) and J."""
        squares = np.maximum(squares, np.finfo(np.float64).tiny)
        if isinstance(prior, priors.Fixed):
            at = np.full((len(squares), 1), np.log(prior.value))
        elif isinstance(prior, priors.PointEstimate):
            at = 0.5 * np.log(squares / levels)[:, None]
        else:
            return cls._free(prior, squares, levels)
        log_p = -levels * at - 0.5 * squares[:, None] * np.exp(-2 * at)
        return cls(at, np.ones_like(at), float(log_p.sum()))

    @classmethod
    def _free(cls, prior: Prior, squares: Array, levels: int) -> "ScalePosterior":
        low = getattr(prior, "lower", 0.0)
        high = 1.0 if isinstance(prior, priors.Beta) else getattr(prior, "upper", np.inf)

        def density(log_tau: Array) -> Array:
            """Of log tau, not normalised."""
            tau = np.exp(log_tau)
            with np.errstate(all="ignore"):
                own = log_density(prior, tau)[0] + log_tau
                own = own - levels * log_tau - 0.5 * squares[:, None] / tau**2
            inside = np.isfinite(own) & (tau > low) & (tau < high)
            return np.where(inside, own, -np.inf)

        each = np.arange(len(squares))
        step = 2 * _REACH / (_COARSE - 1)
        coarse = 0.5 * np.log(squares / levels)[:, None] + np.linspace(-_REACH, _REACH, _COARSE)
        middle = coarse[each, density(coarse).argmax(axis=1)]
        reach = 2 * step + 8 / np.sqrt(2 * levels)
        log_tau = middle[:, None] + np.linspace(-reach, reach, _FINE)
        log_p = density(log_tau)
        top = log_p.max(axis=1)
        mass = np.exp(log_p - top[:, None])
        total = mass.sum(axis=1)
        spacing = 2 * reach / (_FINE - 1)
        return cls(log_tau, mass / total[:, None], float((top + np.log(total * spacing)).sum()))

    @property
    def precision(self) -> Array:
        """E tau^-2, (K,)."""
        return (self.mass * np.exp(-2 * self.log_tau)).sum(axis=1)

    @property
    def mean(self) -> Array:
        return (self.mass * np.exp(self.log_tau)).sum(axis=1)

    @property
    def sd(self) -> Array:
        square = (self.mass * np.exp(2 * self.log_tau)).sum(axis=1)
        return np.sqrt(np.maximum(square - self.mean**2, 0.0))

    def draw(self, rng: np.random.Generator, size: int) -> Array:
        """(size, K)."""
        uniform = rng.random((len(self.mass), size))
        columns = [
            log_tau[np.searchsorted(np.cumsum(mass), own).clip(max=len(mass) - 1)]
            for own, log_tau, mass in zip(uniform, self.log_tau, self.mass, strict=True)
        ]
        return np.exp(np.stack(columns, axis=1))


class RatingsTable:
    """The rows of one term, gathered to the pairs of levels that occur.

    Args:
        term: whose rows they are.
        weights: (n,) of the rows, or None.
    """

    def __init__(self, term: Bilinear, weights: Array | None) -> None:
        self.left, self.right = (np.asarray(codes, np.int64) for codes in term.codes)
        self.levels, self.rank = term.levels, term.rank
        self.weights = np.ones(len(self.left)) if weights is None else weights
        key = self.left * self.levels[1] + self.right
        self._pairs, self._place = np.unique(key, return_inverse=True)
        self._sums = self._matrix(self.weights)

    def _matrix(self, values: Array) -> Any:
        """Sums of numbers of the rows, (J, M) sparse."""
        data = np.bincount(self._place, values, len(self._pairs))
        starts = np.searchsorted(self._pairs, np.arange(self.levels[0] + 1) * self.levels[1])
        columns = self._pairs % self.levels[1]
        return sparse.csr_array((data, columns, starts), shape=self.levels)

    def begin(self, residual: Array, rng: np.random.Generator) -> FactorPosterior:
        """V near the strongest right singular vectors of the table, unobserved cells zero."""
        table = self._matrix(self.weights * residual)
        v = rng.normal(size=(self.levels[1], self.rank))
        for _ in range(_POWERS):
            v = np.linalg.qr(table.T @ (table @ v))[0]
        v *= np.sqrt(self.levels[1])
        return FactorPosterior(v, np.zeros((*v.shape, self.rank)))

    def sweep(
        self, q: "TermPosterior", residual: Array, beta: float, *, held: bool = False
    ) -> "TermPosterior":
        """U, v and, unless it is held, tau once each, given the residual of every row, (n,)."""
        table = self._matrix(self.weights * residual)
        u = _side(self._sums, table, q.v, q.scales.precision, beta)
        v = _side(self._sums.T.tocsr(), table.T.tocsr(), u, np.ones(self.rank), beta)
        if not isinstance(q.prior, priors.Fixed):
            # A tau that is integrated over a flat prior counts as one level less.
            u, v = _turned(u, v, self.levels[1] - (not isinstance(q.prior, priors.PointEstimate)))
        if held:
            return replace(q, u=u, v=v)
        squares = np.einsum("jk,jk->k", u.mean, u.mean)
        squares = squares + np.einsum("jkk->k", u.covariance)
        return replace(q, u=u, v=v, scales=ScalePosterior.of(q.prior, squares, self.levels[0]))

    def moments(self, q: "TermPosterior") -> tuple[Array, Array]:
        """Mean and variance of u'v in each row, (n,)."""
        left, right = self._pairs // self.levels[1], self._pairs % self.levels[1]
        u, v = q.u.mean[left], q.v.mean[right]
        mean = np.einsum("pk,pk->p", u, v)
        variance = np.empty(len(mean))
        for start in range(0, len(mean), 65_536):
            part = slice(start, start + 65_536)
            of_u, of_v = q.u.covariance[left[part]], q.v.covariance[right[part]]
            v_part, u_part = v[part], u[part]
            variance[part] = (
                np.einsum("pk,pkl,pl->p", v_part, of_u, v_part, optimize=True)
                + np.einsum("pk,pkl,pl->p", u_part, of_v, u_part, optimize=True)
                + np.einsum("pkl,pkl->p", of_u, of_v)
            )
        return mean[self._place], variance[self._place]


def _side(
    sums: Any, table: Any, other: FactorPosterior, precision: Array, beta: float
) -> FactorPosterior:
    k = len(precision)
    gathered = (sums @ other.second.reshape(-1, k * k)).reshape(-1, k, k)
    covariance = np.linalg.inv(beta * gathered + np.diag(precision))
    covariance = 0.5 * (covariance + covariance.transpose(0, 2, 1))
    pulled = beta * (table @ other.mean)
    return FactorPosterior(np.einsum("jkl,jl->jk", covariance, pulled), covariance)


def _turned(
    u: FactorPosterior, v: FactorPosterior, size: int
) -> tuple[FactorPosterior, FactorPosterior]:
    """The bound's best A: E v v' sums to `size` I, and sum_j E u u' is diagonal and falling."""
    root = np.linalg.cholesky(v.second.sum(axis=0) / size)
    inner = root.T @ u.second.sum(axis=0) @ root
    axes = np.linalg.eigh(0.5 * (inner + inner.T))[1][:, ::-1]
    turn = axes.T @ np.linalg.inv(root)
    axes = axes * np.where(((v.mean @ turn.T) ** 3).sum(axis=0) < 0, -1.0, 1.0)
    return u.turned(axes.T @ root.T), v.turned(axes.T @ np.linalg.inv(root))


@dataclass(frozen=True)
class TermPosterior:
    """q of one term.

    Attributes:
        u, v, scales: its parts.
        prior: of tau.
    """

    u: FactorPosterior
    v: FactorPosterior
    scales: ScalePosterior
    prior: Prior

    @classmethod
    def begin(
        cls, table: RatingsTable, prior: Prior, residual: Array, seed: list[int]
    ) -> "TermPosterior":
        """Where a search begins: u is unknown, v near singular vectors."""
        v = table.begin(residual, np.random.default_rng(seed))
        size = np.sqrt(np.average(residual**2, weights=table.weights))
        levels, k = table.levels[0], table.rank
        u = FactorPosterior(
            np.zeros((levels, k)), np.broadcast_to(size**2 * np.eye(k), (levels, k, k))
        )
        return cls(u, v, ScalePosterior.of(prior, np.full(k, levels * size**2), levels), prior)

    @property
    def bound(self) -> float:
        """-KL(q || prior) of u, v and tau, in nats."""
        squares = np.einsum("mk,mk->", self.v.mean, self.v.mean)
        squares += np.einsum("mkk->", self.v.covariance)
        return self.scales.bound + self.u.entropy() + self.v.entropy() - 0.5 * float(squares)


@dataclass(frozen=True)
class FactorDraws:
    """Draws of factors of the levels that are asked for alone, as `LevelDraws`.

    Attributes:
        sides: mean (J, K) and root of the covariance (J, K, K) of each level, by site.
        draws: how many.
        seed: of the noise, which belongs to the level.
        chains: that the draws lie in, one after the other.
    """

    sides: Mapping[str, tuple[Array, Array]]
    draws: int
    seed: int
    chains: int = 1

    @classmethod
    def of(
        cls, sides: Mapping[str, FactorPosterior], draws: int, seed: int, chains: int = 1
    ) -> "FactorDraws":
        roots = {name: _root(side.covariance) for name, side in sides.items()}
        both = {name: (side.mean, roots[name]) for name, side in sides.items()}
        return cls(both, draws, seed, chains)

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.sides)

    def at(self, levels: Mapping[str, NDArray]) -> dict[str, Array]:
        """Of some levels of each site, (chain, draw, m, K)."""
        out, each = {}, self.draws // self.chains
        for stream, (name, (mean, root)) in enumerate(self.sides.items()):
            if name in levels:
                own = np.asarray(levels[name], np.int64)
                k = mean.shape[1]
                # Apart from the streams of the exact method's factors.
                noise = CounterRNG(self.seed, 1_000_000 + stream).of(own, self.draws * k)
                z = noise.reshape(len(own), self.draws, k)
                drawn = mean[own][None] + np.einsum("jkl,jsl->sjk", root[own], z)
                out[name] = drawn.reshape(self.chains, each, *drawn.shape[1:])
        return out


def _root(covariance: Array) -> Array:
    """Symmetric roots: a component without use has next to no variance."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))[:, None]) @ vectors.transpose(0, 2, 1)


class LazyFactorDraws(Mapping[str, Array]):
    """Draws by site, those of the factors of every level made when they are asked for.

    Args:
        drawn: the factors.
        beside: draws of all other sites.

    Raises:
        OptionError: for more of them than memory is taken for.
    """

    def __init__(self, drawn: FactorDraws, beside: Sequence[Mapping[str, Any]]) -> None:
        self._drawn, self._beside = drawn, beside
        self._made: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        for ready in self._beside:
            if name in ready:
                return ready[name]
        if name not in self._made:
            levels, k = self._drawn.sides[name][0].shape
            count = levels * k
            if count * self._drawn.draws > _REALISED:
                raise OptionError(
                    f"{self._drawn.draws:,} draws of {count:,} factors take "
                    f"{8e-9 * count * self._drawn.draws:,.0f} GB; fit with "
                    f"draws={_REALISED // count:,} or fewer to have them"
                )
            self._made |= self._drawn.at({name: np.arange(levels)})
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        for ready in self._beside:
            yield from ready
        yield from self._drawn.sides

    def __len__(self) -> int:
        return len(self._drawn.sides) + sum(map(len, self._beside))
