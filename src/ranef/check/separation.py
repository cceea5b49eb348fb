"""Detects separation: common effects that only their prior keeps finite.

Let the response have a bounded support, such as 0 to the number of trials, or counts from 0. The
likelihood then rises without end along a direction d of the common effects (Albert and Anderson,
1984) if d is not orthogonal to all rows and

    x_i'd <= 0 where y_i is at its lower end,
    x_i'd >= 0 where y_i is at its upper end,
    x_i'd = 0 in between.

A linear program finds such a direction or shows that there is none (Konis, 2007). Levels of a
grouping whose responses are all zeros or ones are not separated in this sense, because their scale
pools them.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.check.model_matrices import common
from ranef.check.symptom import Symptom
from ranef.lazy import constraints, jax, jnp, optimize
from ranef.numerics.shapes import Bool, Float
from ranef.posterior.posterior import Posterior

Array = NDArray[np.float64]
# An end of the support: one for each row or one for all rows; None without any.
End = Float[Array, "..."] | float | None

# Largest number of rows with which separation is looked for. A sample of more rows would not do:
# it may be separated although all rows together are not.
_ROWS = 50_000
# Largest number of columns.
_COLUMNS = 100
# Coefficients of a direction, in columns of unit size, that count as zero. So do rows' x_i'd.
_NOTHING = 1e-6
# Sd of group effects on the scale of the link that is too large to be plausible: levels one sd
# apart differ by a factor of e^10 in odds or rates.
_FAR = 10.0


def separation(posterior: Posterior) -> Iterator[Symptom]:
    """Report common effects that separate the responses, and very large scales of groupings."""
    program, training = posterior.program, posterior.training
    parameter = program.family.parameters[0]
    if parameter.link == "identity":
        return
    yield from _scales(posterior)
    lower, upper = ends(posterior)
    if lower is None or training.stream is not None or training.held > _ROWS:
        return
    found = list(common(posterior, parameter.name))
    labels = [label for own, _ in found for label in own]
    if not labels or len(labels) > _COLUMNS:
        return
    value = np.asarray(training.response.value, np.float64)
    direction = separating(
        np.concatenate([columns for _, columns in found], axis=1), value == lower, value == upper
    )
    named = [label for label, d in zip(labels, direction, strict=True) if d != 0]
    named = [label for label in named if label != "Intercept"] or named
    if named:
        flat = all(isinstance(training.state.priors.get(n), priors.Flat) for n in named)
        yield Symptom(
            f"the responses are separated by {', '.join(named[:3])}"
            + (f" and {len(named) - 3} more" if len(named) > 3 else ""),
            "the likelihood rises without end as the effects grow, and only the prior stops them",
            "read their signs and not their sizes, or merge levels",
            "distrust" if flat else "caution",
        )


def _scales(posterior: Posterior) -> Iterator[Symptom]:
    """Report scales of varying intercepts that are implausibly large on the link's scale."""
    for name, variable in posterior.variables.items():
        if variable.role != "sd" or name in posterior.constants:
            continue
        middle = float(np.median(posterior.sd_draws(name)))
        own = [
            group
            for group, v in posterior.variables.items()
            if v.role == "group" and f"{group}_sigma" == name
        ]
        # Only intercepts: the scale of a slope depends on the unit of its column.
        if middle > _FAR and any(group.partition("|")[0].endswith("1") for group in own):
            yield Symptom(
                f"{name} is {middle:.3g} on the scale of the link",
                f"the levels of {variable.factor} are nearly all zeros or ones, or all alike",
                "give the scale a tighter prior, or merge levels",
                "caution",
            )


def ends(posterior: Posterior) -> tuple[End, End]:
    """Lower and upper end of the support of each row's response.

    None, None if the support is not discrete with a lower end.
    """
    program, response = posterior.program, posterior.training.response
    # Any valid parameter values will do, because only the support of the distribution is read.
    values = {p.name: jnp.full(len(response.value), 0.5) for p in program.family.parameters}
    try:
        with jax.enable_x64(True):
            support = program.family.distribution(response, **values).support
    except (TypeError, ValueError):
        return None, None  # the family has a parameter that is not one number for each row
    base = getattr(support, "base_constraint", support)
    if isinstance(base, type(constraints.boolean)):
        return 0.0, 1.0
    if isinstance(base, type(constraints.nonnegative_integer)):
        return 0.0, np.inf
    lower, upper = getattr(base, "lower_bound", None), getattr(base, "upper_bound", None)
    if base is None or lower is None or upper is None or not base.is_discrete:
        return None, None
    return np.asarray(lower, float), np.asarray(upper, float)


def separating(
    columns: Float[Array, "n k"], at_lower: Bool[NDArray, "n"], at_upper: Bool[NDArray, "n"]
) -> Float[Array, "k"]:
    """A direction of separation by the linear program of Konis (2007, section 4.2).

    It maximises sum_i |x_i'd| under the constraints in the module's description and -1 <= d <= 1,
    with the columns scaled to a largest absolute value of one. The maximum is above zero if and
    only if the rows are separated.

    Args:
        columns: the columns of the common effects.
        at_lower: whether the response is at its lower end.
        at_upper: whether it is at its upper end.

    Returns:
        The direction on the scale of `columns`; zeros if the rows are not separated.
    """
    size = np.abs(columns).max(axis=0)
    scaled = columns / np.where(size > 0, size, 1.0)
    sign = np.where(at_upper, 1.0, 0.0) - np.where(at_lower, 1.0, 0.0)
    end = sign != 0
    if not end.any():
        return np.zeros(columns.shape[1])
    towards = np.unique(scaled[end] * sign[end, None], axis=0)
    between = np.unique(scaled[~end], axis=0)
    # The equations are reduced to independent ones, at most k.
    found = optimize.linprog(
        -towards.sum(axis=0),
        A_ub=-towards,
        b_ub=np.zeros(len(towards)),
        A_eq=_independent(between) if len(between) else None,
        b_eq=np.zeros(len(_independent(between))) if len(between) else None,
        bounds=(-1.0, 1.0),
        method="highs",
    )
    moved = towards @ found.x if found.success else np.zeros(1)
    if found.status != 0 or moved.max() <= _NOTHING:
        return np.zeros(columns.shape[1])
    return np.where(
        (size > 0) & (np.abs(found.x) > _NOTHING), found.x / np.maximum(size, 1e-300), 0
    )


def _independent(rows: Float[Array, "n k"]) -> Float[Array, "rank k"]:
    """An orthonormal basis of the row space of `rows`."""
    _, values, directions = np.linalg.svd(rows, full_matrices=False)
    return directions[values > 1e-10 * max(values[0], 1e-300)]
