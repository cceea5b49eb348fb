"""Sensitivity of a posterior to its priors and its likelihood, by power-scaling.

Power-scaling multiplies the log prior density, or the log likelihood, by a number alpha near one,

    p_alpha(theta | y)  propto  p(theta)^alpha p(y | theta)   or   p(theta) p(y | theta)^alpha.

The draws are reweighted to this posterior, without another fit. The sensitivity of a parameter is
the change of its marginal distribution per unit of log2(alpha), measured by the cumulative
Jensen-Shannon distance (Kallioinen, Paananen, Buerkner and Vehtari, 2024). ArviZ computes it.

The prior is that of the parameters which have a prior of their own: common effects, scales,
correlations and parameters of the family. The distribution of group effects given their scale is
part of the model, and is not scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef.errors import OptionError
from ranef.lazy import Array, jax, jnp, numpyro, xr
from ranef.numerics.shapes import Float
from ranef.posterior.posterior import Posterior, variable_values
from ranef.posterior.predictive import Predictive
from ranef.priors import handlers
from ranef.terms.base import CENTRED, RunOptions

# Each chain has a value for every draw.
ByDraw = Float[NDArray[np.float64], "chains draws"]

# Sensitivity from which a parameter is reported (Kallioinen et al., 2024, section 3.3).
_NOTABLE = 0.05
# Smallest number of draws, so that the tails of the weights have five draws at least.
_LEAST_DRAWS = 50
# End of the name of the site of a correlation matrix, which holds its Cholesky factor.
_FACTOR = "/cholesky"
# Roles of variables that tables of the fit list.
_ROLES = ("common", "sd", "correlation", "family", "scale")


def sensitivity(posterior: Posterior, seed: int = 0) -> pd.DataFrame:
    """The table of `Fit.sensitivity`.

    Raises:
        OptionError: for a fit that has read its rows in batches, for fewer than 50 draws,
            and for a model without a parameter that has a prior and a posterior.
    """
    if posterior.training.stream is not None:
        raise OptionError(
            "sensitivity needs the likelihood of every row, and this fit has read its rows in "
            "batches and kept a sample; fit a table of fewer rows to see it"
        )
    shown = _elements(posterior)
    prior = log_prior(posterior)
    if not shown or not prior:
        raise OptionError(
            "sensitivity needs a parameter that has a prior and a posterior, and the model has "
            "none; its parameters are fixed or point estimates"
        )
    likelihood = _log_likelihood(posterior, seed)
    size = next(iter(shown.values())).size
    if size < _LEAST_DRAWS:
        raise OptionError(
            f"sensitivity needs at least {_LEAST_DRAWS} draws, and the fit has {size}; fit it with "
            "more, as in draws=1000"
        )
    # Numbered, because a DataTree takes no "/" in a name, and tables show it.
    numbered = {f"v{i}": each for i, each in enumerate(shown.values())}
    groups = {
        "posterior": numbered,
        "log_prior": {"prior": sum(prior.values())},
        "log_likelihood": {"likelihood": likelihood},
    }
    tree = xr.DataTree.from_dict(
        {
            group: xr.Dataset({name: (("chain", "draw"), each) for name, each in own.items()})
            for group, own in groups.items()
        }
    )
    from arviz_stats.psense import psense

    columns: dict[str, Any] = {}
    for kind in ("prior", "likelihood"):
        found = psense(tree, group=kind)
        columns[kind] = [float(found[name]) for name in numbered]
    rows = zip(columns["prior"], columns["likelihood"], strict=True)
    columns["diagnosis"] = [_diagnosis(*row) for row in rows]
    return pd.DataFrame(columns, index=pd.Index(list(shown), name="parameter"))


def _diagnosis(prior: float, likelihood: float) -> str:
    """What the two sensitivities of a parameter say (Kallioinen et al., 2024, table 1)."""
    if prior < _NOTABLE:
        return "none"
    if likelihood >= _NOTABLE:
        return "prior and data disagree"
    return "strong prior, or data that say little"


def log_prior(posterior: Posterior) -> Mapping[str, ByDraw]:
    """Log prior density of each parameter at every draw, by name.

    The parameters are those with a prior of their own; one name may stand for several
    coefficients, such as "common". Each density is that of the program, in the coordinates in
    which the prior is stated: default priors of common effects are on centred columns.
    """
    program, draws = posterior.program, posterior.draws
    state = posterior.training.state
    varying = program.level_sites(state)
    narrow = program.narrowed(state, dict.fromkeys(varying, 1))
    # Effects of levels have no prior of their own. They are sampled anew, for one level each.
    levels = {site for grouped in varying.values() for site in grouped.sites}
    names = [n for n in draws.sites if n not in levels and n not in draws.lazy_sites]
    wanted = [n for n in names if n in state.priors or n.endswith(_FACTOR)]
    if not wanted:
        return {}
    sites = {name: np.asarray(draws.sites[name]) for name in names}
    shape = sites[wanted[0]].shape[:2]
    flat = {name: value.reshape(-1, *value.shape[2:]) for name, value in sites.items()}
    designs = program.designs(narrow, posterior.training.sample.take(np.zeros(1, np.int64)))
    fixed = {**draws.points, **{name: dict(value) for name, value in draws.carried.items()}}
    replay = RunOptions(training=False, new_levels="zero")

    def one(values: dict[str, Array]) -> dict[str, Array]:
        run = handlers.substituted(
            handlers.seeded(program.predictors, jax.random.key(0)), {**values, **fixed}
        )
        handler: Any = numpyro.handlers.trace(run)
        handler(narrow, designs, replay)
        made = {n: handler.trace[n] for n in wanted if n in handler.trace}
        return {n: jnp.sum(site["fn"].log_prob(site["value"])) for n, site in made.items()}

    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(one))({n: jnp.asarray(v) for n, v in flat.items()})
    return {_shown(name): np.asarray(each).reshape(shape) for name, each in found.items()}


def _shown(site: str) -> str:
    """A name for the prior of a site, without the marks of its coordinates."""
    own = site.removesuffix(CENTRED)
    own = f"{own.removesuffix(_FACTOR)}_corr" if own.endswith(_FACTOR) else own
    return own.replace("/", "")


def _elements(posterior: Posterior) -> dict[str, ByDraw]:
    """Draws of each parameter of tables, by its label."""
    draws, lazy = posterior.draws, posterior.draws.lazy_sites
    sites = {name: draws.sites[name] for name in draws.sites if name not in lazy}
    values = variable_values(posterior.program, posterior.training.state, sites)
    out: dict[str, ByDraw] = {}
    for name, variable in posterior.variables.items():
        if variable.role not in _ROLES or name in posterior.constants or name not in values:
            continue
        flat = values[name].reshape(*values[name].shape[:2], -1)
        for label, place in variable.elements(name):
            if np.ptp(flat[..., place]) > 0:
                out[label] = flat[..., place]
    return out


def _log_likelihood(posterior: Posterior, seed: int) -> ByDraw:
    """Log p(y | draw) of all training rows together, for every draw."""
    training, draws = posterior.training, posterior.draws
    predictive = Predictive(
        posterior.program, training.state, draws, RunOptions(False, "sample"), seed
    )
    with jax.enable_x64(True):
        chunks = predictive.over(training.designs, training.response, training.held)
        total = sum(predictive.log_density(chunk).sum(axis=1) for chunk in chunks)
    chains = draws.shape[0]
    return np.asarray(total).reshape(chains, -1)
