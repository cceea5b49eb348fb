"""Draws of single levels are those that they have among all, to the last bit."""

import numpy as np
import pytest

import ranef as rf
from ranef.inference.lmm import hyperparameter_cells
from ranef.inference.pwls import effect_draws, solver
from ranef.numerics.counter_rng import CounterRNG

FORMULAS = {
    "intercepts": "y ~ x + (1 | g)",
    "slopes": "y ~ x + (x | g)",
    "one factor": "y ~ x + (1 | g) + (0 + x | g) + (1 | k)",
    "nested": "y ~ x + (x | g) + (1 | g:k)",
    "three": "y ~ x + (1 | h) + (x || h:g) + (1 | h:g:k)",
    "crossed": "y ~ x + (x | g) + (1 | k)",
    "sparse": "y ~ x + (x | g) + (1 | k)",
    "shared cells": "y ~ x + (x | g) + (1 | g:k)",
}


@pytest.fixture(params=FORMULAS)
def draws(request, grouped, monkeypatch):
    if request.param == "sparse":
        monkeypatch.setattr(solver, "_DENSE", 0)
        monkeypatch.setattr(solver, "_FULL", 2.0)
    if request.param == "shared cells":
        monkeypatch.setattr(hyperparameter_cells, "_EACH", 0)
        monkeypatch.setattr(hyperparameter_cells, "_MOST_EACH", 2)
    monkeypatch.setattr(effect_draws, "_TILE", 5)
    table = {**grouped, "k": np.array([f"k{i % 7}" for i in range(300)])}
    fit = rf.Model(FORMULAS[request.param]).fit(table, method="exact", draws=30, progress=False)
    return fit.draws


def test_some_levels_have_the_draws_that_they_have_among_all(draws):
    for levels in ([3], [0, 1, 5, 6], [6, 2, 2, 0]):
        levels = {site: np.array(levels) % draws.sites[site].shape[2] for site in draws.lazy_sites}
        found = draws.at(levels)
        for site, own in levels.items():
            assert found[site].tobytes() == draws.sites[site][:, :, own].tobytes()


def test_one_site_alone_has_the_draws_that_it_has_beside_others(draws):
    for site in draws.lazy_sites:
        found = draws.effects.at({site: np.arange(3)})
        assert list(found) == [site]
        assert found[site].tobytes() == draws.sites[site][:, :, :3].tobytes()


def test_tiles_do_not_change_the_draws(draws, monkeypatch):
    levels = {site: np.arange(draws.sites[site].shape[2]) for site in draws.lazy_sites}
    monkeypatch.setattr(effect_draws, "_TILE", 512)
    for site, found in draws.at(levels).items():
        np.testing.assert_allclose(found, draws.sites[site], atol=1e-12)


def test_thinned_draws_are_some_of_them(draws):
    thinned = draws.thinned(7)
    levels = {site: np.array([0, 2]) for site in draws.lazy_sites}
    places = np.unique(np.linspace(0, 29, 7).astype(int))
    for site, found in thinned.at(levels).items():
        own = draws.sites[site][:, places]
        np.testing.assert_array_equal(found, own[:, :, [0, 2]] if site in levels else own)


def test_cells_have_draws_of_their_own_and_the_noise_of_all(grouped, monkeypatch):
    """Fewer factorizations move the draws by less than their sd."""
    model = rf.Model("y ~ x + (1 | g)")
    each = model.fit(grouped, method="exact", draws=200, progress=False).draws
    monkeypatch.setattr(hyperparameter_cells, "_EACH", 0)
    few = model.fit(grouped, method="exact", draws=200, progress=False).draws
    away = each.sites["1|g"] - few.sites["1|g"]
    assert away.std() < 0.2 * each.sites["1|g"].std(axis=1).max()


def test_effects_that_move_with_thresholds_keep_their_sds_where_draws_share_cells(monkeypatch):
    """Few answers leave the thresholds, and with them all effects, wide room in common."""
    rng = np.random.default_rng(1)
    g, x = rng.integers(0, 8, 120), rng.normal(size=120)
    eta = 2.0 + x + rng.normal(size=8)[g] + rng.logistic(size=120)
    table = {"y": np.digitize(eta, [-2.0, -1.0, 0.0, 1.5, 4.0]) + 1, "x": x, "g": g}
    model = rf.Model("y ~ x + (1 | g)", family="ordinal", priors={"1|g_sigma": 3.0})
    few = model.fit(table, method="laplace", progress=False)
    by_moments, drawn = few.ranef("g")["sd"], few.draws.sites["1|g"][0].std(axis=0)
    monkeypatch.setattr(hyperparameter_cells, "_MOST", 1000)
    monkeypatch.setattr(hyperparameter_cells, "_MOST_EACH", 1000)
    each = model.fit(table, method="laplace", progress=False).ranef("g")["sd"]
    np.testing.assert_allclose(by_moments, each, rtol=0.03)
    np.testing.assert_allclose(drawn, each, rtol=0.12)


def test_noise_belongs_to_its_level():
    whole = CounterRNG(3, 1).of(np.arange(100), 50)
    np.testing.assert_array_equal(CounterRNG(3, 1).of(np.array([7, 90]), 50), whole[[7, 90]])
    np.testing.assert_array_equal(CounterRNG(3, 1).of(np.array([7]), 20)[0], whole[7, :20])
    others = [CounterRNG(4, 1), CounterRNG(3, 2)]
    assert all(not np.allclose(other.of(np.arange(100), 50), whole) for other in others)
    assert abs(whole.mean()) < 0.05
    assert abs(whole.std() - 1) < 0.05
    assert np.abs(np.corrcoef(whole)[np.triu_indices(100, 1)]).max() < 0.7
