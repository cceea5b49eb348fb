"""Posteriors over the weights of a network."""

from functools import cache

import jax.numpy as jnp
import keras
import numpy as np
import pytest

import ranef as rf
from ranef.inference import exact
from ranef.inference.hyperparameters.sampler import HyperDraws
from ranef.terms.nn import linearized_laplace

GAP = np.linspace(-0.4, 0.4, 30)
INSIDE = np.r_[np.linspace(-1.9, -0.7, 30), np.linspace(0.7, 1.9, 30)]


def bent(x):
    return np.sin(3 * x) + 0.5 * x


def gapped(seed=0, n=300, noise=0.15):
    """Two stretches of x with nothing between them, and forty groups."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.uniform(-2, -0.6, n // 2), rng.uniform(0.6, 2, n - n // 2)])
    g = rng.integers(0, 40, n)
    y = bent(x) + rng.normal(0, 0.3, 40)[g] + rng.normal(0, noise, n)
    return {"x": x, "g": g.astype(str), "y": y}


@cache
def fitted(weights):
    model = rf.Model(f"y ~ nn(x, hidden=[16, 16], weights='{weights}') + (1 | g)")
    return model.fit(gapped(), steps=1500, progress=False)


def widths(fit, x):
    found = fit.predict({"x": x, "g": np.full(len(x), "3")})
    return (found["upper"] - found["lower"]).to_numpy(), found


def test_all_weights_are_unsure_where_there_are_no_data():
    fit = fitted("full")
    gap, found = widths(fit, GAP)
    inside, _ = widths(fit, INSIDE)
    assert np.median(gap) > 5 * np.median(inside)
    effect = fit.ranef("g").loc["3", "mean"]
    covered = (bent(GAP) + effect > found["lower"]) & (bent(GAP) + effect < found["upper"])
    assert covered.mean() > 0.9
    assert 0.14 < fit.summary().loc["sigma", "mean"] < 0.17
    assert 0.2 < fit.summary().loc["1|g_sigma", "mean"] < 0.4


def test_a_last_layer_has_draws_and_its_uncertainty_depends_on_x():
    fit = fitted("last")
    layer = fit.posterior["nn(x)_last"]
    assert layer.sizes["nn(x)_unit"] == 17
    assert list(layer["nn(x)_unit"].values[[0, -1]]) == ["unit 1", "bias"]
    own, _ = widths(fit, INSIDE)
    point, _ = widths(fitted("point"), INSIDE)
    # Of a point nothing is uncertain that depends on x.
    assert np.ptp(point) < 1e-6 < 0.01 < np.ptp(own)
    assert "nn(x)_sigma" in fit.summary().index


def test_a_network_without_hidden_layers_is_a_linear_model():
    """Of one layer every weight is in the last: the slope has the posterior of a common effect
    with the same prior."""
    rng = np.random.default_rng(2)
    table = {"x": rng.normal(size=200)}
    table["y"] = 2 * table["x"] + rng.normal(size=200)
    keras.utils.set_random_seed(0)
    line = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    own = rf.Model(
        "y ~ nn(x, net=f, weights='full')", networks={"f": line}, priors={"nn(x)_sigma": 1.5}
    ).fit(table, draws=4000, progress=False)
    known = rf.Model("y ~ x", priors={"x": rf.Normal(0, 1.5)}).fit(
        table, draws=4000, progress=False
    )
    new = {"x": np.array([-1.0, 2.0])}
    a, b = own.predict(new), known.predict(new)
    np.testing.assert_allclose(a["mean"], b["mean"], atol=0.01)
    np.testing.assert_allclose(a["sd"], b["sd"], rtol=0.06)


def test_columns_and_directions_are_one_linear_model():
    rng = np.random.default_rng(0)
    weights = [jnp.asarray(rng.normal(size=shape), "float32") for shape in ((3, 4), (4,))]
    rows = [jnp.asarray(rng.normal(size=(50, 3)), "float32")]

    def output(w, x):
        return jnp.tanh(x[0] @ w[0]) @ w[1]

    linear = linearized_laplace.directions(output, weights, rows)
    assert linear["directions"].shape == (16, 16)
    columns = np.asarray(linearized_laplace.columns(output, weights, rows, linear))
    # At the estimates themselves the linear model is the network.
    at = columns[:, 0] + columns[:, 1:] @ linear["mean"]
    np.testing.assert_allclose(at, output(weights, rows), atol=1e-5)
    a = jnp.asarray(linear["mean"] + 0.1 * rng.normal(size=16), "float32")
    moved = linearized_laplace.moved(output, weights, rows, linear, a, jnp.zeros(16))
    np.testing.assert_allclose(moved, columns[:, 0] + columns[:, 1:] @ a, atol=1e-5)


@pytest.mark.parametrize("weights", ["last", "full"])
def test_a_kept_fit_predicts_the_same(weights, tmp_path):
    fit = fitted(weights)
    kept = rf.load(fit.save(tmp_path / "fit.ranef"))
    new = {"x": np.linspace(-3, 3, 40), "g": np.full(40, "7")}
    assert fit.predict(new).equals(kept.predict(new))


@pytest.mark.parametrize("weights", ["last", "full"])
def test_draws_that_cannot_be_relied_on_are_given_and_marked(weights, monkeypatch):
    """As on a posterior that neither weights nor chains can follow."""

    def unreliable(target, start, *rest, **options):
        x = np.tile(start, (50, 1))
        return HyperDraws(x, start, 1.3, None, 50, reliable=False, found=True, evidence=0.0)

    monkeypatch.setattr(exact, "sample", unreliable)
    model = rf.Model(f"y ~ nn(x, hidden=[4], weights='{weights}')")
    fit = model.fit(gapped(n=60), draws=50, progress=False)
    assert not fit.converged
    assert "not reliable: 50 draws" in fit.message
    assert fit.check().verdict == "distrust"
    assert np.isfinite(fit.predict({"x": INSIDE})).all(axis=None)


def test_a_network_that_does_not_end_in_a_line_has_no_last_layer():
    network = keras.Sequential(
        [keras.layers.Input((1,)), keras.layers.Dense(4), keras.layers.Dense(1, activation="tanh")]
    )
    model = rf.Model("y ~ nn(x, net=f, weights='last')", networks={"f": network})
    with pytest.raises(rf.RanefError, match="must end with a Dense layer that has no activation"):
        model.fit(gapped(), progress=False)
