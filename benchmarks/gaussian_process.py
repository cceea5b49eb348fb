"""gp() beside NUTS on the exact Gaussian process, written out in NumPyro; and 100,000 rows.

    python benchmarks/gaussian_process.py [--rows 100000]

The data are a draw of a Matern 5/2 process at 200 places. Both have the same priors, those that
ranef takes by itself; the exact process has its n by n covariance matrix and no basis.
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
from ranef.terms.smooth.hilbert_basis import covariance

NAMES = ("gp(x)_sigma", "gp(x)_ell", "sigma", "Intercept")


def drawn(n: int, seed: int, length: float) -> dict[str, np.ndarray]:
    """N values at places in [0, 10], amplitude 1, noise .5."""
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(0, 10, n))
    k = covariance("matern52", np.abs(x[:, None] - x) / length) + 1e-9 * np.eye(n)
    return {"x": x, "y": np.linalg.cholesky(k) @ rng.normal(size=n) + 0.5 * rng.normal(size=n)}


def program(x, y, priors, centre):
    amplitude = numpyro.sample("gp(x)_sigma", dist.HalfNormal(priors["gp(x)_sigma"].sigma))
    length = priors["gp(x)_ell"]
    length = numpyro.sample("gp(x)_ell", dist.InverseGamma(length.alpha, length.beta))
    noise = priors["sigma"]
    sigma = numpyro.sample(
        "sigma", dist.FoldedDistribution(dist.StudentT(noise.nu, 0.0, noise.sigma))
    )
    constant = priors["Intercept"]
    intercept = numpyro.sample("Intercept", dist.Normal(constant.mu, constant.sigma))
    r = np.sqrt(5.0) * jnp.abs(x[:, None] - x) / length
    k = amplitude**2 * (1 + r + r**2 / 3) * jnp.exp(-r) + sigma**2 * jnp.eye(len(x))
    law = dist.MultivariateNormal(jnp.full(len(x), intercept), covariance_matrix=k)
    numpyro.sample("y", law, obs=y)


def beside(seed: int, length: float) -> pd.DataFrame:
    """Mean and sd of each parameter by both, and the distance in posterior sds."""
    table = drawn(200, seed, length)
    model = rf.Model("y ~ gp(x)")
    priors = model.priors_for(table)
    begin = time.perf_counter()
    fit = model.fit(table, method="exact", draws=4000, seed=1, progress=False)
    seconds = time.perf_counter() - begin
    with jax.enable_x64(True):
        kernel = numpyro.infer.NUTS(program)
        chains = numpyro.infer.MCMC(
            kernel, num_warmup=400, num_samples=1500, num_chains=2, chain_method="sequential",
            progress_bar=False,
        )  # fmt: skip
        x, y = jnp.asarray(table["x"]), jnp.asarray(table["y"])
        begin = time.perf_counter()
        chains.run(jax.random.key(0), x, y, priors, 0.0)
        slow = time.perf_counter() - begin
        draws = {n: np.asarray(v) for n, v in chains.get_samples().items()}
    rows = []
    for name in NAMES:
        own = fit.posterior[name].to_numpy().ravel()
        mean, sd = draws[name].mean(), draws[name].std()
        rows.append((length, name, own.mean(), own.std(), mean, sd, (own.mean() - mean) / sd))
    print(f"length scale {length}: exact {seconds:.1f} s, NUTS {slow:.0f} s", flush=True)
    columns = ["true", "parameter", "mean", "sd", "mean, NUTS", "sd, NUTS", "distance"]
    return pd.DataFrame(rows, columns=columns)


def large(n: int) -> None:
    rng = np.random.default_rng(0)
    table = {"x": rng.uniform(0, 10, n), "z": rng.uniform(0, 1, n)}
    table["y"] = np.sin(table["x"]) * table["z"] + rng.normal(size=n)
    for formula in ("y ~ gp(x)", "y ~ s(x)", "y ~ gp(x, z)"):
        begin = time.perf_counter()
        fit = rf.Model(formula).fit(table, method="exact", progress=False)
        print(f"{formula}: {n:,} rows in {time.perf_counter() - begin:.1f} s; {fit.message}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    given = parser.parse_args()
    print(describe("ranef", "numpyro", "jax"))
    found = beside(1, 0.8)
    print(found.round(3).to_string(index=False), flush=True)
    large(given.rows)
