"""What group effects have in common belongs to the networks beside them."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import ranef as rf
from ranef.inference.block_ascent import minibatches
from ranef.inference.block_ascent.minibatches import Windows
from ranef.inference.block_ascent.networks import BlockAscent
from ranef.inference.block_ascent.parameter_expansion import CommonParts, Directions
from ranef.inference.svi import SVI
from ranef.program.problem_builder import build_problem


def trend(levels: int, rows: int, slope: float = 10.0, seed: int = 2) -> dict:
    rng = np.random.default_rng(seed)
    i, t = np.repeat(np.arange(levels), rows), rng.uniform(0, 1, levels * rows)
    u, v = rng.normal(size=(2, levels))
    y = 1 + slope * t + u[i] + v[i] * t + 0.5 * rng.normal(size=len(t))
    return {"y": y, "t": t, "id": np.char.add("i", i.astype(str))}


def problem_of(formula: str, table: dict, **options):
    model = rf.Model(formula, **options)
    program, training = model._learned(table)
    return build_problem(program, training)


def search_of(problem) -> BlockAscent:
    return BlockAscent(problem, SVI().settings, 0)


@pytest.mark.parametrize("blocks", ["(t || id)", "(t | id)"])
def test_a_trend_is_the_networks_and_not_the_mean_of_slopes(blocks):
    """As beside a common effect of t: sds of slopes, and predictions for a new level."""
    table = trend(200, 10)
    fit = rf.Model(f"y ~ nn(t, hidden=[8]) + {blocks}").fit(table, progress=False)
    known = rf.Model(f"y ~ t + {blocks}").fit(table, progress=False)
    for name in ("1|id_sigma", "t|id_sigma"):
        own, other = fit.varcorr().loc[name], known.varcorr().loc[name]
        assert own["mean"] == pytest.approx(other["mean"], abs=0.5 * other["sd"])
    effects = fit.ranef("id")
    assert abs(effects[effects.term == "t"]["mean"].mean()) < 0.25
    new = {"t": np.array([0.0, 0.5, 1.0]), "id": np.array(["new"] * 3)}
    found, expected = (f.predict(new, new_levels="sample") for f in (fit, known))
    np.testing.assert_allclose(found["mean"], expected["mean"], atol=0.35)
    np.testing.assert_allclose(found["sd"], expected["sd"], rtol=0.15)


def test_intercepts_do_not_take_a_function_of_what_varies_between_levels():
    rng = np.random.default_rng(3)
    i, x = np.repeat(np.arange(200), 5), rng.uniform(-1, 1, 200)
    f = 3 * np.sin(3 * x)[i]
    y = f + rng.normal(size=200)[i] + 0.5 * rng.normal(size=1000)
    table = {"y": y, "x": x[i], "f": f, "g": i.astype(str)}
    fit = rf.Model("y ~ nn(x, hidden=[16]) + (1 | g)").fit(table, progress=False)
    known = rf.Model("y ~ offset(f) + (1 | g)").fit(table, progress=False)
    own, other = (each.varcorr().loc["1|g_sigma", "mean"] for each in (fit, known))
    assert own == pytest.approx(other, rel=0.12)
    new = {**table, "g": np.array(["new"] * 1000)}
    error = fit.predict(new, new_levels="zero")["mean"] - f
    assert np.sqrt(np.mean((error - error.mean()) ** 2)) < 0.5 < 2.0 < f.std()


@pytest.mark.parametrize(
    ("formula", "places"),
    [
        ("y ~ nn(t) + (t || id)", (1,)),
        ("y ~ 0 + nn(t) + (t || id)", (0, 1)),
        ("y ~ t + nn(t) + (t || id)", ()),
        ("y ~ nn(t) + (1 + z || id)", ()),
        ("y ~ nn(t, z) + (t + t:z | id)", (1, 2)),
        ("y ~ nn(z) + (t + z | id)", (2,)),
    ],
)
def test_common_parts_are_of_columns_that_a_network_has_and_no_effect_spans(formula, places):
    table = trend(30, 4)
    table["z"] = np.random.default_rng(0).normal(size=120)
    found = CommonParts.of(problem_of(formula, table), features=True)
    assert tuple(found.places.values()) == ((places,) if places else ())
    assert found.networks == ()


def test_directions_are_uncorrelated_and_the_first_is_of_sd_one():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 4)) @ rng.normal(size=(4, 6)) + 3.0
    columns = Directions.of(features).columns(features)
    np.testing.assert_allclose(columns.mean(axis=0), 0.0, atol=1e-10)
    variances = np.linalg.eigvalsh(np.cov(features.T, bias=True))[::-1]
    expected = np.diag(variances / variances[0])
    np.testing.assert_allclose(columns.T @ columns / 500, expected, atol=1e-8)


def test_whole_levels_are_held_out_beside_single_rows():
    table = trend(100, 10)
    table["h"] = np.random.default_rng(1).integers(0, 5, 1000).astype(str)
    problem = problem_of("y ~ nn(t) + (t || id) + (1 | h)", table)
    windows = Windows.of(problem, 0)
    held, rows = (
        part.designs["1 + t || id"].arrays["codes"] for part in (windows.held, windows.at(0))
    )
    assert len(held) == 100
    assert len(rows) == 900
    unseen = windows.unseen["id"]
    np.testing.assert_array_equal(np.flatnonzero(unseen), np.setdiff1d(np.arange(100), rows))
    assert unseen.sum() == 5
    assert unseen[held].sum() == 50
    # Five levels are too few to spare one.
    assert not windows.unseen["h"].any()


def test_rows_of_new_levels_have_their_joint_density():
    """Normal with the covariance that the effects' prior and sigma make, others at their mean."""
    table = trend(60, 6)
    problem = problem_of("y ~ nn(t, hidden=[4]) + (t | id)", table)
    search = search_of(problem)
    state, rows = search.begin(), search.windows.at(0)
    known = problem.conditioned_on(state.points, {**state.network_state, **problem.idle_networks})
    update = search.kind.update(known, rows, {}, None, patient=True, silent=True)
    held, unseen = search.windows.held, search.windows.unseen
    error = update.error(known, held, unseen)
    block = known.batch(held).blocks["1 + t | id"]
    away, _ = update.residuals(known.batch(held), known)
    new = unseen["id"][block.codes]
    assert 0 < new.sum() < len(new)
    sites = update.sites
    scales = np.array([sites[name] for name in block.scales])
    root = scales[:, None] * sites[block.cholesky]
    z = block.columns[new]
    same = block.codes[new][:, None] == block.codes[new][None]
    covariance = (z @ root @ root.T @ z.T) * same + update.sigma**2 * np.eye(int(new.sum()))
    parts = update.parts.eta(known.batch(held), {}, update.common, update.effects, unseen)["mu"]
    assert np.abs(parts[~new]).max() > 1.0
    expected = multivariate_normal(np.zeros(int(new.sum())), covariance).logpdf(away[new])
    left = away[~new] - parts[~new]
    expected += -0.5 * np.sum(np.log(2 * np.pi * update.sigma**2) + (left / update.sigma) ** 2)
    assert -error * len(new) == pytest.approx(expected, rel=1e-9)


def test_a_network_that_predicts_no_better_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(minibatches, "_MOST_PASSES", 30.0)
    rng = np.random.default_rng(4)
    g = rng.integers(0, 30, 300)
    y = rng.normal(size=30)[g] + rng.normal(size=300)
    table = {"y": y, "x": rng.normal(size=300), "z": rng.normal(size=300), "g": g.astype(str)}
    fit = rf.Model("y ~ nn(x, z, hidden=[64], l2=0) + (1 | g)").fit(table, progress=False)
    assert "no better with the networks than without" in fit.message
    verdict = fit.check()
    assert verdict.verdict == "caution"
    assert any("is left out" in reason for reason in verdict.reasons)
    without = rf.Model("y ~ (1 | g)").fit(table, progress=False)
    for found in (fit, rf.load(fit.save(tmp_path / "fit.ranef"))):
        np.testing.assert_allclose(
            found.predict(table)["mean"], without.predict(table)["mean"], atol=0.02
        )
