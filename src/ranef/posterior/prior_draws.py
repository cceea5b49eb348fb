"""Runs the model's own NumPyro program with draws from the prior in place of the posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.errors import OptionError
from ranef.families.response_design import ResponseDesign
from ranef.lazy import Array, jax, jnp, numpyro
from ranef.numerics.shapes import Float, Int, Shaped
from ranef.posterior.posterior import Posterior
from ranef.posterior.program_replay import RowChunk
from ranef.priors import handlers
from ranef.program.training import Designs, evenly, length
from ranef.terms.base import RunOptions

# Largest number of draws x rows that is held at once.
_CELLS = 4_000_000

# The record of NumPyro's trace handler: site name to the site's entries.
Trace = Mapping[str, Mapping[str, Any]]

# Places of rows among the training rows.
Places = Int[NDArray[np.int64], "rows"]

_Drawn = TypeVar("_Drawn")


def prior_run(
    posterior: Posterior,
    frame: Frame,
    seed: int,
    size: int,
    want: Callable[[Trace, Array], _Drawn],
) -> _Drawn:
    """Run the program of a fit on the rows of `frame` with `size` draws from the prior.

    Args:
        posterior: the posterior of the fit, whose program and priors are used.
        frame: the rows.
        seed: seed of the draws.
        size: number of draws.
        want: maps the trace of one run and its means (n,) to what is returned of it. Whatever
            it does not return is not compiled: a gamma variate alone takes seconds.

    Returns:
        What `want` returns, with a leading axis of `size` draws, in NumPy.

    Raises:
        OptionError: for a model with a flat prior, which cannot be drawn from.
    """
    program, state = posterior.program, posterior.training.state
    refuse_flat(posterior)
    designs = program.designs(state, frame)
    replay = RunOptions(training=False, new_levels="zero")
    response = program.family.design(state.family, frame, known=False, beside=False)

    def one(key: Array) -> _Drawn:
        handler: Any = numpyro.handlers.trace(numpyro.handlers.seed(program, key))
        values = handler(state, designs, replay=replay)
        return want(handler.trace, program.family.mean(response, **values))

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), size)
        return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))


def prior_responses(
    posterior: Posterior, seed: int, size: int
) -> tuple[Shaped[NDArray, "draws rows"], Places]:
    """Draws of the response from the prior predictive distribution on the training rows.

        y_is ~ p(y_i | theta_s),   theta_s ~ p(theta)

    Rows of one draw have the same parameters and the same effects of their levels.

    Args:
        posterior: the posterior of the fit, whose program, priors and training rows are used.
        seed: seed of the draws.
        size: number of draws.

    Returns:
        The draws, and the places of their rows among the training rows: all rows, or 20,000
        evenly spaced ones where there are more.

    Raises:
        OptionError: for a model with a flat prior, and for priors so wide that a response is not
            a finite number.
    """
    training = posterior.training
    refuse_flat(posterior)
    rows = evenly(training.held)
    chunk = min(len(rows), max(1, _CELLS // size))
    run = _compiled_predictors(posterior, seed, size)
    family, rng = posterior.program.family, np.random.default_rng(seed)
    out = np.empty((size, len(rows)))
    with jax.enable_x64(True):
        for start in range(0, len(rows), chunk):
            own = rows[start : start + chunk]
            # The last chunk is padded, so that all have the one shape that was compiled.
            taken = np.pad(own, (0, chunk - len(own)), mode="edge")
            some = jax.tree.map(lambda a, taken=taken: a[taken], training.in_memory)
            part = _chunk(posterior, run(some.designs), some.response, len(own))
            with np.errstate(all="ignore"):
                try:
                    drawn = part.own(family.sample(rng, part.response, **part.values))
                except ValueError:  # NumPy's variates refuse parameters that are not finite
                    drawn = np.full((size, len(own)), np.nan)
            out[:, start : start + len(own)] = drawn
    lost = ~np.isfinite(out).all(axis=1)
    if lost.any():
        raise OptionError(
            f"in {int(lost.sum()):,} of {size:,} draws from the prior a response is not a finite "
            "number; give the model tighter priors, of which fit.priors shows the present ones"
        )
    return out, rows


def refuse_flat(posterior: Posterior) -> None:
    """Refuse a model with a flat prior, from which nothing can be drawn.

    Raises:
        OptionError: naming the parameter.
    """
    for name, prior in posterior.training.state.priors.items():
        if isinstance(prior, priors.Flat):
            raise OptionError(
                f"{name!r} has a flat prior, from which nothing can be drawn; give it a proper "
                "one to see prior draws"
            )


def _compiled_predictors(
    posterior: Posterior, seed: int, size: int
) -> Callable[[Designs], dict[str, Array]]:
    """The compiled function from designs to each family parameter on its link's scale."""
    program, state = posterior.program, posterior.training.state
    replay = RunOptions(training=False, new_levels="zero")
    vectors = {p.name for p in program.family.free_parameters() if p.labels}

    def every(designs: Designs) -> dict[str, Array]:
        rows = length(designs) if designs else 1

        def one(key: Array) -> dict[str, Array]:
            values = handlers.seeded(program.predictors, key)(state, designs, replay)
            return {
                name: v[None] if name in vectors else jnp.broadcast_to(v, (rows,))
                for name, v in values.items()
            }

        return jax.vmap(one)(jax.random.split(jax.random.key(seed), size))

    return jax.jit(every)


def _chunk(
    posterior: Posterior,
    predictors: dict[str, Float[Array, "draws ..."]],
    response: ResponseDesign,
    count: int,
) -> RowChunk:
    """The predictors of some rows as families take them; `count` rows are no padding."""
    return RowChunk(posterior.program.family, response, predictors, np.arange(count))
