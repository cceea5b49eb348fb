"""Hilbert-space approximation of Gaussian processes by their spectral densities.

On the box [-L_1, L_1] x ... the eigenfunctions of the Laplacian that are zero on its boundary are

    phi_j(x) = prod_d sqrt(1 / L_d) sin(w_jd (x_d + L_d)),   w_jd = pi j_d / (2 L_d).

A stationary Gaussian process with spectral density S is approximated by

    f(x) = sum_j sqrt(S(w_j)) phi_j(x) beta_j

with independent standard normal beta_j (Solin and Sarkka, 2020, eq. 20).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ranef.lazy import ArrayLike
from ranef.numerics.shapes import Float
from ranef.terms.blocks import AnyArray, Spectrum

Array = NDArray[np.float64]
Sds = Float[Array, "*draws k"]

# Lower bound on the sds relative to the amplitude, added to them in quadrature. In single
# precision, normal densities with smaller sds cannot be computed.
_LEAST = 1e-5


@dataclass(frozen=True)
class Kernel:
    """A family of covariance functions, and the size of the basis that it needs.

    For data on [-S, S] and a basis on [-L, L] with L = c S, a length scale l needs
    m >= functions c / (l / S) basis functions and c >= boundary l / S (Riutort-Mayol et al., 2023,
    sec. 4.3).

    Attributes:
        name: name of the kernel.
        smoothness: nu of a Matern kernel, infinite for the squared exponential.
        functions: the constant in the bound on m.
        boundary: the constant in the bound on c.
    """

    name: str
    smoothness: float
    functions: float
    boundary: float

    def shortest(self, m: int, c: float) -> float:
        """The shortest l / S that m basis functions represent."""
        return self.functions * c / m

    def longest(self, c: float) -> float:
        """The longest l / S for which a boundary factor c suffices."""
        return c / self.boundary


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("matern52", 2.5, 2.65, 4.1),
        Kernel("matern32", 1.5, 3.42, 4.5),
        Kernel("sqexp", math.inf, 1.75, 3.2),
    )
}


@dataclass(frozen=True)
class SpectralSds(Spectrum):
    """The prior sds of the weights of a Gaussian process.

    They belong to the columns prod_d sqrt(2 L_d) phi_jd(x_d), whose mean square over the box is
    one:

        sd_j^2 = S(w_j; a, l) / prod_d (2 L_d)

    Attributes:
        kernel: name of the kernel.
        amplitude: site of a, the sd of the process.
        lengths: sites of the length scales, one for each dimension or one for all.
        sizes: number of basis functions m_d of each dimension. In the order of the columns the
            last dimension varies fastest.
        ends: L_d, in the units of the column.
        begin: starting value of each length scale.
    """

    kernel: str
    amplitude: str
    lengths: tuple[str, ...]
    sizes: tuple[int, ...]
    ends: tuple[float, ...]
    begin: tuple[float, ...]

    @property
    def starts(self) -> Mapping[str, float]:
        return dict(zip(self.lengths, self.begin, strict=True))

    @cached_property
    def frequencies(self) -> Float[Array, "k d"]:
        """The frequencies w_jd of each column and dimension."""
        return np.array(orders(self.sizes)) * np.pi / (2 * np.array(self.ends))

    def _relative(
        self, values: Mapping[str, ArrayLike], xp: ModuleType
    ) -> tuple[Float[AnyArray, "*draws k"], Float[AnyArray, "*draws k d"]]:
        """S(w_j) / (a^2 prod_d 2 L_d), and (l_d w_jd)^2 of each dimension."""
        d, nu = len(self.sizes), KERNELS[self.kernel].smoothness
        each = [values[name] for name in self.lengths]
        length = xp.stack(each * d if len(each) == 1 else each, axis=-1)
        squares = (length[..., None, :] * self.frequencies) ** 2
        q = squares.sum(axis=-1)
        volume = xp.prod(length / (2 * np.array(self.ends)), axis=-1)[..., None]
        if math.isinf(nu):
            return (2 * math.pi) ** (d / 2) * volume * xp.exp(-q / 2), squares
        constant = 2**d * math.pi ** (d / 2) * (2 * nu) ** nu
        constant *= math.gamma(nu + d / 2) / math.gamma(nu)
        return constant * volume * (2 * nu + q) ** -(nu + d / 2), squares

    def sds(
        self, values: Mapping[str, ArrayLike], xp: ModuleType = np
    ) -> Float[AnyArray, "*draws k"]:
        relative, _ = self._relative(values, xp)
        amplitude = xp.asarray(values[self.amplitude])[..., None]
        return amplitude * xp.sqrt(relative + _LEAST**2)

    def slopes(self, values: Mapping[str, ArrayLike]) -> dict[str, Sds]:
        """Derivatives of the sds in the amplitude and in each length scale, by site."""
        relative, squares = map(np.asarray, self._relative(values, np))
        d, nu = len(self.sizes), KERNELS[self.kernel].smoothness
        root = np.sqrt(relative + _LEAST**2)
        if math.isinf(nu):
            by_log = 1 - squares
        else:
            by_log = 1 - (2 * nu + d) * squares / (2 * nu + squares.sum(axis=-1))[..., None]
        # Derivatives of the sds with respect to the log length scales, (..., k, D).
        by_log = (relative / root * np.asarray(values[self.amplitude]) / 2)[..., None] * by_log
        if len(self.lengths) == 1:
            by_log = by_log.sum(axis=-1, keepdims=True)
        out = {n: by_log[..., i] / np.asarray(values[n]) for i, n in enumerate(self.lengths)}
        return {self.amplitude: root, **out}


def orders(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """The multi-index j = (j_1, ..., j_D) of every column."""
    return list(product(*(range(1, m + 1) for m in sizes)))


def columns(
    u: Float[AnyArray, "n d"],
    sizes: Sequence[int],
    factors: Sequence[float],
    xp: ModuleType = np,
) -> Float[AnyArray, "n k"]:
    """The columns prod_d sqrt(2 L_d) phi_jd(u_d) of the basis.

    Args:
        u: points, scaled so that training data are on [-1, 1].
        sizes: number of basis functions m_d of each dimension.
        factors: L_d on this scale.
        xp: `numpy` or `jax.numpy`.

    Returns:
        The columns. Beyond L_d they are zero, so that the process is at its mean there.
    """
    each = []
    for d, (m, c) in enumerate(zip(sizes, factors, strict=True)):
        at = xp.clip(u[:, d], -c, c)[:, None]
        waves = np.arange(1, m + 1) * (np.pi / (2 * c))
        each.append(math.sqrt(2.0) * xp.sin(waves * (at + c)))
    out = each[0]
    for own in each[1:]:
        out = (out[:, :, None] * own[:, None, :]).reshape(len(own), -1)
    return out


def covariance(kernel: str, distance: Float[Array, "*pairs"]) -> Float[Array, "*pairs"]:
    """The covariance function k(r) at r = |x - x'| / l, for an amplitude of one."""
    nu, r = KERNELS[kernel].smoothness, distance
    if math.isinf(nu):
        return np.exp(-(r**2) / 2)
    r = math.sqrt(2 * nu) * r
    return (1 + r + (r**2 / 3 if nu == 2.5 else 0.0)) * np.exp(-r)
