"""Networks as Keras users write them: several inputs, levels, dropout, batch norm, penalties."""

import subprocess
import sys

import jax
import numpy as np
import numpyro
import pytest

import ranef as rf
from ranef.inference.advi import guide as guides
from ranef.inference.advi.elbo import Objective
from ranef.program.problem import sites_of
from ranef.program.problem_builder import build_problem
from ranef.program.program import Program
from ranef.terms.base import Run, RunOptions

# After ranef, which says on which backend it runs.
keras = pytest.importorskip("keras")

N = 400
RNG = np.random.default_rng(8)
KIND = RNG.choice(["flat", "house", "tower"], N)
EFFECT = np.array([0.5, -1.0, 1.5])[np.unique(KIND, return_inverse=True)[1]]
X, Z = RNG.normal(3.0, 2.0, (2, N))
IMAGE = RNG.normal(size=(N, 4, 4))
TABLE = {
    "x": X,
    "z": Z,
    "kind": KIND,
    "image": IMAGE,
    "y": 0.5 * X + EFFECT + IMAGE[:, 1, 2] + RNG.normal(0, 0.1, N),
}
QUICK = {"method": "svi", "progress": False, "draws": 50, "steps": 60}
LAYERS = keras.layers


def fitted(formula: str, network=None, table=None, priors=None, **options) -> rf.Fit:
    model = rf.Model(formula, networks={"f": network} if network else None, priors=priors)
    return model.fit(TABLE if table is None else table, **{**QUICK, **options})


def three_inputs(entries: int = 4) -> keras.Model:
    numbers = keras.Input((2,), name="numbers")
    kind = keras.Input((), dtype="int32", name="kind")
    image = keras.Input((4, 4, 1), name="image")
    pixels = LAYERS.Flatten()(LAYERS.Conv2D(2, 3)(image))
    joined = LAYERS.Concatenate()([numbers, LAYERS.Embedding(entries, 2)(kind), pixels])
    hidden = LAYERS.Dense(8, activation="silu")(joined)
    return keras.Model([numbers, kind, image], LAYERS.Dense(1)(hidden))


def sequential(*layers, width: int = 1) -> keras.Model:
    return keras.Sequential([LAYERS.Input((width,)), *layers])


def head(**settings) -> keras.layers.Layer:
    """A layer f(x) = b x that starts at b = 0."""
    return LAYERS.Dense(1, use_bias=False, kernel_initializer="zeros", **settings)


def fed(network: keras.Model, table: dict) -> list[np.ndarray]:
    """What `three_inputs` is called with by plain Keras."""
    codes = 1 + np.searchsorted(np.unique(KIND), table["kind"])
    return [np.column_stack([table["x"], table["z"]]), codes, table["image"]]


def held(network: keras.Model) -> list[np.ndarray]:
    return [np.array(variable.value) for variable in network.weights]


# Several inputs and levels


def test_several_inputs_are_fitted_and_predicted():
    fit = fitted("y ~ nn(x, z, kind, image, net=f)", three_inputs(), steps=3000)
    left = TABLE["y"] - fit.predict(TABLE)["mean"]
    assert np.std(left) < 0.3 < 1.0 < np.std(TABLE["y"])
    assert fit.equations()[1] == ("μ_{i} = β_{0} + f(x_{i}, z_{i}, kind_{i}, image_{i}; w)")
    assert fit.equations()[2] == (
        "f: a network of 2 numbers, kind (3 levels) and image (4 × 4 × 1), 141 weights w, a "
        "point estimate"
    )


def test_names_match_whatever_the_order():
    network = three_inputs()
    one = fitted("y ~ 0 + nn(x, z, kind, image, net=f)", network)
    (expected,) = one.training.designs.values()
    for order in ("image, x, z, kind", "kind, x, image, z"):
        (design,) = learned(network, f"y ~ 0 + nn({order}, net=f)")[1].designs.values()
        for place in "012":
            np.testing.assert_array_equal(design.arrays[place], expected.arrays[place])


def test_inputs_in_a_dict_are_called_by_their_names():
    kind, x = keras.Input((), dtype="int32", name="kind"), keras.Input((1,), name="x")
    joined = LAYERS.Concatenate()([LAYERS.Embedding(4, 1)(kind), x])
    network = keras.Model({"x": x, "kind": kind}, LAYERS.Dense(1)(joined))
    fit = fitted("y ~ 0 + nn(kind, x, net=f)", network)
    given = {"x": X[:, None], "kind": fed(network, TABLE)[1]}
    np.testing.assert_allclose(
        network.predict(given, verbose=0)[:, 0], fit.predict(TABLE)["mean"], atol=1e-4
    )


def test_a_level_that_training_did_not_see_has_the_code_zero():
    network = three_inputs()
    fit = fitted("y ~ 0 + nn(x, z, kind, image, net=f)", network)
    new = {name: values[:3] for name, values in TABLE.items() if name != "kind"}
    new["kind"] = np.array(["hut", "flat", "hut"])
    with pytest.raises(rf.DataError, match="no effect for the level 'hut', not seen in training"):
        fit.predict(new)
    numbers, _, image = fed(network, TABLE)
    by_keras = network.predict([numbers[:3], np.array([0, 1, 0]), image[:3]], verbose=0)
    for new_levels in ("zero", "sample"):
        found = fit.predict(new, new_levels=new_levels)["mean"]
        np.testing.assert_allclose(found, by_keras[:, 0], atol=1e-4)


def numbers_in_an_embedding() -> keras.Model:
    x = keras.Input((), name="x")
    return keras.Model(x, LAYERS.Dense(1)(LAYERS.Embedding(5, 2)(x)))


def codes_in_a_dense() -> keras.Model:
    kind, x = keras.Input((1,), name="kind"), keras.Input((1,), name="x")
    return keras.Model([kind, x], LAYERS.Dense(1)(LAYERS.Concatenate()([kind, x])))


@pytest.mark.parametrize(
    ("arguments", "make", "said"),
    [
        (
            "x, z, kind, image",
            lambda: three_inputs(3),
            "'f' has input_dim=3, and kind has 3 levels",
        ),
        ("x, z, kind, image", lambda: three_inputs(3), "make it input_dim=4"),
        ("x, z, image, kind", lambda: three_inputs(2), "make it input_dim=4"),
        ("x, kind", codes_in_a_dense, r"kind to the layer 'dense.*' \(Dense\), .*input_dim=4"),
        ("x", numbers_in_an_embedding, r"takes the whole numbers from 0 to 4; write C\(x\)"),
        ("x, kind, image", three_inputs, r"shape \(None, 2\) at its input 'numbers' \(1 of 3\)"),
    ],
)
def test_what_a_network_cannot_take_is_refused(arguments, make, said):
    with pytest.raises(rf.RanefError, match=said):
        fitted(f"y ~ nn({arguments}, net=f)", make())


def test_a_network_that_takes_texts_is_told_of_codes():
    kind = keras.Input((1,), dtype="string", name="kind")
    network = keras.Model(kind, LAYERS.Dense(1)(LAYERS.Identity()(kind)))
    with pytest.raises(rf.OptionError, match="'kind' of the network 'f' takes text"):
        fitted("y ~ nn(kind, net=f)", network)


def test_one_network_cannot_be_trained_by_two_terms():
    with pytest.raises(rf.OptionError, match=r"nn\(x, net=f\) and nn\(z, net=f\) have one network"):
        rf.Model("y ~ nn(x, net=f) + nn(z, net=f)", networks={"f": sequential(head())})


def test_the_built_in_network_embeds_levels():
    fit = fitted("y ~ nn(x, kind, image, hidden=[8])", steps=3000)
    assert np.std(TABLE["y"] - fit.predict(TABLE)["mean"]) < 0.4
    names = [name.rpartition("]))/")[2] or name for name in fit.draws.points]
    assert any(name.endswith("embedding_1_kind/embeddings") for name in names)
    assert any(name.endswith("hidden_1/kernel") for name in names)
    # A level that training did not see is the origin of the embedding.
    (table,) = (np.asarray(v) for k, v in fit.draws.points.items() if k.endswith("embeddings"))
    assert table.shape == (4, 2)
    np.testing.assert_array_equal(table[0], 0.0)
    assert np.abs(table[1:]).max() > 0.1


def test_levels_alone_and_numbers_as_levels_serve_the_built_in_network():
    # Without any noise the search for sigma would be most of the work.
    noise = np.random.default_rng(9).normal(0, 0.05, N)
    table = {
        "y": EFFECT + noise,
        "kind": KIND,
        "code": np.unique(KIND, return_inverse=True)[1] * 10,
    }
    for arguments in ("kind", "C(code)"):
        fit = fitted(f"y ~ nn({arguments}, hidden=[4], l2=0)", table=table, steps=2000)
        np.testing.assert_allclose(fit.predict(table)["mean"], EFFECT, atol=0.1)


# Units


def test_a_network_is_trained_alike_in_any_unit_of_the_response(tmp_path):
    """Outputs count in units of the spread, and the network holds them in those of the response."""
    x = RNG.uniform(-2, 2, N)
    y = np.sin(2 * x) + RNG.normal(0, 0.1, N)
    explained = []
    for unit in (1e-4, 1e5):
        keras.utils.set_random_seed(3)
        network = sequential(LAYERS.Dense(16, activation="tanh"), LAYERS.Dense(1))
        table = {"x": x, "y": unit * y}
        fit = fitted("y ~ 0 + nn(x, net=f)", network, table, steps=1500)
        predicted = fit.predict(table)["mean"]
        explained.append(1 - np.var(table["y"] - predicted) / np.var(table["y"]))
        by_keras = network.predict(x[:, None], verbose=0)[:, 0]
        np.testing.assert_allclose(by_keras, predicted, atol=1e-4 * unit)
        again = rf.load(fit.save(tmp_path / "fit.ranef"))
        np.testing.assert_array_equal(again.predict(table)["mean"], predicted)
        by_keras = again.network("f").predict(x[:, None], verbose=0)[:, 0]
        np.testing.assert_allclose(by_keras, predicted, atol=1e-4 * unit)
    assert explained[0] == pytest.approx(explained[1], abs=1e-3)
    assert min(explained) > 0.9


def test_outputs_that_begin_far_too_large_do_not_drown_the_response():
    """Areas and years as they are: Keras's first weights make thousands of them."""
    area, year = RNG.uniform(500, 4000, 600), RNG.uniform(1900, 2010, 600)
    g = RNG.integers(0, 30, 600)
    y = 0.01 * RNG.normal(size=600) + 0.002 * RNG.normal(size=30)[g] + area / 1e5
    keras.utils.set_random_seed(0)
    network = sequential(LAYERS.Dense(16, activation="relu"), LAYERS.Dense(1), width=2)
    table = {"area": area, "year": year, "g": g.astype(str), "y": y}
    fit = fitted("y ~ nn(area, year, net=f) + (1 | g)", network, table, steps=2000)
    scales = fit.varcorr()["mean"]
    assert 0.008 < scales["sigma"] < 0.012
    assert scales["1|g_sigma"] < 0.005


# State: dropout and batch normalization


@pytest.mark.parametrize(("guide", "batch_size"), [("structured", 64), ("meanfield", None)])
def test_moving_statistics_are_those_of_the_data(guide, batch_size):
    # Their names are in another order than the layers, as JAX puts them.
    norms = [LAYERS.BatchNormalization(momentum=0.98, name=name) for name in ("z", "a")]
    dropout = LAYERS.Dropout(0.1)
    network = sequential(norms[0], LAYERS.Dense(3), dropout, norms[1], LAYERS.Dense(1), width=2)
    fit = fitted(
        "y ~ nn(x, z, net=f)", network, steps=600, guide=guide, batch_size=batch_size, samples=3
    )
    columns = np.column_stack([X, Z])
    norm = fit.network("f").layers[0]
    np.testing.assert_allclose(norm.moving_mean, columns.mean(axis=0), atol=0.2)
    np.testing.assert_allclose(norm.moving_variance, columns.var(axis=0), rtol=0.15)


def test_a_short_fit_is_judged_by_the_statistics_of_its_own_weights():
    """By those of past steps the network at the start would predict best, and be kept."""
    x = RNG.uniform(-2, 2, 600)
    table = {"x": x, "y": np.sin(2 * x) + RNG.normal(0, 0.1, 600)}
    keras.utils.set_random_seed(2)
    hidden = LAYERS.Dense(8, activation="tanh")
    network = sequential(hidden, LAYERS.BatchNormalization(), LAYERS.Dense(1))
    fit = fitted("y ~ nn(x, net=f)", network, table, steps=300)
    assert np.std(table["y"] - fit.predict(table)["mean"]) < 0.35 < 0.6 < np.std(table["y"])


def test_moving_statistics_begin_as_keras_has_them():
    """Reading off the sites runs the program once, which must not count as a batch."""
    network = sequential(LAYERS.BatchNormalization(), LAYERS.Dense(1))
    program, training = learned(network)
    state = sites_of(build_problem(program, training), jax.random.key(0)).carried[
        "nn(x, net=f)/state"
    ]
    held = {name.rpartition("/")[2]: np.asarray(value) for name, value in state.items()}
    assert held["moving_mean"] == 0.0
    assert held["moving_variance"] == 1.0


def learned(network: keras.Model, formula: str = "y ~ 0 + nn(x, net=f)"):
    model = rf.Model(formula, networks={"f": network}, priors={"sigma": 1.0})
    return model.program, model._learn(TABLE)


def training_output(program: Program, training, key: int) -> np.ndarray:
    (_, term), *_ = program.all_terms()
    own = numpyro.handlers.seed(term.eta, key)
    scale = training.state.scales["mu"]
    state, design = training.state.terms[term.label], training.designs[term.label]
    options = RunOptions(training=True, rows=N)
    return np.asarray(own(Run(state, design, {}, scale, options)))


def test_dropout_has_the_expectation_of_the_network_without_it():
    one = LAYERS.Dense(1, use_bias=False, kernel_initializer="ones")
    program, training = learned(sequential(LAYERS.Dropout(0.5), one))
    drawn = np.stack([training_output(program, training, key) for key in range(200)])
    assert set(np.round(drawn[:, 0] / X[0], 5)) == {0.0, 2.0}
    error = np.abs(X) / np.sqrt(200)
    assert (np.abs(drawn.mean(axis=0) - X) < 5 * error).all()


def test_masks_differ_between_samples_and_steps():
    """With nothing random but dropout, the samples of a step still differ, and so do steps."""
    one = LAYERS.Dense(1, use_bias=False, kernel_initializer="ones")
    program, training = learned(sequential(LAYERS.Dropout(0.5), one))
    problem = build_problem(program, training)
    sites = sites_of(problem, jax.random.key(0))
    guide = guides.build("meanfield", sites.latents, problem, points=sites.points, following=True)
    objective = Objective(problem, sites, guide, 4)
    values = [
        objective.samples_of(objective.init(), sites.carried, jax.random.key(i), problem.data)[0]
        for i in range(2)
    ]
    assert len(np.unique(values)) == 8


@pytest.mark.parametrize("guide", ["structured", "meanfield"])
def test_dropout_shrinks_as_the_expected_loss_says(guide):
    """Of E (y - b x m / (1 - r))^2, m ~ Bernoulli(1 - r), the minimum is (1 - r) of the slope.

    Of two copies of a column one mask for all steps would keep, in some rows, one alone.
    """
    x = X - X.mean()
    table = {"x": x, "y": 2 * x}
    network = sequential(LAYERS.Dropout(0.4), head())
    fit = fitted("y ~ 0 + nn(x, net=f)", network, table, {"sigma": 1.0}, steps=2000, guide=guide)
    slope = held(network)[0].item()
    assert slope == pytest.approx(0.6 * 2, abs=0.12)
    # A prediction drops nothing, and says the same every time.
    np.testing.assert_allclose(fit.predict(table)["mean"], slope * x, atol=1e-4)
    assert fit.predict(table).equals(fit.predict(table))


# Penalties


@pytest.mark.parametrize("guide", ["structured", "meanfield"])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda s, u: 2.0),
        (
            {"kernel_regularizer": keras.regularizers.L2(20.0)},
            lambda s, u: 2 * s / (s + 2 * 20.0 / u**2),
        ),
        ({"activity_regularizer": keras.regularizers.L2(8.0)}, lambda s, u: 2 / (1 + 16 / u**2)),
    ],
)
def test_penalties_of_weights_and_activity_count_as_in_keras(guide, settings, expected):
    """Keras's loss here is mean_i (y_i - u w x_i)^2 / 2 + penalty of w, and s the mean of x^2.

    The network is called with b = u w, u being the spread of the predictor."""
    x = X - X.mean()
    network = sequential(head(**settings))
    fit = fitted(
        "y ~ 0 + nn(x, net=f)",
        network,
        {"x": x, "y": 2 * x},
        {"sigma": 1.0},
        steps=3000,
        guide=guide,
    )
    unit = fit.training.state.scales["mu"].sd
    assert held(network)[0].item() == pytest.approx(expected(np.mean(x**2), unit), abs=0.06)


def test_penalties_of_a_bias_count_as_in_keras():
    penalty = keras.regularizers.L2(4.5)
    network = sequential(
        LAYERS.Dense(1, kernel_initializer="zeros", bias_regularizer=penalty, trainable=True)
    )
    table = {"x": np.zeros(N), "y": np.full(N, 3.0)}
    fit = fitted("y ~ 0 + nn(x, net=f)", network, table, {"sigma": 1.0}, steps=3000)
    unit = fit.training.state.scales["mu"].sd
    best = 3.0 / (1 + 9.0 / unit**2)
    assert best < 2.0
    assert held(network)[1].item() == pytest.approx(best, abs=0.05)


# After the fit


@pytest.mark.parametrize("weights", ["point", "last"])
def test_the_network_is_the_term_after_the_fit(weights):
    network = three_inputs()
    formula = f"y ~ 0 + nn(x, z, kind, image, net=f, weights='{weights}')"
    fit = fitted(formula, network, steps=200)
    assert fit.network("f") is network
    np.testing.assert_allclose(
        network.predict(fed(network, TABLE), verbose=0)[:, 0],
        fit.predict(TABLE)["mean"],
        atol=1e-4,
    )
    with pytest.raises(rf.OptionError, match="no network 'g' by net=; .*f"):
        fit.network("g")


def test_a_second_fit_begins_where_the_first_did():
    network = sequential(LAYERS.Dense(3, activation="tanh"), LAYERS.Dropout(0.2), LAYERS.Dense(1))
    start = held(network)
    model = rf.Model("y ~ nn(x, net=f)", networks={"f": network})
    first = model.fit(TABLE, **QUICK)
    trained = held(network)
    assert any(np.abs(a - b).max() > 0.01 for a, b in zip(start, trained, strict=True))
    before = first.predict(TABLE)
    again = model.fit(TABLE, **QUICK)
    for name, value in first.draws.points.items():
        assert np.asarray(value).tobytes() == np.asarray(again.draws.points[name]).tobytes()
    assert again.predict(TABLE).equals(before)
    # Another fit moves the network, and neither the first fit nor what it gives back.
    model.fit({**TABLE, "y": -TABLE["y"]}, **QUICK)
    assert first.predict(TABLE).equals(before)
    for a, b in zip(held(first.network("f")), trained, strict=True):
        np.testing.assert_array_equal(a, b)
    # A new Model takes the network as it stands.
    later = rf.Model("y ~ nn(x, net=f)", networks={"f": network}).fit(TABLE, **QUICK)
    assert not later.predict(TABLE).equals(before)


def test_an_unbuilt_network_is_built_once_and_fitted_twice_alike():
    network = keras.Sequential([LAYERS.Dense(3, activation="tanh"), LAYERS.Dense(1)])
    model = rf.Model("y ~ nn(x, z, net=f)", networks={"f": network})
    one, other = (model.fit(TABLE, **QUICK).predict(TABLE) for _ in range(2))
    assert one.equals(other)


def test_a_model_without_a_network_never_imports_keras(tmp_path):
    code = (
        "import sys, numpy as np, ranef as rf\n"
        "t = {'y': np.arange(9.0), 'x': np.arange(9.0) ** 2}\n"
        "fit = rf.load(rf.Model('y ~ x').fit(t, progress=False).save('fit.ranef'))\n"
        "fit.predict(t)\n"
        "assert 'keras' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
