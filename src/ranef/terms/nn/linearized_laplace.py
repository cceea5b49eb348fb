"""A network's posterior over all its weights, from the model that is linear in them.

At estimates w^ the network is taken for f(x; w^) + J(x) (w - w^), J its derivatives, with
w ~ N(0, tau^2 D): the generalised Gauss-Newton form of Laplace's approximation, whose
predictions are those of the linear model (Immer, Korzepa and Bauer, 2021; between clusters of
data it is as uncertain as it should be, Foong et al., 2019). It is a linear block, so the
weights integrate out together with the group effects, and tau has a posterior of its own.

Of more weights than `DIRECTIONS` those directions V are integrated that move the network most
on some training rows. What is left has the prior: the data say next to nothing of it.

    w = D^1/2 (V a + (I - V V') u),   a, u ~ N(0, tau^2 I)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.lazy import Array, jax, jnp, ravel_pytree

# Directions that are integrated, and numbers that the derivatives of some rows may have.
DIRECTIONS, _HELD = 256, 40_000_000
# Rows whose derivatives are held at once.
_ROWS = 512

# Weights and an array for each input, its leading axis the rows, to the outputs (n,).
Output = Callable[[Sequence[Array], Sequence[Array]], Array]


def scales(shapes: Sequence[tuple[int, ...]]) -> NDArray[np.float32]:
    """D^1/2 of all weights in a row: one over the root of the fan-in, one for a bias."""
    out = [
        np.full(int(np.prod(shape)), 1 / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 1.0)
        for shape in shapes
    ]
    return np.concatenate(out).astype(np.float32)


def directions(
    output: Output, weights: Sequence[Array], rows: Sequence[Array]
) -> dict[str, NDArray[np.float32]]:
    """V (P, K) and the mean V' D^-1/2 w^ (K,) of a network, from some training rows."""
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
    output: Output, weights: Sequence[Array], rows: Sequence[Array], linear: Mapping[str, Any]
) -> Array:
    """(n, 1 + K): what is known of f, and J D^1/2 V."""
    scale = scales([np.shape(w) for w in weights])
    v = jnp.asarray(linear["directions"] * scale[:, None])
    n = len(rows[0])
    size = min(_ROWS, n)
    padded = [jnp.pad(a, ((0, -n % size), *[(0, 0)] * (a.ndim - 1)), mode="edge") for a in rows]
    parts = [a.reshape(-1, size, *a.shape[1:]) for a in padded]
    each = jax.lax.map(lambda part: _derivatives(output, weights, part) @ v, parts)
    j = each.reshape(-1, v.shape[1])[:n]
    return jnp.concatenate([(output(weights, rows) - j @ linear["mean"])[:, None], j], axis=1)


def moved(
    output: Output,
    weights: Sequence[Array],
    rows: Sequence[Array],
    linear: Mapping[str, Any],
    a: Array,
    rest: Array,
) -> Array:
    """F at w^ plus J (w - w^) for directions a (K,) and the rest u (P,)."""
    v = jnp.asarray(linear["directions"])
    scale = scales([np.shape(w) for w in weights])
    step = v @ (a - linear["mean"])
    if v.shape[1] < v.shape[0]:
        step = step + rest - v @ (v.T @ rest)
    flat, back = ravel_pytree(list(weights))
    tangent = back(jnp.asarray(scale * step, flat.dtype))
    value, change = jax.jvp(lambda w: output(w, rows), (list(weights),), (tangent,))
    return value + change


def _derivatives(output: Output, weights: Sequence[Array], rows: Sequence[Array]) -> Array:
    """J (n, P)."""

    def one(*row: Array) -> Array:
        def value(w: Sequence[Array]) -> Array:
            return output(w, [a[None] for a in row])[0]

        return ravel_pytree(jax.grad(value)(list(weights)))[0]

    return jax.vmap(one)(*rows)
