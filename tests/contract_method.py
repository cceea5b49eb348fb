"""One contract for every registered method: run by ``tests/inference/test_contract.py``.

To put a new method under it, add options that make it quick to `EXAMPLES`.
"""

import numpy as np
import pytest

from contract_term import learn
from ranef import registry
from ranef.errors import OptionError
from ranef.program import posterior_variables
from ranef.program.problem_builder import build_problem

EXAMPLES = {
    "exact": [{}],
    "laplace": [{}],
    "nuts": [
        {"chains": 2, "tune": 60},
        {"chains": 2, "tune": 60, "coefficients": "sampled"},
    ],
    "svi": [{"guide": "structured", "steps": 60}, {"guide": "meanfield", "steps": 60}],
}
# Sixty steps are not enough for svi, nor twenty draws for nuts, and they must say so.
UNFINISHED = {"svi", "nuts"}
FORMULA = "y ~ x + (1 + x | g)"


def run(name: str, options: dict, table: dict, *, seed: int = 1, draws: int = 20):
    program, training = learn(FORMULA, table)
    method = registry.load("method", name)(**options)
    return (
        program,
        training,
        method.run(build_problem(program, training), seed=seed, draws=draws, progress=False),
    )


_RUNS: dict = {}


def first_run(name: str, options: dict, table: dict) -> tuple:
    """The run that all checks look at; some take one more."""
    key = (name, *sorted(options.items()))
    if key not in _RUNS:
        _RUNS[key] = run(name, options, table)
    return _RUNS[key]


def check_draws_every_site(name: str, options: dict, table: dict) -> None:
    """Every latent site has finite draws on its support, and the variables follow."""
    program, training, draws = first_run(name, options, table)
    chains = options.get("chains", 1)
    assert all(v.shape[:2] == (chains, 20) for v in draws.sites.values())
    assert all(np.isfinite(v).all() for v in draws.sites.values())
    values = {**draws.sites, **posterior_variables.derived(program, training.state, draws.sites)}
    for variable, v in posterior_variables.variables(program, training.state).items():
        assert values[variable].shape[2:] == tuple(len(c) for c in v.coords)
    for scale in ("sigma", "1|g_sigma", "x|g_sigma"):
        assert (values[scale] > 0).all()
    np.testing.assert_allclose(values["g_corr"][..., 0, 0], 1.0, rtol=1e-5)


def check_the_same_seed_gives_the_same_bytes(name: str, options: dict, table: dict) -> None:
    first = first_run(name, options, table)[2]
    second, other = (run(name, options, table, seed=s)[2] for s in (1, 8))
    for site, value in first.sites.items():
        assert value.tobytes() == second.sites[site].tobytes()
        assert value.tobytes() != other.sites[site].tobytes()


def check_says_how_it_ended(name: str, options: dict, table: dict) -> None:
    draws = first_run(name, options, table)[2]
    assert draws.message
    if name in UNFINISHED:
        assert draws.converged is False
    else:
        assert draws.converged is True


def check_refuses_unknown_options(name: str, options: dict, table: dict) -> None:
    with pytest.raises(OptionError, match=f"method '{name}' has no option 'stepz'"):
        registry.load("method", name)(stepz=3)


CHECKS = [
    check_draws_every_site,
    check_the_same_seed_gives_the_same_bytes,
    check_says_how_it_ended,
    check_refuses_unknown_options,
]
