"""Adaptive importance sampling with a mixture of t distributions as proposal.

The proposal starts at the mode, adapts to the weighted draws (West, 1993), and has the symmetries
of the target. Weights are Pareto-smoothed (PSIS; Vehtari et al., 2024).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from ranef.inference.hyperparameters.mode import Mode, Target, signs
from ranef.numerics.psis import smoothed
from ranef.numerics.shapes import Float, Int

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ProposalMixture:
    """An equally weighted mixture of t distributions of one covariance, with symmetries.

        q(x) = sum_s 1/m sum_c t_nu(s x; centre_c, root root'),

    where s runs over the sign changes under which the target is the same.

    Attributes:
        centres: m of them.
        root: lower triangular.
        nu: degrees of freedom.
        signs: rows of ones and minus ones, the first row all ones.
    """

    centres: Float[Array, "m d"]
    root: Float[Array, "d d"]
    nu: float
    signs: Float[Array, "folds d"]

    def sample(self, rng: np.random.Generator, size: int) -> Float[Array, "{size} d"]:
        """Draws before sign changes, divided evenly among the centres."""
        m, d = self.centres.shape
        which = rng.permutation(np.arange(size) % m)
        noise = rng.standard_normal((size, d)) @ self.root.T
        stretch = np.sqrt(self.nu / rng.chisquare(self.nu, size))
        return self.centres[which] + noise * stretch[:, None]

    def log_density(self, x: Float[Array, "points d"]) -> Float[Array, "points"]:
        """Log q at x, summed over the sign changes."""
        images = np.stack([self._plain(x * sign) for sign in self.signs])
        return np.asarray(logsumexp(images, axis=0), dtype=np.float64)

    def _plain(self, x: Float[Array, "points d"]) -> Float[Array, "points"]:
        """Log density at x of the mixture without sign changes."""
        m, d = self.centres.shape
        inverse = np.linalg.inv(self.root)
        a, c = x @ inverse.T, self.centres @ inverse.T
        constant = (
            gammaln((self.nu + d) / 2)
            - gammaln(self.nu / 2)
            - 0.5 * d * np.log(self.nu * np.pi)
            - np.log(np.diagonal(self.root)).sum()
        )
        if m == 1:
            squares = ((a - c[0]) ** 2).sum(axis=1)[:, None]
        else:
            squares = (a**2).sum(axis=1)[:, None] - 2 * a @ c.T + (c**2).sum(axis=1)
            squares = np.maximum(squares, 0.0)
        each = constant - 0.5 * (self.nu + d) * np.log1p(squares / self.nu)
        return each[:, 0] if m == 1 else logsumexp(each, axis=1) - np.log(m)


def resampled(
    rng: np.random.Generator, weights: Float[Array, "points"], size: int
) -> Int[NDArray[np.int64], "{size}"]:
    """Systematic resampling (Kitagawa, 1996).

    Args:
        rng: of the resampling.
        weights: normalised.
        size: number of draws.

    Returns:
        places of `size` equally weighted draws, in random order.
    """
    steps = (np.arange(size) + rng.random()) / size
    places = np.searchsorted(np.cumsum(weights), steps)
    return rng.permutation(np.minimum(places, len(weights) - 1))


def adapted(
    rng: np.random.Generator,
    x: Float[Array, "points d"],
    weights: Float[Array, "points"],
    signs: Float[Array, "folds d"],
    centres: int = 60,
) -> ProposalMixture:
    """A kernel mixture with about the mean and covariance of weighted draws (West, 1993).

    Args:
        rng: of the centres.
        x: draws.
        weights: normalised.
        signs: sign changes under which the target is the same.
        centres: number of components.
    """
    d = x.shape[1]
    mean = weights @ x
    covariance = (weights[:, None] * (x - mean)).T @ (x - mean)
    effective = 1 / float((weights**2).sum())
    bandwidth = (4 / ((d + 2) * min(effective, centres))) ** (1 / (d + 4))
    bandwidth = min(bandwidth, 0.95)
    places = resampled(rng, weights, centres)
    shrunk = np.sqrt(1 - bandwidth**2) * (x[places] - mean) + mean
    root = np.linalg.cholesky(covariance + 1e-12 * np.trace(covariance) * np.eye(d))
    return ProposalMixture(shrunk, 1.1 * bandwidth * root, 6.0, signs)


# Largest number of rounds, between which the proposal adapts.
_ROUNDS = 6
# The proposal stops adapting if k-hat is below this and the effective share is large enough.
_K_HAT = 0.5
# Effective number of draws, as a share of all, above which it may stop adapting.
_EFFECTIVE = 0.3


def importance(
    log_density: Callable[[Float[Array, "B d"]], Float[Array, "B"]],
    target: Target,
    top: Mode,
    rng: np.random.Generator,
    size: int,
) -> tuple[Float[Array, "{size} d"], Float[Array, "{size}"], float, float, int]:
    """Weighted draws by adaptive importance sampling.

    Args:
        log_density: of the distribution to draw from.
        target: has the symmetries of that density.
        top: its mode.
        rng: of the draws.
        size: number of draws of each proposal.

    Returns:
        x, smoothed weights, k-hat and effective share of the best round, and the
        number of evaluations of all rounds.

    Raises:
        FloatingPointError: if the density is not finite at any draw.
    """
    proposal = ProposalMixture(top.x[None], 1.1 * top.root, 6.0, signs(target, top))
    best: tuple[Array, Array, float, float] | None = None
    evaluations = 0
    for _ in range(_ROUNDS):
        x = target.canonical(proposal.sample(rng, size))
        log_ratios = log_density(x) - proposal.log_density(x)
        evaluations += size
        if not np.isfinite(log_ratios).any():
            break
        weights, k = smoothed(np.where(np.isfinite(log_ratios), log_ratios, -1e300))
        effective = 1 / float((weights**2).sum()) / size
        if best is None or effective > best[3]:
            best = (x, weights, k, effective)
        if k < _K_HAT and effective > _EFFECTIVE:
            break
        proposal = adapted(rng, best[0], best[1], proposal.signs)
    if best is None:
        raise FloatingPointError("the density is zero everywhere around its mode")
    return *best, evaluations
