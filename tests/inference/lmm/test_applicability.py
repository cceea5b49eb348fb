"""Whether a method applies is asked: the answers agree with what it would find."""

import numpy as np
import pytest

import ranef as rf
from contract_term import learn
from ranef import registry
from ranef.inference.exact import Exact
from ranef.inference.glmm.marginal_posterior import GLMMHyperposterior
from ranef.inference.lmm import sufficient_statistics
from ranef.inference.lmm.applicability import too_large
from ranef.inference.lmm.sufficient_statistics import accumulate_or_reason
from ranef.inference.pwls import solver
from ranef.inference.pwls.crossed_elimination import CrossedElimination
from ranef.program.problem_builder import build_problem

FORMULAS = [
    "y ~ x + (1 | g)",
    "y ~ x + (1 + x | g) + (1 | h)",
    "y ~ x + (1 | h) + (1 | k)",
    "y ~ x + (1 | g) + (1 | p)",
    "y ~ x + s(z, k=6) + (1 | g) + (0 + x | h)",
]


@pytest.fixture
def crossed(grouped):
    """Rows with g nested in p, and h and k crossed with them."""
    rng = np.random.default_rng(0)
    parent = {level: f"p{i % 3}" for i, level in enumerate(dict.fromkeys(grouped["g"]))}
    return {
        **grouped,
        "p": np.array([parent[level] for level in grouped["g"]]),
        "k": rng.integers(40, size=len(grouped["y"])).astype(str),
    }


@pytest.mark.parametrize("limits", [(300_000, 20_000), (200, 20_000), (3, 3), (3, 30)])
@pytest.mark.parametrize("formula", FORMULAS)
def test_codes_tell_what_the_cross_products_do(formula, limits, crossed, monkeypatch):
    """The levels of the rows decide the elimination as the accumulated cross-products do."""
    dense, remaining = limits
    monkeypatch.setattr(solver, "_DENSE", dense)
    monkeypatch.setattr(solver, "_DENSE_AT_MOST", dense)
    monkeypatch.setattr(solver, "MOST_REMAINING", remaining)
    program, training = learn(formula, crossed)
    problem = build_problem(program, training)
    found = accumulate_or_reason(problem)
    expected = found if isinstance(found, str) else None
    assert too_large(problem.unit_blocks(), row_covariances=False) == expected
    covariances = too_large(problem.unit_blocks(), row_covariances=True)
    if expected is None and isinstance(found.solver.system, CrossedElimination):
        expected = "takes crossed groupings of which all but the largest have few levels together"
    assert covariances == expected
    laplace = registry.load("method", "laplace")()
    assert laplace.refuses(problem) == expected
    if expected is None:
        GLMMHyperposterior.of(problem, "laplace")


@pytest.mark.parametrize("method", ["auto", "exact"])
def test_exact_reads_the_rows_once(method, grouped, monkeypatch):
    """What `refuses` accumulates is taken by `run`."""
    passes = []
    one_pass = sufficient_statistics._compressed
    monkeypatch.setattr(
        sufficient_statistics,
        "_compressed",
        lambda *of: passes.append(of[0]) or one_pass(*of),
    )
    fit = rf.Model("y ~ x + (1 | g)").fit(grouped, method=method, draws=20, progress=False)
    assert fit.method == "exact"
    assert len(passes) == 1


def test_another_problem_is_accumulated_anew(grouped):
    """A run takes what `refuses` has computed for the same problem, and no other's."""
    method = Exact()
    (a, first), (b, second) = (learn(f, grouped) for f in ("y ~ x + (1 | g)", "y ~ z + (1 | h)"))
    assert method.refuses(build_problem(a, first)) is None
    draws = method.run(build_problem(b, second), seed=0, draws=10, progress=False)
    assert "1|h_sigma" in draws.sites
