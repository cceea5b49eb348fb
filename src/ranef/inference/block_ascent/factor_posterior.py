"""Variational Bayesian matrix factorization by coordinate ascent (Lim and Teh, 2007).

A term u_j' v_m has factors u_j ~ N(0, diag(tau^2)) and v_m ~ N(0, I) of rank K for the J levels of
one grouping and the M levels of another. The approximation is q(u) q(v) q(tau), normal for each
level. Let r_i be the residual of row i after all other terms, w_i the weight of the row and
beta = 1 / sigma^2. The optimum of each factor of q given the others is

    q(u_j) = N(m_j, C_j),   C_j^-1 = E diag(tau^-2) + beta sum_(i of j) w_i E v v',
                            C_j^-1 m_j = beta sum_(i of j) w_i r_i E v,

where v is the factor of row i's level in the other grouping; q(v) follows in the same way with
prior precision I; and

    q(tau_k) ~ p(tau_k) tau_k^-J exp(-sum_j E u_jk^2 / (2 tau_k^2)).

Replacing u by A u and v by A'^-1 v leaves the likelihood unchanged and changes only the part of the
bound (ELBO) that comes from the priors. The best A is known in closed form (Luttinen and Ilin,
2010). Without this rotation, the sweeps would take hundreds of steps to reach it.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from ranef import priors
from ranef.inference.glmm.arrays import Array, PerRow
from ranef.numerics.shapes import Float
from ranef.priors import Prior
from ranef.priors.log_density import log_density
from ranef.terms.blocks import Bilinear

# A number for each component.
PerComponent = Float[Array, "K"]

# Steps of subspace iteration towards the singular vectors where the search begins.
_POWERS = 8
# Number of points of the coarse grid of log tau, which finds the mode.
_COARSE = 801
# Number of points of the fine grid of log tau, which represents q(tau).
_FINE = 801
# Half the width of the coarse grid, in units of log tau.
_REACH = 12.0


@dataclass(frozen=True)
class FactorPosterior:
    """Normal approximation of the factors of one grouping, independent between levels.

    Attributes:
        mean: of each level.
        covariance: of each level.
    """

    mean: Float[Array, "J K"]
    covariance: Float[Array, "J K K"]

    @property
    def second(self) -> Float[Array, "J K K"]:
        """E u u' for each level."""
        return self.mean[:, :, None] * self.mean[:, None] + self.covariance

    def rotated(self, a: Float[Array, "K K"]) -> "FactorPosterior":
        """The distribution of A u, for a matrix A."""
        return FactorPosterior(self.mean @ a.T, a @ self.covariance @ a.T)

    def entropy(self) -> float:
        """Entropy of q in nats, without the constant K / 2 log(2 pi) for each level."""
        log_det = np.linalg.slogdet(self.covariance)[1].sum()
        return 0.5 * (float(log_det) + self.mean.size)


@dataclass(frozen=True)
class ScalePosterior:
    """q(tau) on a grid, independent between the K components.

    Attributes:
        log_tau: G points of log tau by component.
        mass: their probabilities.
        bound: the contribution of tau and the prior of u to the ELBO in nats, without the entropy
            of u and without the constant J K / 2 log(2 pi).
    """

    log_tau: Float[Array, "K G"]
    mass: Float[Array, "K G"]
    bound: float

    @classmethod
    def of(cls, prior: Prior, squares: PerComponent, levels: int) -> "ScalePosterior":
        """The optimal q(tau) given q(u).

        Args:
            prior: prior of each tau_k. A fixed value or a point estimate gives a grid of one
                point, for a point estimate the maximum likelihood value.
            squares: sum_j E u_jk^2.
            levels: J.
        """
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
    def _free(cls, prior: Prior, squares: PerComponent, levels: int) -> "ScalePosterior":
        """`of` for a prior that is a distribution."""
        low = getattr(prior, "lower", 0.0)
        high = 1.0 if isinstance(prior, priors.Beta) else getattr(prior, "upper", np.inf)

        def density(log_tau: Float[Array, "K G"]) -> Float[Array, "K G"]:
            """Unnormalised log density of log tau."""
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
    def precision(self) -> PerComponent:
        """E tau^-2 of each component."""
        return (self.mass * np.exp(-2 * self.log_tau)).sum(axis=1)

    @property
    def mean(self) -> PerComponent:
        """E tau of each component."""
        return (self.mass * np.exp(self.log_tau)).sum(axis=1)

    @property
    def sd(self) -> PerComponent:
        """Posterior sd of the tau of each component."""
        square = (self.mass * np.exp(2 * self.log_tau)).sum(axis=1)
        return np.sqrt(np.maximum(square - self.mean**2, 0.0))

    def draw(self, rng: np.random.Generator, size: int) -> Float[Array, "{size} K"]:
        """Draws of tau by inversion of the distribution on the grid."""
        uniform = rng.random((len(self.mass), size))
        columns = [
            log_tau[np.searchsorted(np.cumsum(mass), own).clip(max=len(mass) - 1)]
            for own, log_tau, mass in zip(uniform, self.log_tau, self.mass, strict=True)
        ]
        return np.exp(np.stack(columns, axis=1))


class RatingsTable:
    """The rows of one term, summed over the pairs of levels that occur.

    Args:
        term: the term, with the levels of each row.
        weights: of the rows, or None for weights of one.
    """

    def __init__(self, term: Bilinear, weights: PerRow | None) -> None:
        self.left, self.right = (np.asarray(codes, np.int64) for codes in term.codes)
        self.levels, self.rank = term.levels, term.rank
        self.weights = np.ones(len(self.left)) if weights is None else weights
        key = self.left * self.levels[1] + self.right
        self._pairs, self._place = np.unique(key, return_inverse=True)
        self._sums = self._matrix(self.weights)

    def _matrix(self, values: PerRow) -> sparse.csr_array:
        """Sums of `values` over the rows of each pair of levels, sparse (J, M)."""
        data = np.bincount(self._place, values, len(self._pairs))
        starts = np.searchsorted(self._pairs, np.arange(self.levels[0] + 1) * self.levels[1])
        columns = self._pairs % self.levels[1]
        return sparse.csr_array((data, columns, starts), shape=self.levels)

    def begin(self, residual: PerRow, rng: np.random.Generator) -> FactorPosterior:
        """The v that a search begins with: leading right singular vectors of the table.

        The table has the weighted sums of residuals, and zero for pairs that do not occur. The
        vectors are approximate (`_POWERS` steps of subspace iteration), scaled to mean square one.

        Args:
            residual: of each row without this term.
            rng: generator of the random start of the iteration.
        """
        table = self._matrix(self.weights * residual)
        v = rng.normal(size=(self.levels[1], self.rank))
        for _ in range(_POWERS):
            v = np.linalg.qr(table.T @ (table @ v))[0]
        v *= np.sqrt(self.levels[1])
        return FactorPosterior(v, np.zeros((*v.shape, self.rank)))

    def sweep(
        self, q: "TermPosterior", residual: PerRow, beta: float, *, held: bool = False
    ) -> "TermPosterior":
        """Updates q(u), q(v) and, unless `held`, q(tau) once.

        Args:
            q: the approximation so far.
            residual: of each row without this term.
            beta: 1 / sigma^2.
            held: whether q(tau) stays as it is.
        """
        table = self._matrix(self.weights * residual)
        u = _side(self._sums, table, q.v, q.scales.precision, beta)
        v = _side(self._sums.T.tocsr(), table.T.tocsr(), u, np.ones(self.rank), beta)
        if not isinstance(q.prior, priors.Fixed):
            # With tau integrated over a flat prior, the optimal rotation has M - 1 in place of M.
            u, v = _rotated(u, v, self.levels[1] - (not isinstance(q.prior, priors.PointEstimate)))
        if held:
            return replace(q, u=u, v=v)
        squares = np.einsum("jk,jk->k", u.mean, u.mean)
        squares = squares + np.einsum("jkk->k", u.covariance)
        return replace(q, u=u, v=v, scales=ScalePosterior.of(q.prior, squares, self.levels[0]))

    def moments(self, q: "TermPosterior") -> tuple[PerRow, PerRow]:
        """Posterior mean and variance of u'v in each row.

        For independent u and v the variance is
        E v' C_u E v + E u' C_v E u + tr(C_u C_v).
        """
        left, right = self._pairs // self.levels[1], self._pairs % self.levels[1]
        u, v = q.u.mean[left], q.v.mean[right]
        mean = np.einsum("pk,pk->p", u, v)
        variance = np.empty(len(mean))
        for start in range(0, len(mean), 65_536):
            own = slice(start, start + 65_536)
            of_u, of_v = q.u.covariance[left[own]], q.v.covariance[right[own]]
            own_u, own_v = u[own], v[own]
            variance[own] = (
                np.einsum("pk,pkl,pl->p", own_v, of_u, own_v, optimize=True)
                + np.einsum("pk,pkl,pl->p", own_u, of_v, own_u, optimize=True)
                + np.einsum("pkl,pkl->p", of_u, of_v)
            )
        return mean[self._place], variance[self._place]


def _side(
    sums: sparse.csr_array,
    table: sparse.csr_array,
    other: FactorPosterior,
    precision: PerComponent,
    beta: float,
) -> FactorPosterior:
    """The optimal q of one grouping's factors, given the other's.

    Args:
        sums: sparse (J, M) sums of weights.
        table: sparse (J, M) weighted sums of residuals.
        other: q of the other factors, M levels.
        precision: expected prior precision.
        beta: 1 / sigma^2.
    """
    k = len(precision)
    gathered = (sums @ other.second.reshape(-1, k * k)).reshape(-1, k, k)
    covariance = np.linalg.inv(beta * gathered + np.diag(precision))
    covariance = 0.5 * (covariance + covariance.transpose(0, 2, 1))
    pulled = beta * (table @ other.mean)
    return FactorPosterior(np.einsum("jkl,jl->jk", covariance, pulled), covariance)


def _rotated(
    u: FactorPosterior, v: FactorPosterior, size: int
) -> tuple[FactorPosterior, FactorPosterior]:
    """The q of u and v after the rotation that maximises the bound (Luttinen and Ilin, 2010).

    Afterwards sum_m E v v' = `size` I, and sum_j E u u' is diagonal with falling entries. The sign
    of each component makes the third moment of the means of v positive.
    """
    root = np.linalg.cholesky(v.second.sum(axis=0) / size)
    inner = root.T @ u.second.sum(axis=0) @ root
    axes = np.linalg.eigh(0.5 * (inner + inner.T))[1][:, ::-1]
    turn = axes.T @ np.linalg.inv(root)
    axes = axes * np.where(((v.mean @ turn.T) ** 3).sum(axis=0) < 0, -1.0, 1.0)
    return u.rotated(axes.T @ root.T), v.rotated(axes.T @ np.linalg.inv(root))


@dataclass(frozen=True)
class TermPosterior:
    """q(u) q(v) q(tau) of one term.

    Attributes:
        u: q of the factors of the first grouping.
        v: q of the factors of the second grouping.
        scales: q(tau).
        prior: prior of tau.
    """

    u: FactorPosterior
    v: FactorPosterior
    scales: ScalePosterior
    prior: Prior

    @classmethod
    def begin(
        cls, table: RatingsTable, prior: Prior, residual: PerRow, seed: list[int]
    ) -> "TermPosterior":
        """The q that a search begins with: v near singular vectors, u with mean zero.

        Args:
            table: the rows.
            prior: prior of tau.
            residual: of each row without this term.
            seed: seed of the random start of the singular vectors.
        """
        v = table.begin(residual, np.random.default_rng(seed))
        size = np.sqrt(np.average(residual**2, weights=table.weights))
        levels, k = table.levels[0], table.rank
        u = FactorPosterior(
            np.zeros((levels, k)), np.broadcast_to(size**2 * np.eye(k), (levels, k, k))
        )
        return cls(u, v, ScalePosterior.of(prior, np.full(k, levels * size**2), levels), prior)

    @property
    def bound(self) -> float:
        """-KL(q || prior) of u, v and tau in nats; the constants in 2 pi cancel."""
        squares = np.einsum("mk,mk->", self.v.mean, self.v.mean)
        squares += np.einsum("mkk->", self.v.covariance)
        return self.scales.bound + self.u.entropy() + self.v.entropy() - 0.5 * float(squares)
