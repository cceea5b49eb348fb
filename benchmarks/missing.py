"""mi() beside NUTS on the same model written out in NumPyro, and beside dropping rows.

    python benchmarks/missing.py [--rows 2000] [--draws 1000]

In y = 1 + 1.5 x - 0.5 z + e the column x, itself 0.5 + 0.8 z + noise, is missing in 30% of the
rows, more often where y is large: at random, as y is seen, but the rows that are left are not
like the others. The program written out has a latent for every missing value.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from machine import describe

import ranef as rf

FORMULA = "y ~ mi(x) + z; mi(x) ~ z"
TRUTH = {
    **{"Intercept": 1.0, "z": -0.5, "mi(x)": 1.5, "sigma": 1.0},
    **{"x_Intercept": 0.5, "x_z": 0.8, "x_sigma": 1.0},
}


def drawn(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The table, and x without its gaps."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    x = 0.5 + 0.8 * z + rng.normal(size=n)
    y = 1 + 1.5 * x - 0.5 * z + rng.normal(size=n)
    away = (y - y.mean()) / y.std()
    missing = rng.random(n) < 1 / (1 + np.exp(1.15 - 1.5 * away))
    return {"y": y, "z": z, "x": np.where(missing, np.nan, x)}, x


def program(table, priors):
    def normal(name):
        return numpyro.sample(name, dist.Normal(priors[name].mu, priors[name].sigma))

    def scale(name):
        law = dist.StudentT(priors[name].nu, 0.0, priors[name].sigma)
        return numpyro.sample(name, dist.FoldedDistribution(law))

    x, z = table["x"], table["z"]
    missing = np.flatnonzero(np.isnan(x))
    nu = normal("x_Intercept") + normal("x_z") * z
    spread = scale("x_sigma")
    latent = numpyro.sample("missing", dist.Normal(nu[missing], spread))
    whole = jnp.asarray(np.nan_to_num(x)).at[missing].set(latent)
    observed = np.flatnonzero(~np.isnan(x))
    numpyro.sample("x", dist.Normal(nu[observed], spread), obs=x[observed])
    mean = normal("Intercept") + normal("mi(x)") * whole + normal("z") * z
    numpyro.sample("y", dist.Normal(mean, scale("sigma")), obs=table["y"])


def by_hand(table, priors, draws: int, seed: int) -> dict[str, np.ndarray]:
    with jax.enable_x64(True):
        kernel = numpyro.infer.NUTS(program)
        chains = numpyro.infer.MCMC(
            kernel, num_warmup=1000, num_samples=draws, num_chains=2, progress_bar=False
        )
        chains.run(jax.random.key(seed), table, priors)
        return {name: np.asarray(value) for name, value in chains.get_samples().items()}


def beside(n: int, seed: int, draws: int) -> None:
    table, x = drawn(n, seed)
    missing = np.isnan(table["x"])
    model = rf.Model(FORMULA)
    began = time.perf_counter()
    hand = by_hand(table, model.priors_for(table), draws, seed)
    print(f"{n:,} rows, {missing.mean():.1%} missing; by hand {time.perf_counter() - began:.1f} s")
    columns = {"truth": TRUTH}
    columns["by hand"] = {name: hand[name].mean() for name in TRUTH}
    columns["sd"] = sd = {name: hand[name].std() for name in TRUTH}
    covered = {}
    for method, options in {"svi": {}, "nuts": {"draws": draws, "chains": 2}}.items():
        began = time.perf_counter()
        fit = model.fit(table, method=method, seed=seed, progress=False, **options)
        print(f"{method}: {time.perf_counter() - began:.1f} s, {fit.message}")
        found = fit.summary()
        columns[method] = found["mean"]
        columns[f"away, {method}"] = {
            name: (found.loc[name, "mean"] - hand[name].mean()) / sd[name] for name in TRUTH
        }
        columns[f"sd ratio, {method}"] = {name: found.loc[name, "sd"] / sd[name] for name in TRUTH}
        imputed = fit.imputed("x")
        own = x[imputed["row"]]
        inside = (imputed["lower"] <= own) & (own <= imputed["upper"])
        covered[method] = float(inside.mean())
        away = (imputed["mean"] - hand["missing"].mean(axis=0)) / hand["missing"].std(axis=0)
        print(f"   imputed means from those by hand: {np.abs(away).max():.3f} sds at most")
    whole = {name: values[~missing] for name, values in table.items()}
    dropped = rf.Model("y ~ x + z").fit(whole, progress=False).summary()["mean"]
    columns["rows dropped"] = dropped.rename({"x": "mi(x)"})
    print(pd.DataFrame(columns).loc[list(TRUTH)].round(3).to_string())
    print("90% intervals of the imputed values that hold the true ones:", covered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    print(describe("ranef", "numpyro", "jax"))
    beside(options.rows, 0, options.draws)


if __name__ == "__main__":
    main()
