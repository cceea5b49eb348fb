"""What a family takes for a response: refused by name and row where it is something else."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.errors import DataError
from ranef.formula.expression import Column, Expression
from ranef.lazy import Array, jax, jnp

# Distinct values from which on a response is a measurement rather than a category.
MOST_CATEGORIES = 100


def refuse_outside(
    values: NDArray[np.float64],
    inside: NDArray[np.bool_],
    frame: Frame,
    response: Any,
    family: str,
    expected: str,
) -> None:
    """Refuse responses that a family gives no probability.

    Raises:
        DataError: naming the first of them and its row.
    """
    if inside.all():
        return
    place = int(np.argmin(inside))
    raise DataError(
        f"the response {response} is {values[place]:g} in row {frame.row_number(place)}, and the "
        f"family {family} takes {expected}; correct or remove such rows, or choose another family"
    )


def whole(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) True for 0, 1, 2, ..."""
    return (values >= 0) & (values == np.floor(values))


def is_text(response: Expression, frame: Frame) -> bool:
    """Whether the response is a column of texts."""
    return isinstance(response, Column) and frame.is_text(response.name)


def is_boolean(response: Expression, frame: Frame) -> bool:
    """Whether the response is a column of true and false."""
    return isinstance(response, Column) and frame.is_boolean(response.name)


def places(
    response: Column, categories: tuple[str, ...], frame: Frame, family: str
) -> NDArray[np.float64]:
    """The place 0, 1, ... of each row's category.

    Raises:
        DataError: for a category that training did not see, naming it and its row.
    """
    found = frame.levels(response.name)
    known = {name: place for place, name in enumerate(categories)}
    table = np.array([*(known.get(name, -1) for name in found.names), -1], dtype=np.float64)
    out = table[found.codes]
    if (out < 0).any():
        row = int(np.argmax(out < 0))
        said = found.names[found.codes[row]] if found.codes[row] >= 0 else "missing"
        listed = ", ".join(map(repr, categories[:8])) + (", ..." if len(categories) > 8 else "")
        raise DataError(
            f"the response {response} is {said!r} in row {frame.row_number(row)}, which the "
            f"family {family} has not seen in training: it knows {listed}; correct or remove "
            "such rows"
        )
    return out


# What double precision holds to its last digit, and JAX does not take for zero.
LEAST_POSITIVE = float(np.finfo(np.float64).tiny)
POSITIVE = "numbers above zero, the least of them 2.3e-308"

COUNTS = "whole numbers from 0 on"

# A Poisson variate of a larger mean than this is drawn as a normal one: NumPy takes no more.
_LARGE_MEAN = 1e15


def log_scale(mean: float) -> Scale:
    """Where a predictor under a log link lies, around the log of the mean; spread 1."""
    return Scale(float(np.log(max(mean, 1e-3))), 1.0)


def logit_scale(mean: float) -> Scale:
    """Where a predictor under a logit link lies, at most 4 away from zero; spread 1."""
    inside = float(np.clip(mean, 0.018, 0.982))
    return Scale(float(np.log(inside / (1 - inside))), 1.0)


def log_noise(variance: float) -> float:
    """The spread of a row about its predictor on the log scale, within reason."""
    return float(np.clip(np.sqrt(variance), 0.01, 10.0))


def poisson_variates(rng: np.random.Generator, mean: NDArray) -> NDArray[np.float64]:
    """One Poisson variate for each mean."""
    out = rng.poisson(np.minimum(mean, _LARGE_MEAN)).astype(np.float64)
    far = mean > _LARGE_MEAN
    if far.any():
        out[far] = mean[far] + np.sqrt(mean[far]) * rng.standard_normal(int(far.sum()))
    return out


def gamma_variates(rng: np.random.Generator, mean: Any, shape: Any) -> NDArray[np.float64]:
    """One gamma variate for each mean and shape."""
    mean, shape = np.asarray(mean, np.float64), np.asarray(shape, np.float64)
    each = rng.standard_gamma(np.broadcast_to(shape, np.broadcast_shapes(mean.shape, shape.shape)))
    return mean / shape * each


def count_information(log_mean: Any, log_shape: Any) -> Array:
    """Information mu / (1 + mu / alpha) of a negative binomial count about the log of its mean."""
    return jnp.exp(jnp.minimum(log_mean, log_shape) - jax.nn.softplus(-abs(log_mean - log_shape)))
