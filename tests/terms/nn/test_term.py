"""Keras networks in the mean."""

import keras
import numpy as np
import pytest

import ranef as rf

RNG = np.random.default_rng(3)
X = RNG.uniform(-2, 2, 600)
TABLE = {"x": X, "z": RNG.normal(size=600), "y": 100 * np.sin(2 * X) + RNG.normal(0, 10, 600)}


def network(*layers, width=1):
    return keras.Sequential([keras.layers.Input((width,)), *layers, keras.layers.Dense(1)])


def test_a_network_learns_what_a_line_cannot():
    line = rf.Model("y ~ x").fit(TABLE, progress=False)
    bent = rf.Model("y ~ nn(x, hidden=[16])").fit(TABLE, progress=False)
    truth = 100 * np.sin(2 * X)
    assert np.abs(line.predict(TABLE)["mean"] - truth).mean() > 40
    assert np.abs(bent.predict(TABLE)["mean"] - truth).mean() < 10


def test_penalties_enter_the_objective():
    """A stronger penalty gives smaller weights; without held-out rows to stop it, ever so."""
    sizes = []
    for l2 in (0.0, 0.01, 1.0):
        model = rf.Model(f"y ~ nn(x, hidden=[8], l2={l2})")
        fit = model.fit(TABLE, guide="meanfield", progress=False)
        kernels = [np.asarray(v) for n, v in fit.draws.points.items() if n.endswith("kernel")]
        sizes.append(sum(float((k**2).sum()) for k in kernels))
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[2] < 0.1


def test_a_users_network_gets_its_inputs_as_they_are():
    """A network that already knows the function starts from its own weights."""
    model = network()
    model.layers[-1].set_weights([np.array([[3.0]], "float32"), np.array([1.0], "float32")])
    table = {"x": X, "y": 1 + 3 * X + 0.1 * RNG.normal(size=600)}
    fit = rf.Model("y ~ 0 + nn(x, net=line)", networks={"line": model}).fit(
        table, steps=50, progress=False
    )
    np.testing.assert_allclose(fit.predict(table)["mean"], 1 + 3 * X, atol=0.3)


def test_dropout_is_off_and_batch_statistics_are_used_in_prediction():
    model = network(
        keras.layers.Dense(8, activation="tanh"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.2, seed=1),
    )
    table = {**TABLE, "y": TABLE["y"] / 100}
    fit = rf.Model("y ~ nn(x, net=f)", networks={"f": model}).fit(table, steps=300, progress=False)
    carried = fit.draws.carried["nn(x, net=f)/state"]
    moving = next(v for name, v in carried.items() if name.endswith("moving_mean"))
    assert np.abs(np.asarray(moving)).max() > 0
    first, again = fit.predict(table)["mean"], fit.predict(table)["mean"]
    assert first.equals(again)
    alone = fit.predict({name: values[:1] for name, values in table.items()})["mean"]
    assert alone[0] == pytest.approx(first[0], abs=1e-4)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ({"f": network(width=3)}, "expects input of shape \\(None, 3\\).*gives 2 columns"),
        ({"f": keras.Sequential([keras.layers.Dense(4)])}, "end it with Dense\\(1\\)"),
        ({"f": "a network"}, "must be a Keras model, not str"),
    ],
)
def test_networks_that_do_not_fit_are_refused(networks, message):
    with pytest.raises(rf.RanefError, match=message):
        rf.Model("y ~ nn(x, z, net=f)", networks=networks).fit(TABLE, steps=50, progress=False)


def test_an_unknown_activation_is_refused():
    with pytest.raises(rf.FormulaError, match="no activation Keras knows"):
        rf.Model("y ~ nn(x, hidden=[3], activation='tahn')").fit(TABLE, progress=False)
