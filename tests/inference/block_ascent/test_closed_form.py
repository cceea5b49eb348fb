"""The closed-form step keeps one contract, whatever the family."""

import numpy as np
import pytest

import ranef as rf
from ranef.inference.block_ascent.closed_form import ClosedFormStep, ClosedFormUpdate, step_for
from ranef.inference.block_ascent.glmm_step import GLMMStep
from ranef.inference.block_ascent.lmm_step import LMMStep
from ranef.inference.block_ascent.networks import BlockAscent
from ranef.inference.svi import SVI
from ranef.program.problem_builder import build_problem

FORMULA = "y ~ nn(z, hidden=[4]) + x + (1 | g)"


def problem_of(family: str, formula: str = FORMULA):
    rng = np.random.default_rng(5)
    g = rng.integers(0, 15, 300)
    x, z, error = rng.normal(size=(3, 300))
    eta = 0.5 * x + rng.normal(size=15)[g]
    y = eta + error if family == "gaussian" else (eta + error > 0).astype(float)
    table = {"y": y, "x": x, "z": z, "g": np.char.add("g", g.astype(str))}
    program, training = rf.Model(formula, family)._learned(table)
    return build_problem(program, training)


def test_only_a_normal_mean_alone_has_the_step_of_a_gaussian_model():
    assert step_for(problem_of("gaussian")) is LMMStep
    assert step_for(problem_of("gaussian", f"{FORMULA}; sigma ~ x")) is GLMMStep
    assert step_for(problem_of("bernoulli")) is GLMMStep


@pytest.mark.parametrize("family", ["gaussian", "bernoulli"])
def test_the_error_of_known_levels_is_minus_the_mean_log_density(family):
    problem = problem_of(family)
    step = step_for(problem)(problem, one_window=False)
    assert isinstance(step, ClosedFormStep)
    search = BlockAscent(problem, SVI().settings, 0)
    state, windows = search.begin(), search.windows
    known = problem.conditioned_on(state.points, {**state.network_state, **problem.idle_networks})
    rows = windows.at(0)
    update = step.update(known, rows, {}, None, patient=True, silent=True)
    assert isinstance(update, ClosedFormUpdate)
    each = update.log_density(known, rows)
    assert each.shape == (rows.n,)
    none = {name: np.zeros_like(own) for name, own in windows.unseen.items()}
    assert update.error(known, rows, none) == pytest.approx(-each.mean(), rel=1e-6)
