"""Networks beside random effects: the simulation of Simchoni and Rosset (2021, 2023).

    python benchmarks/lmmnn.py [--quick] [--repeats 5] [--work intercepts crossed slopes]
        [--variance 3] [--sides ranef embedding lmm gpboost] [--peer PYTHON]

N = 100,000 rows, x ~ U(-1, 1)^10, f = eta cos(eta) + 2 x1 x2 with eta = 1 + sum x, and noise of
variance one; 80,000 rows for training. "intercepts" has one grouping, "crossed" three,
"slopes" intercepts, slopes and quadratic effects of a time within each group. The floor is the
mean squared error of an oracle that knows f and the variances and predicts the effects from
the training rows; of "intercepts" it is their expectation. Every side gets the same tables.
"embedding" is a Keras network with an embedding of the group, trained as one would; "lmm" the
exact method of this package without a network; "gpboost" boosted trees with random effects, in
an interpreter PYTHON that has it. --quick takes one cell of each work, --variance those of one
variance.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
import numpy as np
import pandas as pd

N, SPLIT, WIDTH = 100_000, 80_000, 10
NETWORK = "hidden=[100, 50, 25, 12], activation='silu', l2=0.0001"
X = [f"x{i}" for i in range(WIDTH)]
CORRELATION = 0.3


def groups(rng: np.random.Generator, q: int) -> np.ndarray:
    weights = rng.poisson(3, q) + 1.0
    return rng.choice(q, N, p=weights / weights.sum())


def simulated(seed: int, work: str, q: int, variance: float) -> tuple:
    """Training and test tables, f and effects of the test rows, and what is true."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (N, WIDTH))
    eta = 1 + x.sum(axis=1)
    f = eta * np.cos(eta) + 2 * x[:, 0] * x[:, 1]
    table = pd.DataFrame(x, columns=X)
    truth: dict[str, float] = {}
    effects = np.zeros(N)
    sizes = (1_000, 2_000, 3_000) if work == "crossed" else (q,)
    if work == "slopes":
        g, t = groups(rng, q), rng.uniform(0, 1, N)
        covariance = np.full((3, 3), CORRELATION) + (1 - CORRELATION) * np.eye(3)
        b = rng.multivariate_normal(np.zeros(3), variance * covariance, q)
        effects = (b[g] * np.column_stack([np.ones(N), t, t**2])).sum(axis=1)
        table["t"], table["t2"], table["g0"] = t, t**2, np.char.add("z", g.astype(str))
        truth["b2"] = float((b[:, 0] ** 2).mean())
    else:
        for place, size in enumerate(sizes):
            g, b = groups(rng, size), rng.normal(0, np.sqrt(variance), size)
            effects = effects + b[g]
            table[f"g{place}"] = np.char.add("z", g.astype(str))
            truth.setdefault("b2", float((b**2).mean()))
    table["y"] = f + effects + rng.normal(size=N)
    order = rng.permutation(N)
    table, f = table.iloc[order].reset_index(drop=True), f[order]
    return table.iloc[:SPLIT], table.iloc[SPLIT:], f, truth


def blocks(work: str) -> str:
    if work == "crossed":
        return "(1 | g0) + (1 | g1) + (1 | g2)"
    return "(1 + t + t2 | g0)" if work == "slopes" else "(1 | g0)"


def floor(
    work: str, train: pd.DataFrame, test: pd.DataFrame, f: np.ndarray, variance: float
) -> float:
    """Of the oracle."""
    if work == "intercepts":
        counts = test["g0"].map(train["g0"].value_counts()).fillna(0).to_numpy()
        return float(1 + np.mean(variance / (1 + counts * variance)))
    import ranef as rf

    sd = float(np.sqrt(variance))
    priors: dict = {"sigma": 1.0}
    known = train.assign(f=f[:SPLIT])
    if work == "slopes":
        # The posterior of three correlated effects by hand: the correlations are known.
        covariance = variance * (np.full((3, 3), CORRELATION) + (1 - CORRELATION) * np.eye(3))
        z = np.column_stack([np.ones(SPLIT), train["t"], train["t2"]])
        codes, levels = pd.factorize(train["g0"])
        a = np.zeros((len(levels), 3, 3))
        r = np.zeros((len(levels), 3))
        np.add.at(a, codes, z[:, :, None] * z[:, None, :])
        np.add.at(r, codes, z * (known["y"] - known["f"]).to_numpy()[:, None])
        b = np.linalg.solve(a + np.linalg.inv(covariance), r[..., None])[..., 0]
        at = levels.get_indexer(test["g0"])
        zt = np.column_stack([np.ones(len(test)), test["t"], test["t2"]])
        found = np.where(at >= 0, (b[at] * zt).sum(axis=1), 0.0)
        return float(np.mean((test["y"] - f[SPLIT:] - found) ** 2))
    for name in ("g0", "g1", "g2"):
        priors[f"1|{name}_sigma"] = sd
    fit = rf.Model("y ~ 0 + offset(f) + " + blocks(work), priors=priors).fit(known, progress=False)
    found = fit.predict(test.assign(f=f[SPLIT:]), new_levels="zero")["mean"]
    return float(np.mean((test["y"].to_numpy() - found) ** 2))


def by_ranef(
    work: str, train: pd.DataFrame, test: pd.DataFrame, seed: int, variance: float
) -> dict:
    import ranef as rf

    model = rf.Model(f"y ~ nn({', '.join(X)}, {NETWORK}) + {blocks(work)}")
    began = time.perf_counter()
    fit = model.fit(train, method="svi", seed=seed, progress=False)
    seconds = time.perf_counter() - began
    found = fit.predict(test, kind="response", new_levels="sample")
    y = test["y"].to_numpy()
    inside = (y >= found["lower"]) & (y <= found["upper"])
    seen = test["g0"].isin(train["g0"]).to_numpy()
    known = fit.summary()["mean"]
    out = {
        "mse": float(np.mean((y - found["mean"]) ** 2)),
        "seconds": seconds,
        "sigma2_e": known["sigma"] ** 2,
        "sigma2_b": known["1|g0_sigma"] ** 2,
        "seen": float(inside[seen].mean()),
    }
    if work == "intercepts" and (~seen).any():
        # Few test rows have a new level, so new levels are drawn for others: their effects
        # are theirs alone, their f that of the row.
        rng = np.random.default_rng(seed + 1_000)
        rows = test.iloc[:4_000]
        eta = 1 + rows[X].to_numpy().sum(axis=1)
        mean = eta * np.cos(eta) + 2 * rows["x0"].to_numpy() * rows["x1"].to_numpy()
        new = rows.assign(g0=[f"new{i}" for i in range(len(rows))])
        drawn = mean + rng.normal(0, np.sqrt(variance), len(new)) + rng.normal(size=len(new))
        found = fit.predict(new, kind="response", new_levels="sample")
        out["unseen"] = float(((drawn >= found["lower"]) & (drawn <= found["upper"])).mean())
    return out


def by_embedding(
    work: str, train: pd.DataFrame, test: pd.DataFrame, seed: int, variance: float
) -> dict:
    """As the paper has it: an embedding of ten numbers for each grouping, dropout, early stop."""
    import keras

    import ranef  # noqa: F401 sets the backend of Keras

    keras.utils.set_random_seed(seed)
    names = [c for c in train.columns if c.startswith("g")]
    tables = [pd.Index(train[name].unique()) for name in names]
    numbers = keras.Input((WIDTH + (2 if work == "slopes" else 0),))
    codes = [keras.Input((), dtype="int32") for _ in names]
    parts = [keras.layers.Embedding(len(t) + 1, 10)(c) for t, c in zip(tables, codes, strict=True)]
    h = keras.layers.Concatenate()([numbers, *parts])
    for width in (100, 50, 25, 12):
        h = keras.layers.Dense(width, activation="relu")(h)
        h = keras.layers.Dropout(0.25)(h)
    model = keras.Model([numbers, *codes], keras.layers.Dense(1)(h))
    model.compile("adam", "mse")
    columns = [*X, "t", "t2"] if work == "slopes" else X

    def fed(table: pd.DataFrame) -> list:
        return [
            table[columns].to_numpy("float32"),
            *(
                t.get_indexer(table[name]).astype("int32") + 1
                for t, name in zip(tables, names, strict=True)
            ),
        ]

    stop = keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True)
    began = time.perf_counter()
    model.fit(fed(train), train["y"].to_numpy(), batch_size=100, epochs=500, validation_split=0.1,
              callbacks=[stop], verbose=0)  # fmt: skip
    seconds = time.perf_counter() - began
    found = model.predict(fed(test), verbose=0)[:, 0]
    return {"mse": float(np.mean((test["y"].to_numpy() - found) ** 2)), "seconds": seconds}


def by_lmm(work: str, train: pd.DataFrame, test: pd.DataFrame, seed: int, variance: float) -> dict:
    import ranef as rf

    began = time.perf_counter()
    fit = rf.Model(f"y ~ {' + '.join(X)} + {blocks(work)}").fit(train, progress=False)
    seconds = time.perf_counter() - began
    found = fit.predict(test, new_levels="zero")["mean"]
    return {"mse": float(np.mean((test["y"].to_numpy() - found) ** 2)), "seconds": seconds}


GPBOOST = """
import json, sys, time
import gpboost as gpb, numpy as np, pandas as pd
train, test = pd.read_parquet(sys.argv[1]), pd.read_parquet(sys.argv[2])
x = [c for c in train if c.startswith("x")]
groups = [c for c in train if c.startswith("g")]
options = {}
if "t" in train:
    options = {"group_rand_coef_data": train[["t", "t2"]], "ind_effect_group_rand_coef": [1, 1]}
began = time.perf_counter()
model = gpb.GPModel(group_data=train[groups], likelihood="gaussian", **options)
settings = {"objective": "regression_l2", "learning_rate": 0.1, "max_depth": 6, "verbose": -1}
data = gpb.Dataset(train[x], train["y"])
booster = gpb.train(settings, data, gp_model=model, num_boost_round=500)
seconds = time.perf_counter() - began
options = {"group_rand_coef_data_pred": test[["t", "t2"]]} if "t" in test else {}
found = booster.predict(test[x], group_data_pred=test[groups], predict_var=False, **options)
mse = float(np.mean((test["y"] - found["response_mean"]) ** 2))
print(json.dumps({"mse": mse, "seconds": seconds}))
"""


def by_gpboost(peer: str, train: pd.DataFrame, test: pd.DataFrame) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("train.parquet", "test.parquet")]
        train.to_parquet(paths[0])
        test.to_parquet(paths[1])
        done = subprocess.run([peer, "-c", GPBOOST, *paths], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


SIDES = {"ranef": by_ranef, "embedding": by_embedding, "lmm": by_lmm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--work", nargs="+", default=["intercepts", "crossed", "slopes"])
    parser.add_argument("--variance", type=float)
    parser.add_argument("--sides", nargs="+", default=["ranef"])
    parser.add_argument("--peer", default=sys.executable)
    given = parser.parse_args()
    cells = {
        "intercepts": [(q, v) for v in (0.1, 1.0, 10.0) for q in (100, 1_000, 10_000)],
        "crossed": [(1_000, v) for v in (0.3, 3.0)],
        "slopes": [(10_000, v) for v in (0.3, 3.0)],
    }
    if given.quick:
        cells = {"intercepts": [(1_000, 1.0)], "crossed": [(1_000, 0.3)], "slopes": [(10_000, 0.3)]}
    if given.variance is not None:
        cells = {w: [c for c in each if c[1] == given.variance] for w, each in cells.items()}
    print(machine.describe("ranef", "jax", "keras"))
    columns = ("mse", "ratio", "seconds", "sigma2_e", "sigma2_b", "b2", "seen", "unseen")
    print(f"\n| work | q | variance | side | floor | {' | '.join(columns)} |")
    print("|" + "---|" * (5 + len(columns)))
    for work in given.work:
        for q, variance in cells[work]:
            found: dict[str, list[dict]] = {side: [] for side in given.sides}
            for seed in range(given.repeats):
                train, test, f, truth = simulated(seed, work, q, variance)
                least = floor(work, train, test, f, variance)
                for side in given.sides:
                    if side == "gpboost":
                        one = by_gpboost(given.peer, train, test)
                    else:
                        one = SIDES[side](work, train, test, seed, variance)
                    found[side].append(
                        {**one, "floor": least, "ratio": one["mse"] / least, **truth}
                    )
            for side, each in found.items():
                means = pd.DataFrame(each).mean()
                shown = (f"{means[c]:.3f}" if c in means else "" for c in columns)
                print(f"| {work} | {q:,} | {variance:g} | {side} | {means['floor']:.3f} | "
                      f"{' | '.join(shown)} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
