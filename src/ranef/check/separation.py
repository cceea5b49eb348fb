"""Separation: effects that only their prior keeps from running off to infinity.

A response that can end (at 0 and at the number of trials, or at a count of 0) pins no effect
along a direction d of the common columns in which

    x_i'd <= 0 where y_i is at its lower end,   x_i'd >= 0 where it is at its upper end,

and x_i'd = 0 in between: the likelihood rises along it forever (Albert and Anderson, 1984). Such
a direction is found, or shown not to exist, by a linear program (Konis, 2007). Levels of a
grouping that are all zeros or ones are no such thing: their scale pools them.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.check.identifiability import common
from ranef.check.symptom import Symptom
from ranef.lazy import constraints, jax, jnp, optimize
from ranef.posterior.posterior import Posterior

Array = NDArray[np.float64]

# Rows that are looked at: separation by fewer is separation of those only, so of more none is
# looked for. Columns likewise.
_ROWS, _COLUMNS = 50_000, 100
# Part of a column's largest possible share below which it takes no part in a direction.
_NOTHING = 1e-6
# An sd of levels on the scale of a link, a factor of e^10 between typical levels.
_FAR = 10.0


def separation(posterior: Posterior) -> Iterator[Symptom]:
    """Common effects that separate the responses, and scales of groups that have run off."""
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
    for name, variable in posterior.variables.items():
        if variable.role != "sd" or name in posterior.constants:
            continue
        middle = float(np.median(posterior.sd_draws(name)))
        own = [
            group
            for group, v in posterior.variables.items()
            if v.role == "group" and f"{group}_sigma" == name
        ]
        # That of a slope is in units of its column.
        if middle > _FAR and any(group.partition("|")[0].endswith("1") for group in own):
            yield Symptom(
                f"{name} is {middle:.3g} on the scale of the link",
                f"the levels of {variable.factor} are nearly all zeros or ones, or all alike",
                "give the scale a tighter prior, or merge levels",
                "caution",
            )


def ends(posterior: Posterior) -> tuple[Any, Any]:
    """Lower and upper end of each row's response, (n,) or one; None, None where it has none."""
    program, response = posterior.program, posterior.training.response
    # Any values at which there is a distribution: its support is all that is read.
    values = {p.name: jnp.full(len(response.value), 0.5) for p in program.family.parameters}
    try:
        with jax.enable_x64(True):
            support: Any = program.family.distribution(response, **values).support
    except (TypeError, ValueError):
        return None, None  # a parameter that is not one number for each row
    base = getattr(support, "base_constraint", support)
    if isinstance(base, type(constraints.boolean)):
        return 0.0, 1.0
    if isinstance(base, type(constraints.nonnegative_integer)):
        return 0.0, np.inf
    if hasattr(base, "lower_bound") and hasattr(base, "upper_bound") and base.is_discrete:
        return np.asarray(base.lower_bound, float), np.asarray(base.upper_bound, float)
    return None, None


def separating(columns: Array, at_lower: NDArray[np.bool_], at_upper: NDArray[np.bool_]) -> Array:
    """A direction (k,) that separates, zero where none does.

    max_d sum_i |x_i'd| with -1 <= d <= 1 in columns of unit size: above zero if and only if the
    rows are separated. Konis (2007), section 4.2.
    """
    size = np.abs(columns).max(axis=0)
    scaled = columns / np.where(size > 0, size, 1.0)
    sign = np.where(at_upper, 1.0, 0.0) - np.where(at_lower, 1.0, 0.0)
    end = sign != 0
    if not end.any():
        return np.zeros(columns.shape[1])
    towards = np.unique(scaled[end] * sign[end, None], axis=0)
    between = np.unique(scaled[~end], axis=0)
    # Of equations only as many as are independent are of use.
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


def _independent(rows: Array) -> Array:
    """Rows that span what `rows` do."""
    _, values, directions = np.linalg.svd(rows, full_matrices=False)
    return directions[values > 1e-10 * max(values[0], 1e-300)]
