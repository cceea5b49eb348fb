"""One network with several outputs, each the predictor of another parameter."""

import numpy as np
import pytest

import ranef as rf

# After ranef, which says on which backend it runs.
keras = pytest.importorskip("keras")

N = 300
RNG = np.random.default_rng(5)
X = RNG.uniform(-2, 2, N)
TABLE = {"x": X, "y": np.sin(X) + np.exp(-1 + 0.5 * X) * RNG.normal(size=N)}
BOTH = "y ~ nn(x, net=f); sigma ~ nn(x, net=f)"


def network(outputs: int) -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [layers.Input((1,)), layers.Dense(6, activation="tanh"), layers.Dense(outputs)]
    )


def test_one_network_predicts_mean_and_log_sd(tmp_path):
    both = network(2)
    fit = rf.Model(BOTH, networks={"f": both}).fit(TABLE, steps=8, draws=50, progress=False)
    assert sum(name.endswith("kernel") for name in fit.draws.points) == 2
    assert [line[:8] for line in fit.equations()].count("f: a net") == 1
    outputs = np.asarray(both(X[:, None]))
    mean = fit.posterior.mean()
    found = fit.predict(TABLE)["mean"]
    np.testing.assert_allclose(found, float(mean["Intercept"]) + outputs[:, 0], atol=1e-4)
    log_sd = fit.posterior["sigma_Intercept"].values.reshape(-1, 1) + outputs[:, 1]
    variance = fit.predict(TABLE, kind="response")["sd"] ** 2 - fit.predict(TABLE)["sd"] ** 2
    np.testing.assert_allclose(variance, np.exp(2 * log_sd).mean(axis=0), rtol=1e-4)
    again = rf.load(fit.save(tmp_path / "fit.ranef"))
    np.testing.assert_array_equal(again.predict(TABLE), fit.predict(TABLE))
    np.testing.assert_array_equal(np.asarray(again.network("f")(X[:, None])), outputs)


@pytest.mark.parametrize(
    ("formula", "outputs", "said"),
    [
        (BOTH, 1, r"end it with Dense\(2\), one output for each of nn\(x, net=f\), sigma_nn"),
        ("y ~ nn(x, net=f)", 2, r"end it with Dense\(1\)$"),
        (BOTH.replace("nn(x, net=f)", "nn(x, net=f, weights='last')"), 2, "leave out weights"),
        ("y ~ nn(x, net=f); sigma ~ nn(log(x), net=f)", 2, "terms share one where they are"),
    ],
)
def test_what_cannot_be_shared(formula, outputs, said):
    with pytest.raises(rf.OptionError, match=said):
        rf.Model(formula, networks={"f": network(outputs)}).fit(TABLE, progress=False)
