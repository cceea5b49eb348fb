"""The exact method beside long runs of NUTS, on models written by hand.

    python benchmarks/nuts_references.py --data FOLDER [--only NAME] [--compare]

FOLDER holds the classic tables as CSV. Each model is written below in NumPyro, without this
package, and sampled by 4 chains of 5,000 draws; what they say of every parameter goes to
``nuts_references.csv``. With --compare no chain is run, and the exact method, under the same
priors, is held against that file.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from arviz_stats import ess, rhat
from jax import numpy as jnp
from numpyro.infer import MCMC, NUTS

TABLE = Path(__file__).parent / "nuts_references.csv"
CHAINS, DRAWS = 4, 5_000


@dataclass(frozen=True)
class Reference:
    """A table, the formula, and the priors of both sides: normal (mean, sd), half-normal sds.

    Attributes:
        file: of the table.
        formula: for the package; `sample` is the same model.
        normal: of the common effects.
        half: sds of the half-normal priors of the scales.
        students: how many of InstEval's are used; 0 for all rows.
    """

    file: str
    formula: str
    normal: dict[str, tuple[float, float]]
    half: dict[str, float]
    students: int = 0

    def read(self, folder: Path) -> pd.DataFrame:
        table = pd.read_csv(folder / f"{self.file}.csv", index_col=0)
        for name in ("Subject", "county", "s", "d"):
            if name in table:
                table[name] = table[name].astype(str)
        if self.students:
            table = table[table["s"].astype(int) <= self.students]
        return table


REFERENCES = {
    "Dyestuff": Reference(
        "Dyestuff",
        "Yield ~ 1 + (1 | Batch)",
        {"Intercept": (1500.0, 200.0)},
        {"1|Batch_sigma": 100.0, "sigma": 100.0},
    ),
    "sleepstudy": Reference(
        "sleepstudy",
        "Reaction ~ Days + (Days | Subject)",
        {"Intercept": (300.0, 100.0), "Days": (0.0, 20.0)},
        {"1|Subject_sigma": 50.0, "Days|Subject_sigma": 20.0, "sigma": 50.0},
    ),
    "Penicillin": Reference(
        "Penicillin",
        "diameter ~ 1 + (1 | plate) + (1 | sample)",
        {"Intercept": (20.0, 10.0)},
        {"1|plate_sigma": 3.0, "1|sample_sigma": 5.0, "sigma": 2.0},
    ),
    "radon": Reference(
        "radon",
        "log.radon ~ basement + (1 + basement | county)",
        {"Intercept": (1.0, 2.0), "basement": (0.0, 2.0)},
        {"1|county_sigma": 1.0, "basement|county_sigma": 1.0, "sigma": 2.0},
    ),
    "InstEval": Reference(
        "InstEval",
        "y ~ 1 + service + (1 | s) + (1 | d)",
        {"Intercept": (3.0, 2.0), "service": (0.0, 1.0)},
        {"1|s_sigma": 1.0, "1|d_sigma": 1.0, "sigma": 2.0},
        students=100,
    ),
}


def _common(reference: Reference) -> dict[str, jax.Array]:
    return {
        name: numpyro.sample(name, dist.Normal(*prior)) for name, prior in reference.normal.items()
    }


def _scales(reference: Reference) -> dict[str, jax.Array]:
    return {name: numpyro.sample(name, dist.HalfNormal(sd)) for name, sd in reference.half.items()}


def intercepts(reference: Reference, table: pd.DataFrame, response: str, factors: list[str]):
    """Scalar effects of one or several factors."""
    y = table[response].to_numpy(float)
    codes = {f: pd.factorize(table[f], sort=True)[0] for f in factors}

    def model():
        beta, sd = _common(reference), _scales(reference)
        eta = beta["Intercept"]
        for name in beta:
            if name != "Intercept":
                eta = eta + beta[name] * table[name].to_numpy(float)
        for f, code in codes.items():
            size = int(code.max()) + 1
            unit = numpyro.sample(f"{f}_unit", dist.Normal(jnp.zeros(size), 1.0).to_event(1))
            effects = numpyro.deterministic(f"1|{f}", sd[f"1|{f}_sigma"] * unit)
            eta = eta + effects[code]
        numpyro.sample("y", dist.Normal(eta, sd["sigma"]), obs=y)

    return model


def slopes(reference: Reference, table: pd.DataFrame, response: str, x: str, factor: str):
    """A correlated intercept and slope for each level of one factor."""
    y, z = table[response].to_numpy(float), table[x].to_numpy(float)
    code = pd.factorize(table[factor], sort=True)[0]
    size = int(code.max()) + 1

    def model():
        beta, sd = _common(reference), _scales(reference)
        root = numpyro.sample("root", dist.LKJCholesky(2, 1.0))
        numpyro.deterministic("corr", root[1, 0])
        unit = numpyro.sample("unit", dist.Normal(jnp.zeros((size, 2)), 1.0).to_event(2))
        scales = jnp.stack([sd[f"1|{factor}_sigma"], sd[f"{x}|{factor}_sigma"]])
        b = unit @ (scales[:, None] * root).T
        numpyro.deterministic(f"1|{factor}", b[:, 0])
        numpyro.deterministic(f"{x}|{factor}", b[:, 1])
        eta = beta["Intercept"] + b[code, 0] + (beta[x] + b[code, 1]) * z
        numpyro.sample("y", dist.Normal(eta, sd["sigma"]), obs=y)

    return model


def model_of(name: str, table: pd.DataFrame):
    reference = REFERENCES[name]
    if name in ("sleepstudy", "radon"):
        response, x, factor = {
            "sleepstudy": ("Reaction", "Days", "Subject"),
            "radon": ("log.radon", "basement", "county"),
        }[name]
        return slopes(reference, table, response, x, factor)
    response, factors = {
        "Dyestuff": ("Yield", ["Batch"]),
        "Penicillin": ("diameter", ["plate", "sample"]),
        "InstEval": ("y", ["s", "d"]),
    }[name]
    return intercepts(reference, table, response, factors)


def sampled(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Mean, sd, r_hat and ess of every parameter by NUTS; in double precision."""
    kernel = NUTS(model_of(name, table), target_accept_prob=0.95)
    run = MCMC(
        kernel,
        num_warmup=2_000,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )
    run.run(jax.random.key(1))
    rows = []
    for site, value in run.get_samples(group_by_chain=True).items():
        if site in ("root", "unit") or site.endswith("_unit"):
            continue
        flat = np.asarray(value).reshape(CHAINS, DRAWS, -1)
        labels = [site]
        if value.ndim > 2:
            labels = [f"{site}[{level}]" for level in sorted(set(table[site.split("|")[1]]))]
        for i, label in enumerate(labels):
            x = flat[..., i]
            rows.append((name, label, x.mean(), x.std(), float(rhat(x)), float(ess(x))))
    return pd.DataFrame(rows, columns=["data", "parameter", "mean", "sd", "r_hat", "ess"])


def exact(name: str, table: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Mean and sd of every parameter by the exact method."""
    import ranef as rf

    reference = REFERENCES[name]
    priors = {n: rf.Normal(*p) for n, p in reference.normal.items()}
    priors |= {n: rf.HalfNormal(sd) for n, sd in reference.half.items()}
    model = rf.Model(reference.formula, priors=priors)
    fit = model.fit(table, method="exact", draws=10_000, progress=False)
    out = {}
    for site, row in fit.summary().iterrows():
        key = "corr" if "_corr[" in str(site) else str(site)
        out[key] = (row["mean"], row["sd"])
    for factor in {name.split("|")[1].removesuffix("_sigma") for name in priors if "|" in name}:
        for row in fit.ranef(factor).itertuples():
            out[f"{row.term}|{factor}[{row.Index}]"] = (row.mean, row.sd)
    return out


def compare(folder: Path, names: list[str]) -> None:
    """One line for each parameter that has no level, and the worst of all."""
    stored = pd.read_csv(TABLE)
    print("| data | parameter | NUTS mean (sd) | exact mean (sd) | apart, sds | ratio of sds |")
    print("|---|---|---|---|---|---|")
    worst = []
    for name in names:
        found = exact(name, REFERENCES[name].read(folder))
        own = stored[stored["data"] == name]
        apart, ratio = [], []
        for row in own.itertuples():
            mean, sd = found[row.parameter]
            apart.append(abs(mean - row.mean) / row.sd)
            ratio.append(sd / row.sd)
            if "[" not in row.parameter:
                label = row.parameter.replace("|", "\\|")
                print(
                    f"| {name} | {label} | {row.mean:.4f} ({row.sd:.4f}) | {mean:.4f} ({sd:.4f}) "
                    f"| {apart[-1]:.3f} | {ratio[-1]:.3f} |"
                )
        worst.append(
            f"| {name} | {len(own)} | {max(apart):.3f} | {min(ratio):.3f}-{max(ratio):.3f} "
            f"| {own['r_hat'].max():.4f} | {own['ess'].min():.0f} |"
        )
    print("\n| data | parameters | furthest apart, sds | ratios of sds | R-hat | ESS |")
    print("|---|---|---|---|---|---|")
    print("\n".join(worst))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--only", choices=REFERENCES)
    parser.add_argument("--compare", action="store_true")
    options = parser.parse_args()
    names = [options.only] if options.only else list(REFERENCES)
    if not options.compare:
        jax.config.update("jax_enable_x64", True)
        for name in names:
            rows = sampled(name, REFERENCES[name].read(options.data))
            assert rows["r_hat"].max() <= 1.01, rows.loc[rows["r_hat"].idxmax()]
            kept = pd.read_csv(TABLE) if TABLE.exists() else rows.iloc[:0]
            both = pd.concat([part for part in (kept[kept["data"] != name], rows) if len(part)])
            both.to_csv(TABLE, index=False, float_format="%.6g")
        return
    compare(options.data, names)


if __name__ == "__main__":
    main()
