"""A fit from batches of rows is the fit from all of them at once."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ranef as rf
from ranef.data import parquet as batches
from ranef.errors import ColumnError, DataError

SIGMA = {"sigma": 0.5}


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(batches, "BATCH", 70)


@pytest.fixture
def parquet(grouped, tmp_path, small_batches):
    """300 rows sorted by a level, in row groups of 50, with a few gaps."""
    order = np.argsort(grouped["h"], kind="stable")
    columns = {name: pa.array(values[order]) for name, values in grouped.items()}
    x = grouped["x"][order].tolist()
    g = grouped["g"][order].tolist()
    x[5], x[200], g[200], g[299] = None, None, None, None
    columns |= {"x": pa.array(x), "g": pa.array(g), "late": pa.array(1.0 + (np.arange(300) > 150))}
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=50)
    return path


@pytest.mark.parametrize(
    ("formula", "theta"),
    [
        ("y ~ x + f + (1 + x | g)", [0.8, 0.1, 0.6]),
        ("y ~ poly(x, 2) + scale(z) + (1 | g) + (1 | h)", [0.8, 0.3]),
        ("weights(y, w) ~ x + (x || g) + (1 | g:h)", [0.4, 0.8, 0.5]),
        # Constant in the first batches, and no intercept beside it.
        ("y ~ 0 + late + x + (1 | g)", [0.8]),
    ],
)
def test_the_likelihood_is_that_of_all_rows(formula, theta, parquet, grouped):
    streamed = rf.Model(formula).fit(parquet, method="exact", progress=False)
    assert streamed.training.stream is not None
    whole = rf.Model(formula).fit(pq.read_table(parquet), method="exact", progress=False)
    assert streamed.deviance(theta) == pytest.approx(whole.deviance(theta), rel=1e-11)
    assert streamed.rows == whole.rows
    for name, prior in whole.priors.items():
        assert type(prior) is type(streamed.priors[name])
    own, other = streamed.summary(), whole.summary()
    np.testing.assert_allclose(own["mean"], other["mean"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        streamed.ranef("g")["mean"], whole.ranef("g")["mean"], rtol=1e-3, atol=1e-3
    )


def test_rows_with_gaps_are_counted_over_all_batches(parquet):
    fit = rf.Model("y ~ x + (1 | g)").fit(parquet, method="exact", progress=False)
    assert (fit.rows.read, fit.rows.used) == (300, 297)
    assert fit.rows.dropped == {"x": 2, "g": 2}


def test_a_sample_is_kept(parquet, monkeypatch):
    """Of evenly spaced rows, and the tree says nothing of what it has not."""
    monkeypatch.setattr("ranef.program.training.SAMPLE", 100)
    fit = rf.Model("y ~ x + (1 | g)").fit(parquet, method="exact", progress=False)
    assert fit.idata["observed_data"]["y"].shape == (100,)
    assert "size|g" not in fit.idata["constant_data"]
    drawn = fit.extend("posterior_predictive")["posterior_predictive"]["y"]
    assert drawn.shape[-1] == 100
    with pytest.raises(rf.RanefError, match="kept a sample"):
        fit.extend("shrinkage")
    known = pq.read_table(parquet).drop_null()
    assert len(fit.predict(known)) == len(known)


def test_a_bad_row_is_named_by_its_place_in_the_file(tmp_path, small_batches):
    y = np.ones(300) + np.arange(300)
    y[234] = np.inf
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"y": y, "x": np.arange(300.0)}), path)
    with pytest.raises(DataError, match="row 235"):
        rf.Model("y ~ x").fit(path, method="exact", progress=False)


def test_refusals_are_those_of_a_table(parquet, tmp_path):
    with pytest.raises(ColumnError, match="column 'q' is not in"):
        rf.Model("y ~ q").fit(parquet, method="exact", progress=False)
    path = tmp_path / "gaps.parquet"
    empty = pa.array([None] * 200, pa.float64())
    pq.write_table(pa.table({"y": np.arange(200.0), "x": empty}), path)
    with pytest.raises(DataError, match="no row of .* is complete: 'x' is missing in 200 of 200"):
        rf.Model("y ~ x").fit(path, method="exact", progress=False)
    flat = tmp_path / "flat.parquet"
    pq.write_table(pa.table({"y": np.full(200, 3.0), "x": np.arange(200.0)}), flat)
    with pytest.raises(DataError, match="the response y is 3 in every row"):
        rf.Model("y ~ x").fit(flat, method="exact", progress=False)


def test_other_methods_and_small_files_are_read_as_a_whole(parquet, monkeypatch):
    fit = rf.Model("y ~ x").fit(parquet, method="svi", steps=50, progress=False)
    assert fit.training.stream is None
    monkeypatch.setattr(batches, "BATCH", 300)
    fit = rf.Model("y ~ x").fit(parquet, method="exact", progress=False)
    assert fit.training.stream is None


def test_priors_are_shown_without_reading_all_at_once(parquet):
    model = rf.Model("y ~ x + (1 | g)")
    own, other = model.priors_for(parquet), model.priors_for(pq.read_table(parquet))
    assert own.keys() == other.keys()
    assert own["1|g_sigma"].sigma == pytest.approx(other["1|g_sigma"].sigma)


def test_progress_says_which_pass_it_is(parquet, capfd, monkeypatch):
    monkeypatch.setattr("ranef.progress._DELAY", 0.0)
    rf.Model("y ~ x").fit(parquet, method="exact")
    out, err = capfd.readouterr()
    assert not out
    assert "reading, pass 1" in err
    assert "reading, pass 3" in err


def test_declared_categories_keep_their_order_over_batches(tmp_path, small_batches):
    rng = np.random.default_rng(2)
    codes = np.sort(rng.integers(0, 3, 300))  # no batch has all of them
    names = ["low", "medium", "high", "unused"]
    table = pd.DataFrame(
        {
            "q": pd.Categorical.from_codes(codes, names),
            "b": rng.random(300) < 0.5,
            "g": pd.Categorical.from_codes(rng.integers(0, 2, 300), ["z", "a"]),
        }
    )
    table["y"] = codes + table["b"] + rng.normal(size=300)
    path = tmp_path / "table.parquet"
    table.to_parquet(path, row_group_size=50)
    formula, common = "y ~ 0 + q + b + (1 | g:q)", {"progress": False, "method": "exact"}
    streamed = rf.Model(formula, priors=SIGMA).fit(path, **common)
    assert streamed.training.stream is not None
    whole = rf.Model(formula, priors=SIGMA).fit(table, **common)
    assert streamed.fixef().index.tolist() == ["q[low]", "q[medium]", "q[high]", "b[True]"]
    np.testing.assert_allclose(streamed.fixef(), whole.fixef(), rtol=0.05)
    levels = whole.posterior["g:q__factor_dim"].to_numpy().tolist()
    assert levels[:3] == ["z:low", "z:medium", "z:high"]
    assert streamed.posterior["g:q__factor_dim"].to_numpy().tolist() == levels
