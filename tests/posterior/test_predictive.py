"""Predictions: the same for a row whichever others are asked for, and however they are made."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

import ranef as rf
from ranef.inference.pwls import effect_draws, solver
from ranef.posterior import program_replay

FORMULAS = {
    "intercepts": "y ~ x + (1 | g)",
    "slopes": "y ~ x + (x | g)",
    "independent": "y ~ x + (x || g) + (1 | k)",
    "nested": "y ~ x + (1 | k) + (x | k:g)",
    "crossed": "y ~ x + (x | g) + (1 | k)",
    "sparse": "y ~ x + (x | g) + (1 | k)",
    "interaction": "y ~ x + (1 | g) + (1 | k) + (1 | g:k)",
}


@pytest.fixture(scope="module")
def table(grouped) -> pd.DataFrame:
    return pd.DataFrame({**grouped, "k": [f"k{i % 7}" for i in range(300)]})


@pytest.fixture(scope="module", params=FORMULAS)
def fit(request, table) -> Iterator[rf.Fit]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "sparse":
            patch.setattr(solver, "_DENSE", 0)
            patch.setattr(solver, "_FULL", 2.0)
        patch.setattr(effect_draws, "_TILE", 5)
        yield rf.Model(FORMULAS[request.param]).fit(table, draws=40, progress=False)


def with_new(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(g=np.where(np.arange(300) % 5, table["g"], [f"n{i}" for i in range(300)]))


def test_some_rows_have_the_predictions_that_they_have_among_all(fit, table):
    rows = with_new(table)
    whole = fit.predict(rows, new_levels="sample", seed=3)
    for some in (slice(40, 47), slice(299, 300), slice(5, 200, 13)):
        part = fit.predict(rows.iloc[some], new_levels="sample", seed=3)
        pd.testing.assert_frame_equal(part, whole.iloc[some], rtol=1e-10)


@pytest.mark.parametrize(
    ("cells", "most", "new_levels"),
    [(1_500, 10**7, "sample"), (3_000, 900, "sample"), (3_000, 1_500, "zero")],
)
def test_batches_and_chunks_do_not_change_the_answer(
    fit, table, monkeypatch, cells, most, new_levels
):
    rows = with_new(table)
    whole, scores = fit.predict(rows, new_levels=new_levels), fit.log_score(table)
    monkeypatch.setattr(program_replay, "_CELLS", cells)
    monkeypatch.setattr(program_replay, "_EFFECTS", most)
    pd.testing.assert_frame_equal(fit.predict(rows, new_levels=new_levels), whole, rtol=1e-10)
    np.testing.assert_allclose(fit.log_score(table), scores, rtol=1e-10)


def test_predictions_are_of_the_draws_in_the_posterior(table, monkeypatch):
    monkeypatch.setattr(program_replay, "_EFFECTS", 300)
    fit = rf.Model("y ~ 1 + (1 | g) + (1 | k)").fit(table, draws=50, progress=False)
    found = fit.predict(table)
    posterior = fit.posterior.squeeze("chain")
    by_row = (
        posterior["Intercept"].values[:, None]
        + posterior["1|g"].sel(g__factor_dim=table["g"].to_numpy()).values
        + posterior["1|k"].sel(k__factor_dim=table["k"].to_numpy()).values
    )
    np.testing.assert_allclose(found["mean"], by_row.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found["upper"], np.quantile(by_row, 0.95, axis=0), rtol=1e-10)


def test_the_sd_of_a_prediction_is_that_of_dense_algebra(table, monkeypatch):
    """With scales known, (beta, b) is normal with covariance (C'C / sigma^2 + P)^-1."""
    monkeypatch.setattr(program_replay, "_EFFECTS", 30_000)
    scales = {"sigma": 0.5, "1|g_sigma": 1.0, "1|k_sigma": 0.2, "common": rf.Flat()}
    model = rf.Model("y ~ x + (1 | g) + (1 | k)", priors=scales)
    fit = model.fit(table, draws=8_000, progress=False)
    parts = [pd.get_dummies(table[name], dtype=float).to_numpy() for name in ("g", "k")]
    c = np.column_stack([np.ones(300), table["x"], *parts])
    precision = np.r_[0.0, 0.0, np.full(parts[0].shape[1], 1.0), np.full(parts[1].shape[1], 25.0)]
    covariance = np.linalg.inv(4.0 * c.T @ c + np.diag(precision))
    mean = c @ covariance @ c.T @ table["y"].to_numpy() * 4.0
    sd = np.sqrt(np.einsum("ij,jk,ik->i", c, covariance, c))
    found = fit.predict(table)
    np.testing.assert_allclose(found["sd"], sd, rtol=0.04)
    np.testing.assert_allclose(found["mean"], mean, atol=0.05 * sd.max())


def test_rows_of_new_levels_share_effects_by_name(table):
    fit = rf.Model("y ~ 1 + (1 | g)").fit(table, draws=40, progress=False)
    rows = pd.DataFrame({"g": ["a", "b", "a", "c"]})
    found = fit.predict(rows, new_levels="sample")
    assert found.loc[0].equals(found.loc[2])
    assert not found.loc[0].equals(found.loc[1])
    alone = fit.predict(rows.iloc[3:], new_levels="sample")
    np.testing.assert_allclose(alone, found.iloc[3:], rtol=1e-12)


def test_chains_have_their_own_draws(table, monkeypatch):
    options = {"method": "nuts", "chains": 2, "tune": 60, "draws": 30, "progress": False}
    fit = rf.Model("y ~ 1 + (1 | g)").fit(table, **options)
    found = fit.predict(table.iloc[:5])
    posterior = fit.posterior.stack(all=("chain", "draw"))
    each = posterior["Intercept"] + posterior["1|g"].sel(g__factor_dim=table["g"][:5].to_numpy())
    np.testing.assert_allclose(found["mean"], each.mean("all"), rtol=1e-10)
