"""Mixtures: Old Faithful beside maximum likelihood, and a mixture density network beside Keras.

    python benchmarks/mixtures.py [--seeds 3] [--faithful PATH]

The network is that of Bishop (1994): t uniform on [0, 1], x = t + .3 sin(2 pi t) + e, e uniform
on [-.1, .1], and t is predicted from x, of which there are up to three for one x. Both have the
same architecture, three normal components, and the same rows. By hand it is trained with Adam on
all but a tenth of the rows, whose log score picks the epoch and one of three learning rates.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from machine import describe

import ranef as rf

# After ranef, which says on which backend it runs.
import keras  # isort: skip
from keras import ops  # isort: skip

COMPONENTS, UNITS = 3, 20
NAMES = ("mu1_Intercept", "mu2_Intercept", "sigma1", "sigma2", "mix2_Intercept")
FAITHFUL = Path(__file__).parents[2] / "shared" / "data" / "mixed" / "faithful.csv"


def inverse_sine(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    t = rng.uniform(0, 1, n)
    return pd.DataFrame({"t": t, "x": t + 0.3 * np.sin(2 * np.pi * t) + rng.uniform(-0.1, 0.1, n)})


def network(outputs: int, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.layers.Input((1,)),
            keras.layers.Dense(UNITS, activation="tanh"),
            keras.layers.Dense(outputs),
        ]
    )


def log_density(outputs, y):
    """Log p(y) of each row, (n,), from the (n, 3K) outputs of a network."""
    mu, log_sigma, odds = ops.split(outputs, 3, axis=-1)
    away = (ops.reshape(y, (-1, 1)) - mu) * ops.exp(-log_sigma)
    each = -0.5 * away**2 - log_sigma - 0.5 * np.log(2 * np.pi)
    return ops.logsumexp(each + ops.log_softmax(odds), axis=-1)


def by_hand(train: pd.DataFrame, test: pd.DataFrame, seed: int, rate: float) -> tuple[float, float]:
    """Log score of the rows that pick the epoch, and of the test rows."""
    # Standardized on both sides, as is usual; the density of t has the sd of t as its unit.
    means, sds = train.mean(), train.std()
    (x, y), (test_x, test_y) = (
        (
            ((table[["x"]] - means["x"]) / sds["x"]).to_numpy("float32"),
            (table["t"] - means["t"]) / sds["t"],
        )
        for table in (train, test)
    )
    model = network(3 * COMPONENTS, seed)
    epochs = 1500
    steps = epochs * -(-len(x) * 9 // 10 // 64)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(schedule), loss=lambda y, out: -log_density(out, y))
    best = keras.callbacks.EarlyStopping("val_loss", patience=epochs, restore_best_weights=True)
    y = np.asarray(y, "float32")[:, None]
    held = len(x) // 10
    found = model.fit(
        *(x[held:], y[held:]),
        validation_data=(x[:held], y[:held]),
        epochs=epochs,
        batch_size=64,
        callbacks=[best],
        verbose=0,
    )
    density = log_density(model(test_x), np.asarray(test_y, "float32"))
    score = float(np.mean(np.asarray(density))) - float(np.log(sds["t"]))
    return -min(found.history["val_loss"]), score


def by_ranef(train: pd.DataFrame, test: pd.DataFrame, seed: int, *, shared: bool) -> rf.Fit:
    family = rf.Mixture("gaussian", k=COMPONENTS)
    table = train.assign(z=(train["x"] - train["x"].mean()) / train["x"].std())
    if shared:
        own = {"f": network(3 * COMPONENTS - 1, seed)}
        term = "nn(z, net=f)"
    else:
        own, term = {}, f"nn(z, hidden=[{UNITS}], l2=0)"
    model = rf.Model(f"t ~ {term}; sigma ~ {term}; mix ~ {term}", family=family, networks=own)
    return model.fit(table, seed=seed, progress=False)


def inverse(seeds: int) -> None:
    print("| seed | by | log score, 10,000 test rows | seconds |\n|---|---|---|---|")
    for seed in range(seeds):
        train, test = inverse_sine(1000, seed), inverse_sine(10_000, 100 + seed)
        begin = time.perf_counter()
        tried = [by_hand(train, test, seed, rate) for rate in (0.003, 0.01, 0.03)]
        seconds = time.perf_counter() - begin
        print(f"| {seed} | Keras by hand | {max(tried)[1]:.4f} | {seconds:.1f} |", flush=True)
        z = (test["x"] - train["x"].mean()) / train["x"].std()
        for shared in (True, False):
            fit = by_ranef(train, test, seed, shared=shared)
            score = float(fit.log_score(test.assign(z=z)).mean())
            name = f"ranef {fit.method}, {'one network' if shared else 'eight networks'}"
            print(f"| {seed} | {name} | {score:.4f} | {fit.seconds:.1f} |", flush=True)


def likeliest(y: np.ndarray) -> dict[str, float]:
    """The maximum of the likelihood of two normal components, by EM."""
    mu, sigma, share = np.quantile(y, [0.25, 0.75]), np.full(2, y.std()), np.full(2, 0.5)
    for _ in range(2000):
        each = share * np.exp(-0.5 * ((y[:, None] - mu) / sigma) ** 2) / sigma
        own = each / each.sum(axis=1, keepdims=True)
        count = own.sum(axis=0)
        mu, share = own.T @ y / count, count / len(y)
        sigma = np.sqrt((own * (y[:, None] - mu) ** 2).sum(axis=0) / count)
    odds = np.log(share[1] / share[0])
    return dict(zip(NAMES, (*mu, *sigma, odds), strict=True))


def faithful(path: Path) -> None:
    table = pd.read_csv(path)
    found = {"maximum likelihood": likeliest(table["waiting"].to_numpy(float))}
    rows = [["maximum likelihood", "", *(f"{v:.3f}" for v in found["maximum likelihood"].values())]]
    model = rf.Model("waiting ~ 1", family=rf.Mixture("gaussian", k=2))
    for method in ("nuts", "laplace", "svi"):
        fit = model.fit(table, method=method, progress=False, draws=4000)
        summary = fit.summary().loc[list(found["maximum likelihood"])]
        each = (f"{m:.3f} ({s:.3f})" for m, s in zip(summary["mean"], summary["sd"], strict=True))
        rows.append([method, f"{fit.seconds:.1f}", *each])
        print(method, fit.message, "|", fit.check().verdict)
    print("| by | seconds | " + " | ".join(found["maximum likelihood"]) + " |")
    print("|---" * (2 + len(found["maximum likelihood"])) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--faithful", type=Path, default=FAITHFUL)
    options = parser.parse_args()
    print(describe("numpyro", "keras", "jax"))
    faithful(options.faithful)
    inverse(options.seeds)
