"""Simulation-based calibration with draws from the default priors.

    python benchmarks/sbc_defaults.py [--simulations 1000] [--models WORD ...] [--seed 0]

Default priors depend on the table: on where columns lie and how they are correlated, on the
location and spread of a gaussian response, on the shares of an ordinal one. So they are learned
once, from a pilot table. Then parameters are drawn from exactly these priors on the pilot's rows, a
response given them, and the model is fitted with the same priors, not with those that it would
learn anew: the rank of each true value among 99 thinned draws of its posterior is uniform on 0..99
if drawing from the program and integrating over it are about one model. Predictors are not centred
(a year, kilograms), so that parameters of the formula are far from the coordinates in which the
priors are stated; both are ranked. Of group effects it is that of the first level.

A fit that is refused counts among the refused and has no rank; one that did not converge has one.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import machine
import numpy as np
import numpyro
from coverage import Table, effects, plain
from sbc import BINS, DRAWS, THINNED, band, distance
from scipy import stats

import ranef as rf
from ranef import registry
from ranef.errors import RanefError
from ranef.posterior.posterior import Posterior, variable_values
from ranef.program import posterior_variables
from ranef.program.problem_builder import build_problem
from ranef.program.program import Program
from ranef.program.training import Training, TrainingState
from ranef.terms.base import CENTRED, RunOptions

PILOT = 1


@dataclass(frozen=True)
class Simulation:
    """A model, and how its pilot table is made.

    Attributes:
        formula, family, method: of the fit.
        rows: of the table.
        groupings: number of levels, and "inner" or "outer", as `coverage.plain` has them.
    """

    formula: str
    rows: int
    groupings: dict[str, tuple[int, str]]
    family: str = "gaussian"
    method: str = "exact"


MODELS = {
    "random slopes of a year, 25 groups of 8": Simulation(
        "y ~ year + (1 + year | g)", 200, {"g": (25, "outer")}
    ),
    "crossed, 12 by 15": Simulation(
        "y ~ kg + f + (1 | g) + (1 | h)", 180, {"g": (12, "outer"), "h": (15, "inner")}
    ),
    "Bernoulli, 20 groups of 10": Simulation(
        "y ~ year + (1 | g)", 200, {"g": (20, "outer")}, "bernoulli", "laplace"
    ),
    "ordinal, 20 groups of 10": Simulation(
        "y ~ kg + (1 | g)", 200, {"g": (20, "outer")}, "ordinal", "laplace"
    ),
}


def pilot(model: Simulation, rng: np.random.Generator) -> Table:
    """A table of plausible sizes, whose response does nothing but set the default priors."""
    table = plain(model.rows, **model.groupings)(rng)
    eta = 0.05 * (table["year"] - 2005.0) + 0.03 * (table["kg"] - 70.0)
    eta = eta + sum(effects(rng, table[name], 0.7) for name in model.groupings)
    match model.family:
        case "bernoulli":
            y = (rng.random(len(eta)) < 1 / (1 + np.exp(-eta))).astype(float)
        case "ordinal":
            y = np.digitize(eta + rng.logistic(size=len(eta)), [-1.0, 0.5, 2.0]) + 1
        case _:
            y = 300.0 + eta + rng.normal(size=len(eta))
    return {**table, "y": y}


def drawn(
    program: Program, training: Training, size: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`size` draws from the prior: of every site, and of the family's parameters on the rows."""
    state, designs = training.state, training.designs

    def one(key: Any) -> Any:
        handler: Any = numpyro.handlers.trace(numpyro.handlers.seed(program, key))
        values = handler(state, designs, replay=RunOptions(training=False, new_levels="zero"))
        sites = {n: s["value"] for n, s in handler.trace.items() if s["type"] == "sample"}
        return sites, values

    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), size)
        return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(keys))


def ranked(
    program: Program, state: TrainingState, sites: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """What has a rank, (chain, draw): by its label, from draws of all sites."""
    values = variable_values(program, state, sites)
    variables = posterior_variables.variables(program, state)
    for name, value in values.items():
        if variables[name].role == "group":
            yield name, value[..., 0]
        elif variables[name].role == "correlation":
            yield name, value[..., 0, 1]
        else:
            flat = value.reshape(*value.shape[:2], -1)
            labels = [label for label, _ in variables[name].elements(name)]
            yield from zip(labels, np.moveaxis(flat, -1, 0), strict=True)
    # The coordinates of the priors, where they are others.
    for name, value in sites.items():
        value = np.asarray(value, np.float64)
        if name.endswith("/common"):
            for j in range(value.shape[-1]):
                yield f"coordinate {j}", value[..., j]
        elif name.endswith(CENTRED):
            yield f"{name.removesuffix(CENTRED)} at the means", value
        elif name.endswith("/cholesky"):
            yield "g_corr at the means", value[..., 1, 0]


def rank(among: np.ndarray, value: float, rng: np.random.Generator) -> int:
    """The place of a value among draws; by lot where they are the same to the last bit."""
    return int((among < value).sum() + rng.integers(0, (among == value).sum() + 1))


@dataclass
class Found:
    """The ranks of each parameter, and what became of the fits."""

    ranks: dict[str, list[int]]
    refused: list[str]
    converged: list[bool]
    said: list[str]
    constant: int = 0


def calibrated(model: Simulation, size: int, seed: int) -> Found:
    """Draw, simulate, fit and rank, `size` times."""
    table = pilot(model, np.random.default_rng(PILOT))
    # The program and what it learned of the pilot; a fit would learn from its own response.
    program, training = rf.Model(model.formula, family=model.family)._learned(table)
    for name, prior in posterior_variables.stated(program, training.state).items():
        print(f"{name}: {prior}")
    sites, parameters = drawn(program, training, size, seed)
    truths = dict(ranked(program, training.state, {n: v[None] for n, v in sites.items()}))
    method = registry.load("method", model.method)()
    found = Found({name: [] for name in truths}, [], [], [])
    for i in range(size):
        rng = np.random.default_rng((PILOT, i, seed))
        own = {name: value[i] for name, value in parameters.items()}
        y = program.family.sample(rng, training.response, **own)
        found.constant += len(np.unique(y)) == 1
        known = replace(training, response=replace(training.response, value=np.asarray(y, float)))
        try:
            draws = method.run(build_problem(program, known), seed=i, draws=DRAWS, progress=False)
        except RanefError as error:
            found.refused.append(str(error))
            continue
        found.converged.append(draws.converged)
        found.said.append(draws.message)
        every = {name: draws.sites[name] for name in Posterior(program, known, draws).draws.sites}
        places = rng.choice(DRAWS, THINNED, replace=False)
        for name, value in ranked(program, training.state, every):
            found.ranks[name].append(rank(value[0, places], truths[name][0, i], rng))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=1_000)
    parser.add_argument("--models", nargs="+", default=[""], help="words in their names")
    parser.add_argument("--seed", type=int, default=0, help="of the draws; the table stays")
    parser.add_argument("--save", help="where to keep the ranks: the start of a file's name")
    options = parser.parse_args()
    n = options.simulations
    limit = band(n)
    print(f"{machine.describe('ranef')}. {n:,} simulations; ECDF band {limit:.4f}.\n")
    by_bin, by_band, count, notes = 0, 0, 0, []
    began = time.perf_counter()
    for name in (name for name in MODELS if any(word in name for word in options.models)):
        start = time.perf_counter()
        found = calibrated(MODELS[name], n, options.seed)
        columns = "chi-square p | ECDF distance | 90% interval covers | mean rank"
        print(f"\n| model | parameter | {columns} |")
        print("|---|---|---|---|---|---|")
        for parameter, places in found.ranks.items():
            own = np.array(places)
            p = stats.chisquare(np.bincount(own * BINS // (THINNED + 1), minlength=BINS)).pvalue
            apart = distance(own)
            inside = np.mean((own >= 5) & (own < THINNED + 1 - 5))
            by_bin, by_band, count = by_bin + (p < 0.05), by_band + (apart > limit), count + 1
            label = parameter.replace("|", "\\|")
            print(
                f"| {name} | {label} | {p:.3f} | {apart:.4f} | {inside:.3f} | {own.mean():.1f} |",
                flush=True,
            )
        notes.append(
            f"| {name} | {len(found.refused)} | {found.converged.count(False)} "
            f"| {found.constant} | "
            f"{time.perf_counter() - start:.0f} |"
        )
        print(f"\n{notes[-1]} {sorted(set(found.refused))[:3]}\n", flush=True)
        if options.save:
            kept = {**found.ranks, "/converged": found.converged, "/said": found.said}
            np.savez(options.save + name.split(",")[0].replace(" ", "_") + ".npz", **kept)
    low, high = stats.binom.interval(0.95, count, 0.05)
    print("| model | refused | not converged | one response throughout | seconds |")
    print("|---|---|---|---|---|")
    print("\n".join(notes))
    print(
        f"\n{count} parameters; failing at .05: {by_bin} by chi-square, {by_band} by ECDF; "
        f"expected {low:.0f} to {high:.0f}. {time.perf_counter() - began:.0f} s."
    )


if __name__ == "__main__":
    main()
