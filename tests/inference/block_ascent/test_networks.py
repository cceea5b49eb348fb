"""Networks by gradient beside linear blocks in closed form."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ranef as rf
from ranef.data import parquet
from ranef.errors import FileError
from ranef.inference import checkpoint
from ranef.inference.block_ascent import minibatches
from ranef.inference.block_ascent.networks import BlockAscent

NETWORK = "nn(x, z, hidden=[24, 12], activation='silu', l2=0)"


def bent(x, z):
    return np.sin(2 * x) * z


def simulated(n: int, seed: int = 0, levels: int = 60):
    """Correlated intercepts and slopes by g, intercepts by h, and a mean no line follows."""
    rng = np.random.default_rng(seed)
    x, z = rng.uniform(-2, 2, (2, n))
    g, h = rng.integers(0, levels, n), rng.integers(0, 20, n)
    b = rng.multivariate_normal([0, 0], [[1.0, 0.3], [0.3, 0.25]], levels)
    c = rng.normal(0, 0.7, 20)
    mean = bent(x, z) + b[g, 0] + b[g, 1] * z + c[h]
    table = {"x": x, "z": z, "g": g.astype(str), "h": h.astype(str)}
    return {**table, "y": mean + rng.normal(0, 0.5, n)}, mean


def test_all_else_is_as_if_the_mean_were_known():
    """Slopes, crossed factors and the residual: the posterior beside a network is that of the
    same blocks beside the true mean, which is known here."""
    table, mean = simulated(6000)
    blocks = "(1 + z | g) + (1 | h)"
    fit = rf.Model(f"y ~ {NETWORK} + {blocks}").fit(table, progress=False)
    truth = {**table, "f": bent(table["x"], table["z"])}
    known = rf.Model(f"y ~ offset(f) + {blocks}").fit(truth, progress=False)
    assert (fit.method, known.method) == ("svi", "exact")
    for name in ("sigma", "1|g_sigma", "z|g_sigma", "1|h_sigma", "g_corr[1, z]"):
        own, other = fit.summary().loc[name], known.summary().loc[name]
        assert own["mean"] == pytest.approx(other["mean"], abs=0.35 * other["sd"] + 0.02)
        assert own["sd"] == pytest.approx(other["sd"], rel=0.15)
    effects, others = fit.ranef("g"), known.ranef("g")
    assert np.corrcoef(effects["mean"], others["mean"])[0, 1] > 0.995
    error = fit.predict(table)["mean"] - mean
    assert np.sqrt((error**2).mean()) < 0.12


def test_predictions_cover_rows_that_training_did_not_see():
    table, _ = simulated(5000)
    new, _ = simulated(9000)
    rows = np.arange(5000, 9000)
    new = {name: values[rows] for name, values in new.items()}
    table = {name: values[:5000] for name, values in simulated(9000)[0].items()}
    fit = rf.Model(f"y ~ {NETWORK} + (1 + z | g) + (1 | h)").fit(table, progress=False)
    found = fit.predict(new, kind="response")
    inside = (new["y"] >= found["lower"]) & (new["y"] <= found["upper"])
    assert 0.87 < inside.mean() < 0.92
    assert np.mean((new["y"] - found["mean"]) ** 2) < 1.12 * 0.25


def test_rows_held_out_stop_a_network_that_learns_noise():
    """Two hundred rows of noise: five hundred weights could tell every row by heart."""
    rng = np.random.default_rng(5)
    table = {name: rng.normal(size=200) for name in ("x", "z", "y")}
    fit = rf.Model(f"y ~ {NETWORK}").fit(table, progress=False)
    fitted = fit.predict(table)["mean"]
    assert fitted.std() < 0.4 * table["y"].std()
    assert fit.summary().loc["sigma", "mean"] > 0.85


def test_known_errors_and_weights_count():
    """Rows known to be worthless change nothing."""
    table, _ = simulated(3000)
    rng = np.random.default_rng(1)
    bad = rng.random(3000) < 0.3
    table["s"] = np.where(bad, 1e3, 0.5)
    table["y"] = table["y"] + np.where(bad, rng.normal(0, 20.0, 3000), 0.0)
    fit = rf.Model(f"se(y, s) ~ {NETWORK} + (1 + z | g) + (1 | h)").fit(table, progress=False)
    good = {name: values[~bad] for name, values in table.items()}
    error = fit.predict(good)["mean"] - (good["y"])
    assert np.sqrt((error**2).mean()) < 0.6


def test_rows_in_batches_teach_what_rows_in_memory_do(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "BATCH", 5_000)
    monkeypatch.setattr(minibatches, "_PASSES", 8.0)
    table, _ = simulated(24_000)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(table), path, row_group_size=1_500)
    # A sample is held out here, a tenth there, so that the two are alike but not the same.
    monkeypatch.setattr("ranef.program.training.SAMPLE", 2_000)
    model = rf.Model(f"y ~ {NETWORK} + (1 + z | g) + (1 | h)")
    streamed = model.fit(path, method="svi", progress=False)
    assert streamed.training.stream is not None
    assert streamed.training.stream.windows == 5
    assert streamed.training.held == 2_000
    held = model.fit(table, method="svi", progress=False)
    for name in ("sigma", "1|g_sigma", "z|g_sigma", "1|h_sigma"):
        own, other = streamed.summary().loc[name], held.summary().loc[name]
        assert own["mean"] == pytest.approx(other["mean"], abs=0.3 * other["sd"] + 0.01)
    both = streamed.predict(table)["mean"], held.predict(table)["mean"]
    assert np.sqrt(np.mean((both[0] - both[1]) ** 2)) < 0.1


def test_windows_hold_every_row_once_and_none_of_the_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "BATCH", 1_000)
    monkeypatch.setattr("ranef.program.training.SAMPLE", 300)
    path = tmp_path / "rows"
    path.mkdir()
    y = np.arange(5_000.0)
    for part in range(2):
        own = slice(2_500 * part, 2_500 * (part + 1))
        pq.write_table(pa.table({"y": y[own], "x": y[own]}), path / f"{part}.parquet",
                       row_group_size=400)  # fmt: skip
    fit = rf.Model("y ~ x", priors={"sigma": 1.0}).fit(path, method="exact", progress=False)
    stream = fit.training.stream
    assert stream is not None
    for seed in (1, 2):
        seen = [stream.window(seed, k).response.value for k in range(stream.windows)]
        sample = fit.training.response.value
        assert len(sample) == 300
        np.testing.assert_array_equal(np.sort(np.concatenate([*seen, sample])), y)
        # Neither in the order of the file, nor one piece of it.
        assert all(np.mean(np.abs(np.diff(values))) > 100 for values in seen)


def test_steps_are_a_limit_and_running_out_is_said():
    table, _ = simulated(600)
    fit = rf.Model(f"y ~ {NETWORK}").fit(table, steps=60, progress=False)
    assert fit.steps == 60
    assert not fit.converged
    assert "60 steps of 32 rows, cut short by steps=" in fit.message


class Killed(Exception):
    pass


def dies_after(rounds: int, monkeypatch, error):
    descend = BlockAscent._descend

    def mortal(self, state, *rest):
        if state.rounds == rounds:
            raise error
        descend(self, state, *rest)

    monkeypatch.setattr(BlockAscent, "_descend", mortal)


@pytest.mark.parametrize("where", ["memory", "parquet"])
def test_a_fit_that_is_killed_goes_on_to_the_same_bytes(where, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "_SHARE", 0.0)
    data, _ = simulated(3000)
    if where == "parquet":
        monkeypatch.setattr(parquet, "BATCH", 1_000)
        monkeypatch.setattr(minibatches, "_PASSES", 2.0)
        monkeypatch.setattr("ranef.program.training.SAMPLE", 300)
        path = tmp_path / "rows.parquet"
        pq.write_table(pa.table(data), path, row_group_size=300)
        data = path
    layers = "nn(x, z, hidden=[8])"
    model = rf.Model(f"y ~ {layers} + (1 | g) + (1 | h)")
    whole = model.fit(data, method="svi", seed=3, progress=False)
    assert whole.resumed_from is None
    place = tmp_path / "search"
    with monkeypatch.context() as patch:
        dies_after(7, patch, Killed())
        with pytest.raises(Killed):
            model.fit(data, method="svi", seed=3, checkpoint=place, progress=False)
    resumed = model.fit(data, method="svi", seed=3, checkpoint=place, progress=False)
    assert resumed.resumed_from is not None
    assert 0 < resumed.resumed_from < whole.steps
    for name, value in whole.draws.points.items():
        assert np.asarray(value).tobytes() == np.asarray(resumed.draws.points[name]).tobytes()
    assert whole.posterior.equals(resumed.posterior)
    # Another search does not take it up.
    with pytest.raises(FileError, match="is of another fit"):
        model.fit(data, method="svi", seed=4, checkpoint=place, progress=False)
    place.write_bytes(place.read_bytes()[:1000])
    with pytest.raises(FileError, match="is not a checkpoint, or is damaged"):
        model.fit(data, method="svi", seed=3, checkpoint=place, progress=False)


def test_an_interrupted_fit_is_the_best_so_far_and_says_so(monkeypatch):
    table, _ = simulated(3000)
    model = rf.Model(f"y ~ {NETWORK} + (1 | g) + (1 | h)")
    dies_after(6, monkeypatch, KeyboardInterrupt())
    fit = model.fit(table, progress=False)
    assert fit.interrupted
    assert not fit.converged
    assert fit.message.startswith("interrupted after")
    assert np.isfinite(fit.predict(table)).all(axis=None)


def test_an_interrupt_before_anything_is_known_is_an_interrupt(monkeypatch):
    table, _ = simulated(500)

    def at_once(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockAscent, "_closed_form", at_once)
    with pytest.raises(KeyboardInterrupt):
        rf.Model(f"y ~ {NETWORK}").fit(table, progress=False)
