"""What is left once the largest factor has been eliminated: one dense matrix.

Its order is the coefficients of the remaining factors (R of them), the common effects (p)
and the response. With G the cross-products of these after the elimination, E = diag(Lambda)
the relative roots and P the penalty of the common effects,

    S = E' G E + [I 0; 0 P] = L L'.

Arrays have a leading axis of B values of the hyperparameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_lapack_funcs

Array = NDArray[np.float64]

_potrf, _potri, _trtrs = get_lapack_funcs(("potrf", "potri", "trtrs"), dtype=np.float64)

# A pivot this much smaller than its diagonal element says that the column is, to the digits
# that cross-products keep, a combination of those before it.
_DEPENDENT = 1e-12


class DependentColumnError(ArithmeticError):
    """A column that the data and the priors cannot tell from those before it.

    Attributes:
        column: its place among the common columns; below zero for a group's coefficient.
    """

    def __init__(self, column: int) -> None:
        super().__init__(f"common column {column} is a combination of those before it")
        self.column = column


@dataclass(frozen=True)
class FactorSlice:
    """Where a factor of the remainder lies: `levels` runs of `width` from `start`."""

    factor: int
    start: int
    levels: int
    width: int

    @property
    def place(self) -> slice:
        return slice(self.start, self.start + self.levels * self.width)

    def of(self, last: Array) -> Array:
        """Its coefficients (M, J, k) in those of all that remains, (M, Q)."""
        return last[:, self.place].reshape(len(last), self.levels, self.width)

    def combined(self, covariance: Array, combinations: Array) -> Array:
        """(M, J, m) the variances of combinations (m, k) of each level's coefficients."""
        at = self.start + np.arange(self.levels)[:, None] * self.width + np.arange(self.width)
        blocks = covariance[:, at[:, :, None], at[:, None, :]]
        return np.einsum("mk,bjkl,ml->bjm", combinations, blocks, combinations, optimize=True)


@dataclass(frozen=True)
class SchurLayout:
    """The layout of the dense matrix.

    Attributes:
        parts: the remaining factors in their order.
        common: p.
    """

    parts: tuple[FactorSlice, ...]
    common: int

    @classmethod
    def of(cls, factors: Sequence[tuple[int, int, int]], common: int) -> "SchurLayout":
        """From (factor, levels, width) of each remaining factor."""
        parts, start = [], 0
        for factor, levels, width in factors:
            parts.append(FactorSlice(factor, start, levels, width))
            start += levels * width
        return cls(tuple(parts), common)

    @property
    def random(self) -> int:
        """R, the coefficients of the remaining factors."""
        return sum(part.levels * part.width for part in self.parts)

    @property
    def size(self) -> int:
        """R + p + 1."""
        return self.random + self.common + 1

    def part(self, factor: int) -> FactorSlice:
        """The part of a factor that remains."""
        return next(part for part in self.parts if part.factor == factor)

    def effects(self, last: Array) -> dict[int, Array]:
        """By factor, the coefficients (M, J, k) in those of all that remains, (M, Q)."""
        return {part.factor: part.of(last) for part in self.parts}

    def scaled(self, g: Array, roots: Mapping[int, Array]) -> Array:
        """E' g E, for g (B, Q, Q) or its leading rows and columns."""
        if all(part.width == 1 for part in self.parts):
            scale = self._diagonal(roots)[:, : g.shape[1]]
            out = g * scale[:, :, None]
            out *= scale[:, None, :]
            return out
        half = self._rows_scaled(g, roots)
        return np.swapaxes(self._rows_scaled(np.swapaxes(half, 1, 2), roots), 1, 2)

    def _diagonal(self, roots: Mapping[int, Array]) -> Array:
        """E where it is diagonal, (B, Q)."""
        parts = [np.repeat(roots[p.factor][:, :, 0], p.levels, axis=1) for p in self.parts]
        batch = len(parts[0]) if parts else 1
        return np.concatenate([*parts, np.ones((batch, self.common + 1))], axis=1)

    def _rows_scaled(self, g: Array, roots: Mapping[int, Array]) -> Array:
        """E' g."""
        out = g.copy()
        for part in self.parts:
            rows = out[:, part.place]
            split = rows.reshape(len(g), part.levels, part.width, -1)
            rows[...] = np.einsum("bca,bjcm->bjam", roots[part.factor], split).reshape(rows.shape)
        return out

    def columns_scaled(self, rows: Array, roots: Mapping[int, Array]) -> Array:
        """Rows (r, m) times E, for B = 1."""
        if all(part.width == 1 for part in self.parts):
            return rows * self._diagonal(roots)[0, : rows.shape[1]]
        out = rows.copy()
        for part in self.parts:
            split = out[:, part.place].reshape(len(out), part.levels, part.width)
            out[:, part.place] = (split @ roots[part.factor][0]).reshape(len(out), -1)
        return out

    def unscaled(self, vectors: Array, roots: Mapping[int, Array]) -> Array:
        """E times (M, R + p) or (M, Q), B of 1 or M."""
        out = vectors.copy()
        for part in self.parts:
            split = out[:, part.place].reshape(len(out), part.levels, part.width)
            turned = np.matmul(split, np.swapaxes(roots[part.factor], 1, 2))
            out[:, part.place] = turned.reshape(len(out), -1)
        return out

    def factorize(self, g: Array, roots: Mapping[int, Array], penalty: Array) -> "SchurFactor":
        """The factorization at B values of the hyperparameters.

        Args:
            g: (B, Q, Q).
            roots: factor to Lambda, (B, k, k).
            penalty: (B, p + 1, p + 1): quadratic form of (beta, -1), in units of sigma^2.

        Raises:
            DependentColumnError: for B = 1; several values give nan where they fail.
        """
        s = self.scaled(g, roots) if self.parts else g.copy()
        diagonal = np.arange(self.random)
        s[:, diagonal, diagonal] += 1.0
        s[:, self.random :, self.random :] += penalty
        size = self.size - 1
        right, total = s[:, :size, size], s[:, size, size]
        if len(s) == 1:
            lower, half, solution = self._one(s[0], right[0])
        else:
            lower, half, solution = _each(s[:, :size, :size], right)
        pivots = np.log(np.diagonal(lower, axis1=1, axis2=2))
        coefficients = np.concatenate(
            [self.unscaled(solution, roots), np.full((len(s), 1), -1.0)], axis=1
        )
        return SchurFactor(
            self,
            g,
            roots,
            lower,
            coefficients,
            2 * pivots[:, : self.random].sum(axis=1),
            2 * pivots[:, self.random :].sum(axis=1),
            np.maximum(total - (half**2).sum(axis=1), 0.0),
        )

    def _one(self, s: Array, right: Array) -> tuple[Array, Array, Array]:
        """L of one matrix by LAPACK, L^-1 right and S^-1 right, each with a leading axis."""
        size = len(right)
        if size == 0:
            return np.zeros((1, 0, 0)), right[None], right[None]
        diagonal = np.diagonal(s)[:size].copy()
        # In the order of LAPACK, which then works in place: the matrix is symmetric.
        lower, failed = _potrf(np.array(s[:size, :size], order="F"), lower=1, overwrite_a=1)
        with np.errstate(invalid="ignore"):
            weak = ~(np.diagonal(lower) ** 2 > _DEPENDENT * diagonal)
        weak[: self.random] = False
        if failed or weak.any():
            place = failed - 1 if failed else int(np.argmax(weak))
            raise DependentColumnError(place - self.random)
        half, _ = _trtrs(lower, right, lower=1)
        solution, _ = _trtrs(lower, half, lower=1, trans=1)
        return lower[None], half[None], solution[None]


def _each(s: Array, right: Array) -> tuple[Array, Array, Array]:
    """As `SchurLayout._one`, of several matrices; nan where one fails."""
    try:
        lower = np.linalg.cholesky(s)
    except np.linalg.LinAlgError:
        lower = np.full_like(s, np.nan)
        for i, one in enumerate(s):
            found, failed = _potrf(one, lower=1)
            if not failed:
                lower[i] = found
    half, solution = np.full_like(right, np.nan), np.full_like(right, np.nan)
    fine = ~np.isnan(np.diagonal(lower, axis1=1, axis2=2)).any(axis=1)
    half[fine] = np.linalg.solve(lower[fine], right[fine, :, None])[..., 0]
    turned = np.swapaxes(lower[fine], 1, 2)
    solution[fine] = np.linalg.solve(turned, half[fine, :, None])[..., 0]
    return np.asarray(lower, dtype=np.float64), half, solution


@dataclass(frozen=True)
class SchurFactor:
    """The remainder at B values of the hyperparameters.

    Attributes:
        layout: of the matrix.
        g: (B, Q, Q) cross-products before scaling.
        roots: Lambda of each remaining factor.
        lower: (B, R + p, R + p) L.
        coefficients: (B, Q) b, beta and -1, so that G c = -(what the residual leaves).
        log_det_random, log_det_common: (B,) log det of the two diagonal parts of S.
        residual: (B,) penalised residual sum of squares.
    """

    layout: SchurLayout
    g: Array
    roots: Mapping[int, Array]
    lower: Array
    coefficients: Array
    log_det_random: Array
    log_det_common: Array
    residual: Array

    def inverse(self, *, common: bool) -> Array:
        """S^-1, (B, m, m), m = R + p, or R where the common effects are held fixed."""
        m = self.layout.size - 1 if common else self.layout.random
        lower = self.lower[:, :m, :m]
        if m == 0:
            return lower.copy()
        if len(lower) == 1:
            # LAPACK gives the lower triangle, and the upper one is zero.
            found, _ = _potri(np.array(lower[0], order="F"), lower=1, overwrite_c=1)
            out = found + found.T
            out[np.arange(m), np.arange(m)] = np.diagonal(found)
            return out[None]
        half = np.linalg.inv(lower)
        return np.matmul(np.swapaxes(half, 1, 2), half)

    def covariance(self, inverse: Array) -> Array:
        """E S^-1 E', (B, Q, Q): of b and beta in units of sigma^2, zero for the response."""
        m, size = inverse.shape[1], self.layout.size
        if self.layout.parts:
            swapped = {f: np.swapaxes(root, 1, 2) for f, root in self.roots.items()}
            inverse = self.layout.scaled(inverse, swapped)
        out = np.zeros((len(inverse), size, size))
        out[:, :m, :m] = inverse
        return out

    def derivatives(self, inverse: Array) -> dict[int, tuple[Array, Array]]:
        """By factor, d log det / d Lambda and d residual / d Lambda, (k, k), for B = 1.

        With T = sum_j [Z' V^-1 Z]_jj and s_j = Z_j' V^-1 (y - X beta) they are 2 T Lambda and
        -2 (sum_j s_j s_j') Lambda, for a singular Lambda too, because T Lambda = [G E S^-1]_jj.
        """
        out: dict[int, tuple[Array, Array]] = {}
        m = inverse.shape[1]
        for part in self.layout.parts:
            k, root = part.width, self.roots[part.factor][0]
            rows = self.g[0, part.place]
            scaled = self.layout.columns_scaled(rows[:, :m], self.roots)
            blocks = scaled.reshape(part.levels, k, m)
            inverses = inverse[0, part.place].reshape(part.levels, k, m)
            information = _summed(blocks, inverses)
            score = (-rows @ self.coefficients[0]).reshape(part.levels, k)
            out[part.factor] = (2 * information, -2 * (score.T @ score) @ root)
        return out

    def draws(self, sigma: Array, noise: Array) -> Array:
        """(M, Q) draws of b, beta and -1 around the solution, B of 1 or M; noise (M, R + p)."""
        if noise.shape[1] == 0:
            return np.repeat(self.coefficients, len(noise) // len(self.coefficients), axis=0)
        if len(self.lower) == 1:
            u = _trtrs(self.lower[0], noise.T, lower=1, trans=1)[0].T
        else:
            u = np.linalg.solve(np.swapaxes(self.lower, 1, 2), noise[..., None])[..., 0]
        away = self.layout.unscaled(sigma[:, None] * u, self.roots)
        return self.coefficients + np.concatenate([away, np.zeros((len(away), 1))], axis=1)


def _summed(blocks: Array, inverses: Array) -> Array:
    """Sum over levels of A_j B_j', (k, k), for A and B (J, k, m)."""
    levels, k, _ = blocks.shape
    if levels < k:
        return np.matmul(blocks, inverses.swapaxes(1, 2)).sum(axis=0)
    by_column = [[np.einsum("jm,jm->", blocks[:, a], inverses[:, c]) for c in range(k)]
                 for a in range(k)]  # fmt: skip
    return np.array(by_column)
