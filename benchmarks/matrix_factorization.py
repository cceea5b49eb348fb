"""mf() beside an oracle, and on ratings: error on held-out cells, coverage, seconds.

    python benchmarks/matrix_factorization.py [--data FOLDER] [--seeds 2] [--picture FILE]

Generated: 2,000 users, 1,000 items, 100,000 cells of a table of rank 4 with intercepts of users and
items and noise of sd 1; 20,000 other cells are held out. The oracle is alternating ridge regression
of rank 4 that is told every variance, so that each side is its posterior mean given the other;
it starts at random and sweeps 100 times. ranef gets rank=8 and is told nothing.

Ratings: as many rows, users and items as the MovieLens table of 100,000, users and items of very
different numbers of ratings, rounded to 1, ..., 5; and InstEval (FOLDER/InstEval.csv),
where students rate lecturers, a tenth of the rows held out, with mf() and without.
"""

import argparse
import time
from pathlib import Path

import machine
import numpy as np
import pandas as pd

import ranef as rf

USERS, ITEMS, ROWS, HELD = 2_000, 1_000, 100_000, 20_000
SDS = (0.5, 0.4)
TAUS = {"alike": (1.0, 1.0, 1.0, 1.0), "falling": (1.2, 1.0, 0.8, 0.6)}


def generated(taus, seed):
    """Codes of the user and the item of each row, eta, and the response."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(USERS * ITEMS, ROWS + HELD, replace=False)
    user, item = cells // ITEMS, cells % ITEMS
    u = rng.normal(size=(USERS, len(taus))) * taus
    v = rng.normal(size=(ITEMS, len(taus)))
    a, b = SDS[0] * rng.normal(size=USERS), SDS[1] * rng.normal(size=ITEMS)
    eta = 3 + a[user] + b[item] + (u[user] * v[item]).sum(axis=1)
    return user, item, eta, eta + rng.normal(size=len(eta))


def ridge(codes, levels, columns, target, precision):
    """Posterior mean of each level's coefficients, noise of variance one."""
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(levels + 1))
    out = np.zeros((levels, columns.shape[1]))
    for j in range(levels):
        own = order[starts[j] : starts[j + 1]]
        x = columns[own]
        out[j] = np.linalg.solve(x.T @ x + np.diag(precision), x.T @ target[own])
    return out


def oracle(user, item, y, taus, sweeps=100):
    """Eta of any cells, by alternating ridge of the true rank and variances."""
    rng = np.random.default_rng(0)
    k = len(taus)
    of_user = np.append(1 / np.square(taus), 1 / SDS[0] ** 2)
    of_item = np.append(np.ones(k), 1 / SDS[1] ** 2)
    items = np.column_stack([rng.normal(size=(ITEMS, k)), np.zeros(ITEMS)])
    ones = np.ones((len(y), 1))
    for _ in range(sweeps):
        columns = np.concatenate([items[item, :k], ones], axis=1)
        users = ridge(user, USERS, columns, y - 3 - items[item, k], of_user)
        columns = np.concatenate([users[user, :k], ones], axis=1)
        items = ridge(item, ITEMS, columns, y - 3 - users[user, k], of_item)

    def predict(user, item):
        product = (users[user, :k] * items[item, :k]).sum(axis=1)
        return 3 + users[user, k] + items[item, k] + product

    return predict


def table(user, item, y):
    return {"user": np.char.add("u", user.astype(str)), "item": np.char.add("i", item.astype(str)),
            "y": y}  # fmt: skip


def fitted(formula, rows):
    model, began, used = rf.Model(formula), time.perf_counter(), time.process_time()
    fit = model.fit(rows, progress=False)
    return fit, time.perf_counter() - began, time.process_time() - used


def rms(away):
    return float(np.sqrt(np.mean(np.square(away))))


def beside_the_oracle(seeds):
    print(
        "| scales | seed | seconds (CPU) | RMSE of ratings: oracle | ranef | ratio "
        "| RMSE of eta: oracle | ranef | ratio | intervals of ratings cover | of eta "
        "| scales found |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name, taus in TAUS.items():
        for seed in range(seeds):
            user, item, eta, y = generated(taus, seed)
            train, test = slice(ROWS), slice(ROWS, None)
            known = oracle(user[train], item[train], y[train], taus)(user[test], item[test])
            fit, seconds, cpu = fitted(
                "y ~ (1 | user) + (1 | item) + mf(user, item, rank=8)",
                table(user[train], item[train], y[train]),
            )
            cells = table(user[test], item[test], y[test])
            wide, mean = fit.predict(cells, kind="response"), fit.predict(cells)
            errors = [rms(known - y[test]), rms(mean["mean"] - y[test])]
            errors += [rms(known - eta[test]), rms(mean["mean"] - eta[test])]
            cover = np.mean((wide["lower"] <= y[test]) & (y[test] <= wide["upper"]))
            of_eta = np.mean((mean["lower"] <= eta[test]) & (eta[test] <= mean["upper"]))
            found = fit.posterior["mf(user, item)_sigma"].mean(("chain", "draw")).values
            print(f"| {name} | {seed} | {seconds:.1f} ({cpu:.1f}) | {errors[0]:.4f} | "
                  f"{errors[1]:.4f} | {errors[1] / errors[0]:.4f} | {errors[2]:.4f} | "
                  f"{errors[3]:.4f} | {errors[3] / errors[2]:.4f} | {cover:.3f} | {of_eta:.3f} | "
                  f"{', '.join(f'{t:.2f}' for t in found)} |", flush=True)  # fmt: skip


def small_tables():
    """30 users, 20 items, half of the cells: its limit. Held against all means of the table."""
    print("| seed | rank | RMSE of eta | intervals of eta cover | scales found |")
    print("|---|---|---|---|---|")
    for seed in range(4):
        rng = np.random.default_rng(seed)
        u, v = rng.normal(size=(30, 2)) * (1.2, 0.8), rng.normal(size=(20, 2))
        eta = 3 + 0.5 * rng.normal(size=(30, 1)) + 0.4 * rng.normal(size=20) + u @ v.T
        user, item = (codes.ravel() for codes in np.indices(eta.shape))
        every = table(user, item, eta.ravel() + rng.normal(size=600))
        some = rng.permutation(600)[:300]
        for rank in (2, 4):
            fit, _, _ = fitted(
                f"y ~ (1 | user) + (1 | item) + mf(user, item, rank={rank})",
                {name: values[some] for name, values in every.items()},
            )
            p = fit.predict(every)
            inside = (p["lower"] <= eta.ravel()) & (eta.ravel() <= p["upper"])
            found = fit.posterior["mf(user, item)_sigma"].mean(("chain", "draw")).values
            print(
                f"| {seed} | {rank} | {rms(p['mean'] - eta.ravel()):.3f} | {inside.mean():.3f} "
                f"| {', '.join(f'{t:.2f}' for t in found)} |"
            )


def draw(path):
    """Scales of the components, and the share of held-out ratings in intervals of any width."""
    import matplotlib.pyplot as plt

    taus = TAUS["falling"]
    user, item, eta, y = generated(taus, 0)
    train, test = slice(ROWS), slice(ROWS, ROWS + 4_000)
    rows = table(user[train], item[train], y[train])
    fit, _, _ = fitted("y ~ (1 | user) + (1 | item) + mf(user, item, rank=8)", rows)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    found = fit.posterior["mf(user, item)_sigma"].to_numpy()[0]
    low, middle, high = np.quantile(found, [0.05, 0.5, 0.95], axis=0)
    k = np.arange(1, 9)
    axes[0].errorbar(k, middle, [middle - low, high - middle], fmt="o", ms=4, label="90% interval")
    axes[0].plot(k[:4], taus, "_", ms=16, color="black", label="truth")
    axes[0].set(xlabel="component", ylabel="scale", ylim=(0, None))
    axes[0].legend()
    cells, widths = table(user[test], item[test], y[test]), np.array([0.2, 0.5, 0.8, 0.9])
    for kind, truth, label in (("response", y, "a rating"), ("mean", eta, "its mean")):
        share = []
        for width in widths:
            p = fit.predict(cells, kind=kind, interval=float(width))
            share.append(np.mean((p["lower"] <= truth[test]) & (truth[test] <= p["upper"])))
        axes[1].plot(widths, share, "o-", ms=3, label=label)
    axes[1].plot([0, 1], [0, 1], color="black", linewidth=0.6)
    axes[1].set(xlabel="probability of the interval", ylabel="share of held-out cells in it")
    axes[1].legend()
    figure.savefig(path)


def like_ratings():
    rng = np.random.default_rng(3)
    users, items = 943, 1_682
    often = [np.sort(rng.pareto(shape, size) + 0.1) for shape, size in ((1.5, users), (0.9, items))]
    pairs = np.unique(
        rng.choice(users, 2_000_000, p=often[0] / often[0].sum()) * items
        + rng.choice(items, 2_000_000, p=often[1] / often[1].sum())
    )
    pairs = rng.permutation(pairs)[:100_000]
    user, item = pairs // items, pairs % items
    u = rng.normal(size=(users, 6)) * [0.6, 0.4, 0.3, 0.2, 0.2, 0.1]
    v = rng.normal(size=(items, 6))
    eta = 3.5 + 0.4 * rng.normal(size=users)[user] + 0.6 * rng.normal(size=items)[item]
    eta = eta + (u[user] * v[item]).sum(axis=1)
    y = np.clip(np.round(eta + 0.8 * rng.normal(size=len(eta))), 1, 5)
    return pd.DataFrame(table(user, item, y))


def on_ratings(tables):
    print(
        "| table | rows | users, items | model | seconds (CPU) | RMSE | log score "
        "| intervals cover | scales found |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, rows in tables.items():
        held = np.random.default_rng(0).permutation(len(rows)) < len(rows) // 10
        train, test = rows[~held], rows[held]
        for extra in ("", " + mf(user, item, rank=8)"):
            fit, seconds, cpu = fitted(f"y ~ (1 | user) + (1 | item){extra}", train)
            wide = fit.predict(test, kind="response", new_levels="sample")
            score = fit.log_score(test, new_levels="sample").mean()
            y = test["y"].to_numpy()
            error = rms(wide["mean"].to_numpy() - y)
            cover = np.mean((wide["lower"] <= y) & (y <= wide["upper"]))
            found = fit.posterior.get("mf(user, item)_sigma")
            found = [] if found is None else found.mean(("chain", "draw")).values
            print(f"| {name} | {len(train):,} | {rows['user'].nunique():,}, "
                  f"{rows['item'].nunique():,} | {'with' if extra else 'without'} mf() | "
                  f"{seconds:.1f} ({cpu:.1f}) | {error:.4f} | {score:.4f} | {cover:.3f} | "
                  f"{', '.join(f'{t:.2f}' for t in found)} |", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a folder with InstEval.csv")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="where to draw scales and calibration")
    chosen = parser.parse_args()
    print(machine.describe("ranef", "jax", "numpy", "scipy"), "\n")
    tables = {"ratings": like_ratings()}
    if chosen.data:
        scores = pd.read_csv(chosen.data / "InstEval.csv", dtype=str)
        columns = {"s": "user", "d": "item", "y": "y"}
        scores = scores[list(columns)].rename(columns=columns)
        tables["InstEval"] = scores.assign(y=scores["y"].astype(float))
    # Imports and compilations of what any fit takes are not the model's.
    fitted("y ~ (1 | user) + mf(user, item, rank=2)", tables["ratings"].head(500))
    beside_the_oracle(chosen.seeds)
    print()
    on_ratings(tables)
    print()
    small_tables()
    if chosen.picture:
        draw(chosen.picture)


if __name__ == "__main__":
    main()
