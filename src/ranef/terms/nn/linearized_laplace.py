"""Linearized Laplace approximation of the posterior of all weights of a network.

At point estimates w^ with Jacobian J the network is replaced by its linearization

    f(x; w) = f(x; w^) + J(x) (w - w^),   w ~ N(0, tau^2 D).

This is the generalized Gauss-Newton form of Laplace's approximation, and predictions are those of
the linear model (Immer, Korzepa and Bauer, 2021; Foong et al., 2019, on its uncertainty between
clusters of data). The linear model is a linear block, so the weights are integrated out together
with group effects, and tau has a posterior.

For a network with more than `DIRECTIONS` weights, only the directions V that change the network
most on some training rows are integrated. The other directions keep their prior, because the data
hardly inform them:

    w = D^1/2 (V a + (I - V V') u),   a, u ~ N(0, tau^2 I)
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ranef.lazy import Array, jax, jnp, ravel_pytree
from ranef.numerics.shapes import Float

# Largest number of directions that are integrated.
DIRECTIONS = 256
# Largest number of elements of the Jacobian from which the directions are computed. At least 16
# rows are used even if they have more.
_HELD = 40_000_000
# Rows whose derivatives are held in memory at once.
_ROWS = 512

# Single-precision numbers, one for each of the p weights.
Weights = Float[NDArray[np.float32], "p"]
# The outputs as a function of the weights, and of an array per input with the rows as its leading
# axis.
Output = Callable[[Sequence[Array], Sequence[Array]], Float[Array, "n"]]
# What `directions` returns, as NumPy or as JAX arrays.
Linear = Mapping[str, Array | NDArray[np.floating]]


def scales(shapes: Sequence[tuple[int, ...]]) -> Weights:
    """Diagonal of D^1/2: one over the square root of the fan-in, and one for a bias."""
    out = [
        np.full(int(np.prod(shape)), 1 / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 1.0)
        for shape in shapes
    ]
    return np.concatenate(out).astype(np.float32)


def directions(
    output: Output, weights: Sequence[Array], rows: Sequence[Array]
) -> dict[str, NDArray[np.float32]]:
    """The integrated directions, from the Jacobian on some training rows.

    Args:
        output: the network.
        weights: the estimates w^.
        rows: inputs of training rows, of which the first ones are used.

    Returns:
        "directions" V (p, k), the leading right singular vectors of J D^1/2, and "mean"
        V' D^-1/2 w^, (k,).
    """
    flat, _ = ravel_pytree(list(weights))
    scale = scales([np.shape(w) for w in weights])
    if len(flat) <= DIRECTIONS:
        v = np.eye(len(flat), dtype=np.float32)
    else:
        most = max(16, _HELD // len(flat))
        few = [a[:most] for a in rows]
        j = np.asarray(jax.jit(_derivatives, static_argnums=0)(output, weights, few)) * scale
        values, left = np.linalg.eigh((j @ j.T).astype(np.float64))
        kept = np.flatnonzero(values > 1e-7 * values[-1])[-DIRECTIONS:]
        v = (j.T @ (left[:, kept] / np.sqrt(values[kept]))).astype(np.float32)
    mean = v.T @ (np.asarray(flat, np.float32) / scale)
    return {"directions": v, "mean": mean.astype(np.float32)}


def columns(
    output: Output, weights: Sequence[Array], rows: Sequence[Array], linear: Linear
) -> Float[Array, "n columns"]:
    """The 1 + k columns of the linear model.

    The first column is the known part, f(x; w^) - J D^1/2 V mean; the others are J D^1/2 V.
    """
    scale = scales([np.shape(w) for w in weights])
    v = jnp.asarray(linear["directions"] * scale[:, None])
    n = len(rows[0])
    size = min(_ROWS, n)
    padded = [jnp.pad(a, ((0, -n % size), *[(0, 0)] * (a.ndim - 1)), mode="edge") for a in rows]
    chunks = [a.reshape(-1, size, *a.shape[1:]) for a in padded]
    each = jax.lax.map(lambda chunk: _derivatives(output, weights, chunk) @ v, chunks)
    j = each.reshape(-1, v.shape[1])[:n]
    return jnp.concatenate([(output(weights, rows) - j @ linear["mean"])[:, None], j], axis=1)


def moved(
    output: Output,
    weights: Sequence[Array],
    rows: Sequence[Array],
    linear: Linear,
    a: Float[Array, "k"],
    rest: Float[Array, "p"],
) -> Float[Array, "n"]:
    """The outputs of the linearized network.

    Args:
        output: the network.
        weights: the estimates w^.
        rows: inputs of the rows.
        linear: what `directions` returned.
        a: coordinates of the weights in the directions V.
        rest: the vector u, of which the projection on the complement of V is used.
    """
    v = jnp.asarray(linear["directions"])
    scale = scales([np.shape(w) for w in weights])
    step = v @ (a - linear["mean"])
    if v.shape[1] < v.shape[0]:
        step = step + rest - v @ (v.T @ rest)
    flat, back = ravel_pytree(list(weights))
    tangent = back(jnp.asarray(scale * step, flat.dtype))
    value, change = jax.jvp(lambda w: output(w, rows), (list(weights),), (tangent,))
    return value + change


def _derivatives(
    output: Output, weights: Sequence[Array], rows: Sequence[Array]
) -> Float[Array, "n p"]:
    """The Jacobian J of the outputs in the weights."""

    def one(*row: Array) -> Array:
        def value(w: Sequence[Array]) -> Array:
            return output(w, [a[None] for a in row])[0]

        return ravel_pytree(jax.grad(value)(list(weights)))[0]

    return jax.vmap(one)(*rows)
