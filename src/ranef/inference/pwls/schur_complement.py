"""The Schur complement that remains after elimination of group effects, as one dense matrix.

Its rows and columns are the R coefficients of the remaining factors, the p common effects and the
response, Q = R + p + 1 in this order. Let G be their cross-products after the elimination,
E = diag(Lambda) the relative roots (identity for common effects and response), and P the penalty,
a quadratic form of (beta, -1). The system is

    S = E' G E + [I 0; 0 P],    S without the response = L L'.

Arrays have a leading axis of B values of the hyperparameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_lapack_funcs

from ranef.numerics.shapes import Float

Array = NDArray[np.float64]

_potrf, _potri, _trtrs = get_lapack_funcs(("potrf", "potri", "trtrs"), dtype=np.float64)

# Ratio of squared pivot to diagonal element below which a column counts as a linear combination of
# those before it: cross-products in double precision do not keep enough digits to tell.
_DEPENDENT = 1e-12


class DependentColumnError(ArithmeticError):
    """A column is a linear combination of those before it, and its prior is flat or too wide.

    Attributes:
        column: index among the common columns; negative for a coefficient of a remaining factor.
    """

    def __init__(self, column: int) -> None:
        super().__init__(f"common column {column} is a combination of those before it")
        self.column = column


@dataclass(frozen=True)
class FactorSlice:
    """The position of a remaining factor's coefficients, level by level.

    Attributes:
        factor: index of the factor.
        start: position of its first coefficient.
        levels: number of levels.
        width: number of columns k, the coefficients of one level.
    """

    factor: int
    start: int
    levels: int
    width: int

    @property
    def place(self) -> slice:
        """The positions of its coefficients."""
        return slice(self.start, self.start + self.levels * self.width)

    def of(self, last: Float[Array, "draws Q"]) -> Float[Array, "draws levels k"]:
        """Its coefficients, extracted from all remaining coefficients."""
        return last[:, self.place].reshape(len(last), self.levels, self.width)

    def combined(
        self, covariance: Float[Array, "B Q Q"], combinations: Float[Array, "m k"]
    ) -> Float[Array, "B levels m"]:
        """Variances of linear combinations of each level's coefficients."""
        at = self.start + np.arange(self.levels)[:, None] * self.width + np.arange(self.width)
        blocks = covariance[:, at[:, :, None], at[:, None, :]]
        return np.einsum("mk,bjkl,ml->bjm", combinations, blocks, combinations, optimize=True)


@dataclass(frozen=True)
class SchurLayout:
    """The layout of the dense matrix.

    Attributes:
        slices: the remaining factors in order.
        common: number of common effects p.
    """

    slices: tuple[FactorSlice, ...]
    common: int

    @classmethod
    def of(cls, factors: Sequence[tuple[int, int, int]], common: int) -> "SchurLayout":
        """From (factor, levels, width) of each remaining factor."""
        slices, start = [], 0
        for factor, levels, width in factors:
            slices.append(FactorSlice(factor, start, levels, width))
            start += levels * width
        return cls(tuple(slices), common)

    @property
    def random(self) -> int:
        """Number R of coefficients of the remaining factors."""
        return sum(span.levels * span.width for span in self.slices)

    @property
    def size(self) -> int:
        """Order of the matrix, Q = R + p + 1."""
        return self.random + self.common + 1

    def slice_of(self, factor: int) -> FactorSlice:
        """The slice of a remaining factor."""
        return next(span for span in self.slices if span.factor == factor)

    def effects(self, last: Float[Array, "draws Q"]) -> dict[int, Float[Array, "draws _levels _k"]]:
        """By factor, its coefficients, extracted from all remaining ones."""
        return {span.factor: span.of(last) for span in self.slices}

    def scaled(
        self, g: Float[Array, "B m m"], roots: Mapping[int, Float[Array, "B _k _k"]]
    ) -> Float[Array, "B m m"]:
        """E' g E, for a matrix g of the remaining coefficients (m = Q) or a leading block of it."""
        if all(span.width == 1 for span in self.slices):
            scale = self._diagonal(roots)[:, : g.shape[1]]
            out = g * scale[:, :, None]
            out *= scale[:, None, :]
            return out
        half = self._rows_scaled(g, roots)
        return np.swapaxes(self._rows_scaled(np.swapaxes(half, 1, 2), roots), 1, 2)

    def _diagonal(self, roots: Mapping[int, Float[Array, "B 1 1"]]) -> Float[Array, "B Q"]:
        """The diagonal of E, for factors of one column each."""
        scales = [np.repeat(roots[p.factor][:, :, 0], p.levels, axis=1) for p in self.slices]
        batch = len(scales[0]) if scales else 1
        return np.concatenate([*scales, np.ones((batch, self.common + 1))], axis=1)

    def _rows_scaled(
        self, g: Float[Array, "B m m"], roots: Mapping[int, Float[Array, "B _k _k"]]
    ) -> Float[Array, "B m m"]:
        """E' g."""
        out = g.copy()
        for span in self.slices:
            rows = out[:, span.place]
            split = rows.reshape(len(g), span.levels, span.width, -1)
            rows[...] = np.einsum("bca,bjcm->bjam", roots[span.factor], split).reshape(rows.shape)
        return out

    def columns_scaled(
        self, rows: Float[Array, "l m"], roots: Mapping[int, Float[Array, "1 _k _k"]]
    ) -> Float[Array, "l m"]:
        """The product of rows and E, for B = 1."""
        if all(span.width == 1 for span in self.slices):
            return rows * self._diagonal(roots)[0, : rows.shape[1]]
        out = rows.copy()
        for span in self.slices:
            split = out[:, span.place].reshape(len(out), span.levels, span.width)
            out[:, span.place] = (split @ roots[span.factor][0]).reshape(len(out), -1)
        return out

    def unscaled(
        self, vectors: Float[Array, "draws m"], roots: Mapping[int, Float[Array, "#draws _k _k"]]
    ) -> Float[Array, "draws m"]:
        """The product of E and vectors, for m equal to R + p or Q."""
        out = vectors.copy()
        for span in self.slices:
            split = out[:, span.place].reshape(len(out), span.levels, span.width)
            turned = np.matmul(split, np.swapaxes(roots[span.factor], 1, 2))
            out[:, span.place] = turned.reshape(len(out), -1)
        return out

    def factorize(
        self,
        g: Float[Array, "B Q Q"],
        roots: Mapping[int, Float[Array, "B _k _k"]],
        penalty: Float[Array, "B q q"],
    ) -> "SchurFactor":
        """The factorization at B values of the hyperparameters.

        Args:
            g: cross-products after the elimination.
            roots: by remaining factor, Lambda.
            penalty: prior of the common effects as a quadratic form of (beta, -1); precisions are
                in units of 1 / sigma^2.

        Raises:
            DependentColumnError: for B = 1, if S is singular to working precision. For B > 1 the
                results of singular systems are nan.
        """
        s = self.scaled(g, roots) if self.slices else g.copy()
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

    def _one(
        self, s: Float[Array, "Q Q"], right: Float[Array, "m"]
    ) -> tuple[Float[Array, "1 m m"], Float[Array, "1 m"], Float[Array, "1 m"]]:
        """L, L^-1 right and S^-1 right of one matrix, by LAPACK; each with a leading axis of 1."""
        size = len(right)
        if size == 0:
            return np.zeros((1, 0, 0)), right[None], right[None]
        diagonal = np.diagonal(s)[:size].copy()
        # In Fortran order LAPACK factorizes the copy in place.
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


def _each(
    s: Float[Array, "B m m"], right: Float[Array, "B m"]
) -> tuple[Float[Array, "B m m"], Float[Array, "B m"], Float[Array, "B m"]]:
    """As `SchurLayout._one` for several matrices; nan for those that are not positive definite."""
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
    """The factorized Schur complement at B values of the hyperparameters.

    Attributes:
        layout: layout of the matrix.
        g: cross-products G before scaling by the roots.
        roots: by remaining factor, Lambda.
        lower: Cholesky factor L, with R + p columns.
        coefficients: the solution c = (b, beta, -1). The scores of the coefficients are -G c.
        log_det_random: log determinant of the leading block of S, with R rows and columns.
        log_det_common: log determinant of the Schur complement of this block, with p rows and
            columns.
        residual: penalized residual sum of squares.
    """

    layout: SchurLayout
    g: Float[Array, "B Q Q"]
    roots: Mapping[int, Float[Array, "B _k _k"]]
    lower: Float[Array, "B Q-1 Q-1"]
    coefficients: Float[Array, "B Q"]
    log_det_random: Float[Array, "B"]
    log_det_common: Float[Array, "B"]
    residual: Float[Array, "B"]

    def inverse(self, *, common: bool) -> Float[Array, "B m m"]:
        """The inverse of S without the response.

        Args:
            common: whether common effects are included; otherwise they are held fixed.

        Returns:
            The inverse, with R + p columns if common effects are included and R without.
        """
        m = self.layout.size - 1 if common else self.layout.random
        lower = self.lower[:, :m, :m]
        if m == 0:
            return lower.copy()
        if len(lower) == 1:
            # LAPACK fills the lower triangle only; the upper one is zero.
            found, _ = _potri(np.array(lower[0], order="F"), lower=1, overwrite_c=1)
            out = found + found.T
            out[np.arange(m), np.arange(m)] = np.diagonal(found)
            return out[None]
        half = np.linalg.inv(lower)
        return np.matmul(np.swapaxes(half, 1, 2), half)

    def covariance(self, inverse: Float[Array, "B m m"]) -> Float[Array, "B Q Q"]:
        """E S^-1 E', the covariance of b and beta in units of sigma^2.

        Rows and columns of the response, and of common effects that are held fixed, are zero.
        """
        m, size = inverse.shape[1], self.layout.size
        if self.layout.slices:
            swapped = {f: np.swapaxes(root, 1, 2) for f, root in self.roots.items()}
            inverse = self.layout.scaled(inverse, swapped)
        out = np.zeros((len(inverse), size, size))
        out[:, :m, :m] = inverse
        return out

    def derivatives(
        self, inverse: Float[Array, "1 m m"]
    ) -> dict[int, tuple[Float[Array, "_k _k"], Float[Array, "_k _k"]]]:
        """By factor, d log det / d Lambda and d residual / d Lambda, for B = 1.

        With T = sum_j [Z' V^-1 Z]_jj and the scores s_j = Z_j' V^-1 (y - X beta) of the levels j,
        the derivatives are 2 T Lambda and -2 (sum_j s_j s_j') Lambda. No inverse of Lambda is
        needed, because T Lambda = sum_j [G E S^-1]_jj.
        """
        out = {}
        m = inverse.shape[1]
        for span in self.layout.slices:
            k, root = span.width, self.roots[span.factor][0]
            rows = self.g[0, span.place]
            scaled = self.layout.columns_scaled(rows[:, :m], self.roots)
            blocks = scaled.reshape(span.levels, k, m)
            inverses = inverse[0, span.place].reshape(span.levels, k, m)
            information = _summed(blocks, inverses)
            score = (-rows @ self.coefficients[0]).reshape(span.levels, k)
            out[span.factor] = (2 * information, -2 * (score.T @ score) @ root)
        return out

    def draws(
        self, sigma: Float[Array, "draws"], noise: Float[Array, "draws m"]
    ) -> Float[Array, "draws m+1"]:
        """Posterior draws of (b, beta, -1), c + E L'^-1 noise times sigma.

        Args:
            sigma: residual sd of each draw. There are B draws unless B is 1.
            noise: standard normal numbers, R + p for each draw.
        """
        if noise.shape[1] == 0:
            return np.repeat(self.coefficients, len(noise) // len(self.coefficients), axis=0)
        if len(self.lower) == 1:
            u = _trtrs(self.lower[0], noise.T, lower=1, trans=1)[0].T
        else:
            u = np.linalg.solve(np.swapaxes(self.lower, 1, 2), noise[..., None])[..., 0]
        away = self.layout.unscaled(sigma[:, None] * u, self.roots)
        return self.coefficients + np.concatenate([away, np.zeros((len(away), 1))], axis=1)


def _summed(
    blocks: Float[Array, "levels k m"], inverses: Float[Array, "levels k m"]
) -> Float[Array, "k k"]:
    """Sum over levels j of A_j B_j'."""
    levels, k, _ = blocks.shape
    if levels < k:
        return np.matmul(blocks, inverses.swapaxes(1, 2)).sum(axis=0)
    by_column = [[np.einsum("jm,jm->", blocks[:, a], inverses[:, c]) for c in range(k)]
                 for a in range(k)]  # fmt: skip
    return np.array(by_column)
