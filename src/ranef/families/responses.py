"""Helpers that several families share: checks of responses, predictor scales and samplers."""

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.errors import DataError
from ranef.families.row_density import PerRow
from ranef.formula.expression import Column, Expression
from ranef.lazy import Array, ArrayLike, jax, jnp
from ranef.numerics.shapes import Bool, Float

# Whether the response of each row is inside the support.
Inside = Bool[NDArray[np.bool_], "n"]

# Largest number of categories; a response with more distinct values is taken for a measurement.
MOST_CATEGORIES = 100


def refuse_outside(
    values: PerRow,
    inside: Inside,
    frame: Frame,
    response: Expression | str,
    family: str,
    expected: str,
) -> None:
    """Refuse responses outside the support of a family.

    Args:
        values: the responses.
        inside: whether each response is in the support.
        frame: the rows.
        response: the response in the formula, for the message.
        family: name of the family, for the message.
        expected: what the family accepts, for the message.

    Raises:
        DataError: naming the first such response and its row.
    """
    if inside.all():
        return
    place = int(np.argmin(inside))
    raise DataError(
        f"the response {response} is {values[place]:g} in row {frame.row_number(place)}, and the "
        f"family {family} takes {expected}; correct or remove such rows, or choose another family"
    )


def whole(values: PerRow) -> Inside:
    """True for 0, 1, 2, ..."""
    return (values >= 0) & (values == np.floor(values))


def refuse_other_than_counts(
    values: PerRow, frame: Frame, response: Expression, family: str
) -> None:
    """`refuse_outside` for families of counts."""
    refuse_outside(values, whole(values), frame, response, family, "whole numbers from 0 on")


def is_text(response: Expression, frame: Frame) -> bool:
    """Whether the response is a column of texts."""
    return isinstance(response, Column) and frame.is_text(response.name)


def is_boolean(response: Expression, frame: Frame) -> bool:
    """Whether the response is a column of true and false."""
    return isinstance(response, Column) and frame.is_boolean(response.name)


def places(response: Column, categories: tuple[str, ...], frame: Frame, family: str) -> PerRow:
    """Index 0, 1, ... of each row's category.

    Args:
        response: the column of categories.
        categories: their names in order.
        frame: the rows.
        family: name of the family, for the message.

    Raises:
        DataError: for a category that is not in the training rows, naming it and its row.
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


# Smallest positive response. JAX may treat smaller (subnormal) numbers as zero.
LEAST_POSITIVE = float(np.finfo(np.float64).tiny)

# What families of positive responses accept, for `refuse_outside`.
POSITIVE = "numbers above zero, the least of them 2.3e-308"

# Poisson variates with a larger mean are drawn from the normal distribution of the same mean and
# variance, since NumPy's sampler does not accept means above 9.2e18.
_LARGE_MEAN = 1e15


def log_scale(mean: float) -> Scale:
    """Scale of a predictor with a log link: location log(mean), sd 1."""
    return Scale(float(np.log(max(mean, 1e-3))), 1.0)


def logit_scale(mean: float) -> Scale:
    """Scale of a predictor with a logit link: location logit(mean) between -4 and 4, sd 1."""
    inside = float(np.clip(mean, 0.018, 0.982))
    return Scale(float(np.log(inside / (1 - inside))), 1.0)


def log_noise(variance: float) -> float:
    """Sd of a row around its predictor on the log scale, sqrt(variance) between 0.01 and 10."""
    return float(np.clip(np.sqrt(variance), 0.01, 10.0))


def poisson_variates(
    rng: np.random.Generator, mean: Float[NDArray, "*n"]
) -> Float[NDArray[np.float64], "*n"]:
    """One Poisson variate for each mean."""
    out = rng.poisson(np.minimum(mean, _LARGE_MEAN)).astype(np.float64)
    far = mean > _LARGE_MEAN
    if far.any():
        out[far] = mean[far] + np.sqrt(mean[far]) * rng.standard_normal(int(far.sum()))
    return out


def gamma_variates(
    rng: np.random.Generator, mean: Float[ArrayLike, "*#n"], shape: Float[ArrayLike, "*#n"]
) -> Float[NDArray[np.float64], "*n"]:
    """One gamma variate for each mean and shape."""
    mean, shape = np.asarray(mean, np.float64), np.asarray(shape, np.float64)
    each = rng.standard_gamma(np.broadcast_to(shape, np.broadcast_shapes(mean.shape, shape.shape)))
    return mean / shape * each


def count_information(
    log_mean: Float[Array, "*#n"], log_shape: Float[Array, "*#n"]
) -> Float[Array, "*n"]:
    """Fisher information mu / (1 + mu / alpha) of a negative binomial count about log mu.

    Args:
        log_mean: log mu.
        log_shape: log alpha.
    """
    return jnp.exp(jnp.minimum(log_mean, log_shape) - jax.nn.softplus(-abs(log_mean - log_shape)))
