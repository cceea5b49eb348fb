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
from scipy.linalg import get_lapack_funcs, solve_triangular

Array = NDArray[np.float64]

_dpotrf, _dpotri = get_lapack_funcs(("potrf", "potri"), dtype=np.float64)

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
class Part:
    """Where a factor of the remainder lies: `levels` runs of `width` from `start`."""

    factor: int
    start: int
    levels: int
    width: int

    @property
    def place(self) -> slice:
        return slice(self.start, self.start + self.levels * self.width)


@dataclass(frozen=True)
class Remainder:
    """The layout of the dense matrix.

    Attributes:
        parts: the remaining factors in their order.
        common: p.
    """

    parts: tuple[Part, ...]
    common: int

    @classmethod
    def of(cls, factors: Sequence[tuple[int, int, int]], common: int) -> "Remainder":
        """From (factor, levels, width) of each remaining factor."""
        parts, start = [], 0
        for factor, levels, width in factors:
            parts.append(Part(factor, start, levels, width))
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

    def scaled(self, g: Array, roots: Mapping[int, Array]) -> Array:
        """E' g, on the second axis from the end; the common rows stay as they are."""
        out = g.copy()
        for part in self.parts:
            rows = out[:, part.place]
            root = roots[part.factor]
            if part.width == 1:
                rows *= root.reshape(-1, 1, 1)
                continue
            split = rows.reshape(len(g), part.levels, part.width, -1)
            rows[...] = np.einsum("bca,bjcm->bjam", root, split).reshape(rows.shape)
        return out

    def factorize(self, g: Array, roots: Mapping[int, Array], penalty: Array) -> "Factorized":
        """The factorization at B values of the hyperparameters.

        Args:
            g: (B, Q, Q).
            roots: factor to Lambda, (B, k, k).
            penalty: (B, p + 1, p + 1): quadratic form of (beta, -1), in units of sigma^2.

        Raises:
            DependentColumnError: for B = 1; several values give nan where they fail.
        """
        s = g.copy()
        if self.parts:
            s = self.scaled(s, roots)
            s = np.swapaxes(self.scaled(np.swapaxes(s, 1, 2), roots), 1, 2)
            diagonal = np.arange(self.random)
            s[:, diagonal, diagonal] += 1.0
        s[:, self.random :, self.random :] += penalty
        size = self.size - 1
        lower = self._one(s[0])[None] if len(s) == 1 else _each(s)
        # The response's row is the solution half way, its last element the penalised residual.
        half = lower[:, size, :size]
        pivots = np.log(np.diagonal(lower, axis1=1, axis2=2)[:, :size])
        solution = _transposed_solve(lower[:, :size, :size], half)
        coefficients = np.concatenate([solution, np.full((len(s), 1), -1.0)], axis=1)
        coefficients = self._unscaled(coefficients, roots)
        return Factorized(
            self,
            g,
            roots,
            lower,
            coefficients,
            2 * pivots[:, : self.random].sum(axis=1),
            2 * pivots[:, self.random :].sum(axis=1),
            lower[:, size, size] ** 2,
        )

    def _one(self, s: Array) -> Array:
        """The Cholesky factor of one matrix, the response's row and all, by LAPACK."""
        size = self.size - 1
        out = np.zeros_like(s)
        if size:
            lower, failed = _dpotrf(s[:size, :size], lower=1, clean=1)
            pivots = np.diagonal(lower) ** 2
            with np.errstate(invalid="ignore"):
                weak = ~(pivots > _DEPENDENT * np.diagonal(s)[:size])
            weak[: self.random] = False
            if failed or weak.any():
                raise DependentColumnError(
                    (failed - 1 if failed else int(np.argmax(weak))) - self.random
                )
            out[:size, :size] = lower
            out[size, :size] = solve_triangular(lower, s[:size, size], lower=True)
        out[size, size] = np.sqrt(max(s[size, size] - out[size, :size] @ out[size, :size], 0.0))
        return out

    def _unscaled(self, vectors: Array, roots: Mapping[int, Array]) -> Array:
        """E times (B, Q)."""
        for part in self.parts:
            split = vectors[:, part.place].reshape(len(vectors), part.levels, part.width)
            root = roots[part.factor]
            vectors[:, part.place] = np.matmul(split, np.swapaxes(root, 1, 2)).reshape(
                len(vectors), -1
            )
        return vectors


def _each(s: Array) -> Array:
    """The factor of each of several matrices as `Remainder._one` has it; nan where it fails."""
    size = s.shape[1] - 1
    out = np.zeros_like(s)
    if size:
        lower = _choleskies(s[:, :size, :size])
        out[:, :size, :size] = lower
        fine = ~np.isnan(lower[:, 0, 0])
        half = np.linalg.solve(lower[fine], s[fine, :size, size:])[..., 0]
        out[fine, size, :size] = half
    rest = s[:, size, size] - (out[:, size, :size] ** 2).sum(axis=1)
    out[:, size, size] = np.sqrt(np.maximum(rest, 0.0))
    return out


def _choleskies(s: Array) -> Array:
    try:
        return np.asarray(np.linalg.cholesky(s), dtype=np.float64)
    except np.linalg.LinAlgError:
        out = np.full_like(s, np.nan)
        for i, one in enumerate(s):
            lower, failed = _dpotrf(one, lower=1, clean=1)
            if not failed:
                out[i] = lower
        return out


def _transposed_solve(lower: Array, b: Array) -> Array:
    """L'^-1 b for b (B, m), one right-hand side each."""
    if b.shape[1] == 0:
        return b.copy()
    if len(lower) == 1:
        return solve_triangular(lower[0], b[0], lower=True, trans=1)[None]
    if np.isnan(lower).any():
        lower = np.where(np.isnan(lower).any(axis=(1, 2), keepdims=True), np.eye(b.shape[1]), lower)
    out = np.linalg.solve(np.swapaxes(lower, 1, 2), b[..., None])[..., 0]
    return np.asarray(out, dtype=np.float64)


@dataclass(frozen=True)
class Factorized:
    """The remainder at B values of the hyperparameters.

    Attributes:
        layout: of the matrix.
        g: (B, Q, Q) cross-products before scaling.
        roots: Lambda of each remaining factor.
        lower: (B, Q, Q) L, the response's row last.
        coefficients: (B, Q) b, beta and -1, so that G c = -(what the residual leaves).
        log_det_random, log_det_common: (B,) log det of the two diagonal parts of S.
        residual: (B,) penalised residual sum of squares.
    """

    layout: Remainder
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
            out, _ = _dpotri(lower[0], lower=1)
            upper = np.triu_indices(m, 1) if m < 2_000 else None
            if upper is not None:
                out[upper] = out.T[upper]
            else:
                out = np.tril(out) + np.tril(out, -1).T
            return out[None]
        half = np.linalg.inv(lower)
        return np.matmul(np.swapaxes(half, 1, 2), half)

    def covariance(self, inverse: Array) -> Array:
        """E S^-1 E', (B, Q, Q): of b and beta in units of sigma^2, zero for the response."""
        m, size = inverse.shape[1], self.layout.size
        out = np.zeros((len(inverse), size, size))
        out[:, :m, :m] = inverse
        if self.layout.parts:
            swapped = {f: np.swapaxes(root, 1, 2) for f, root in self.roots.items()}
            out = self.layout.scaled(out, swapped)
            out = np.swapaxes(self.layout.scaled(np.swapaxes(out, 1, 2), swapped), 1, 2)
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
            scaled = self._columns_scaled(rows[:, :m])
            blocks = scaled.reshape(part.levels, k, m)
            inverses = inverse[0, part.place].reshape(part.levels, k, m)
            information = np.empty((k, k))
            for a in range(k):
                for c in range(k):
                    information[a, c] = np.einsum("jm,jm->", blocks[:, a], inverses[:, c])
            score = (-rows @ self.coefficients[0]).reshape(part.levels, k)
            out[part.factor] = (2 * information, -2 * (score.T @ score) @ root)
        return out

    def _columns_scaled(self, rows: Array) -> Array:
        """Rows times E, for B = 1."""
        out = rows.copy()
        for part in self.layout.parts:
            split = out[:, part.place].reshape(len(out), part.levels, part.width)
            out[:, part.place] = (split @ self.roots[part.factor][0]).reshape(len(out), -1)
        return out

    def draws(self, sigma: Array, noise: Array) -> Array:
        """(M, Q) draws of b, beta and -1 around the solution, B of 1 or M; noise (M, R + p)."""
        m = self.layout.size - 1
        if m == 0:
            return np.broadcast_to(self.coefficients, (len(noise), 1)).copy()
        lower = self.lower[:, :m, :m]
        if len(lower) == 1:
            u = solve_triangular(lower[0], noise.T, lower=True, trans=1).T
        else:
            u = _transposed_solve(lower, noise)
        away = np.concatenate([sigma[:, None] * u, np.zeros((len(noise), 1))], axis=1)
        if len(lower) == 1:
            for part in self.layout.parts:
                split = away[:, part.place].reshape(len(away), part.levels, part.width)
                turned = split @ self.roots[part.factor][0].T
                away[:, part.place] = turned.reshape(len(away), -1)
        else:
            away = self.layout._unscaled(away, self.roots)
        return self.coefficients + away
