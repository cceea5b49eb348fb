"""Mixed models by dense algebra, to hold the block-wise solver to."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import block_diag

from ranef.inference.pwls.cross_products import GroupingFactor, RowBatch


@dataclass
class Dense:
    """The penalized system written out: [Z Lambda, X]' W [Z Lambda, X] + diag(I, P)."""

    rows: RowBatch
    roots: list
    mean: np.ndarray
    precision: np.ndarray

    def __post_init__(self):
        rows, n = self.rows, len(self.rows.response)
        z = [indicator(f) for f in rows.factors]
        kron = [np.kron(np.eye(f.levels), r) for f, r in zip(rows.factors, self.roots, strict=True)]
        scale = block_diag(*kron) if kron else np.zeros((0, 0))
        w = np.ones(n) if rows.weights is None else rows.weights
        every = np.concatenate(
            [np.concatenate([np.zeros((n, 0)), *z], axis=1) @ scale, rows.common], 1
        )
        self.random = len(scale)
        penalty = np.r_[np.ones(self.random), self.precision]
        self.matrix = every.T @ (w[:, None] * every) + np.diag(penalty)
        right = every.T @ (w * rows.response)
        right[self.random :] += self.precision * self.mean
        u = np.linalg.solve(self.matrix, right)
        total = rows.response @ (w * rows.response) + self.precision @ self.mean**2
        self.residual = total - right @ u
        scale = block_diag(scale, np.eye(rows.common.shape[1]))
        self.coefficients = scale @ u
        self.covariance = scale @ np.linalg.inv(self.matrix) @ scale.T

    @property
    def log_det_random(self):
        return np.linalg.slogdet(self.matrix[: self.random, : self.random])[1]

    @property
    def log_det(self):
        return np.linalg.slogdet(self.matrix)[1]


def indicator(factor: GroupingFactor) -> np.ndarray:
    """Z of a factor, (n, J k)."""
    n, k = factor.columns.shape
    out = np.zeros((n, factor.levels * k))
    for column in range(k):
        out[np.arange(n), factor.codes * k + column] = factor.columns[:, column]
    return out


def example(seed: int = 0, n: int = 240) -> dict:
    """Rows with a factor g, its parents p and t, a crossed factor h, and columns."""
    rng = np.random.default_rng(seed)
    g = np.r_[np.arange(12), rng.integers(0, 12, n - 12)]
    h = np.r_[np.arange(7), rng.integers(0, 7, n - 7)]
    p = np.array([0, 0, 1, 2, 1, 2, 3, 3, 3, 0, 1, 2])[g]
    t = np.array([1, 0, 0, 1])[p]
    x = 3 + rng.normal(size=n)
    one, slopes = np.ones((n, 1)), np.column_stack([np.ones(n), x - 3])
    return {
        "y": rng.normal(size=n) + 0.3 * g,
        "x": np.column_stack([np.ones(n), x, rng.normal(size=n)]),
        "w": rng.uniform(0.5, 2, n),
        "g": GroupingFactor(g, slopes, 12),
        "g1": GroupingFactor(g, one, 12),
        "h": GroupingFactor(h, one, 7),
        "h2": GroupingFactor(h, slopes, 7),
        "p": GroupingFactor(p, slopes, 4),
        "t": GroupingFactor(t, one, 2),
    }
