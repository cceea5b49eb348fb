"""One contract for every family and kind of term: the answer does not depend on the notation.

The same information can be written down in many ways: in other units, from another origin, with
other names of levels, in another order, in another kind of table. A `Transformation` writes the
table and the formula of a `Case` in another way, and says how answers map back. The contract
holds that predictions, contrasts, sds of groups, scales, log scores and verdicts stay the same,
within the Monte Carlo error of draws.

To put a model under it, add a line to `CASES`; to put a notation under it, add a line to
`TRANSFORMATIONS`. ``tests/test_equivariance.py`` runs a subset that has every case, family and
transformation in it. The full product is

    python tests/contract_equivariance.py --all [--cases WORD] [--transformations WORD] [--nuts]

which prints what was tried and what failed, by how much.

Not in the contract, because the model itself changes (`Case.unlike` lists these):

- `(x || g)` about another origin: the intercept and slope that are independent at one origin are
  correlated at another. Likewise the prior of `(f + h | g)` under another reference level, where
  both have three levels or more: their contrasts do not span the cells, and the sds and
  correlations of other contrasts have another distribution.
- `b:x` without `b` and `x`, and `x` without an intercept, about another origin.
- terms that are found by a search of random steps, nn(), mf() and mi(): their error is no Monte
  Carlo error of draws.
"""

import argparse
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import ranef as rf
from ranef import registry
from ranef.posterior.new_rows import read_new_rows
from ranef.terms.capabilities import HasVariances

Array = NDArray[np.float64]
Table = dict[str, Any]

# Rows of a table; enough for eight groups of twelve.
ROWS = 96
# Draws of a fit; those of exact and laplace are independent.
DRAWS = 1_000
# Effective draws of four chains of nuts that make as many each, at least; their verdict is that of
# chains that are long enough.
DRAWS_OF_CHAINS = 400
# Differences of means that are allowed, in Monte Carlo standard errors: five of the difference of
# two. The full product compares a hundred thousand numbers, of which one is off by four.
ERRORS = 5.0 * np.sqrt(2.0)
# And relative to the mean, what the arithmetic of single precision in `predict` loses.
RELATIVE = 1e-6
# Differences of log sds that are allowed: the standard error of one is 1 / sqrt(2 draws) for a
# normal distribution, and up to twice that for the skew ones of scales and rates.
SD_ERROR = 2.0


# Cases


@dataclass(frozen=True)
class Case:
    """A model of the table that `observed` makes.

    Attributes:
        formula: of the model.
        family: its name in the registry.
        method: of the fit.
        priors: where a transformation needs some parameter to be known.
        unlike: transformations under which the model itself changes, by their names.
        response: "texts" for a response of texts.
    """

    formula: str
    family: str = "gaussian"
    method: str = "auto"
    priors: dict[str, Any] = field(default_factory=dict)
    unlike: tuple[str, ...] = ()
    response: str = "numbers"

    @property
    def name(self) -> str:
        own = [self.family, self.formula]
        own += [self.method] if self.method != "auto" else []
        own += [f"{name}={prior}" for name, prior in self.priors.items()]
        own += [self.response] if self.response != "numbers" else []
        return ", ".join(own)

    @property
    def kinds(self) -> set[str]:
        """Its family, and the kinds of terms that are in it."""
        return {self.family, *(kind for kind, sign in KINDS.items() if sign in self.formula)}

    @property
    def predictors(self) -> str:
        return self.formula.partition("~")[2]

    def reads(self, column: str) -> bool:
        """Whether a column is in the formula."""
        return re.search(rf"\b{column}\b", self.formula) is not None


# What a formula with a kind of term has in it.
KINDS = {
    **{"numbers": "x", "factors": "f", "booleans": "b*", "products": "x*z", "powers": "**"},
    **{"polynomials": "poly", "interactions": "x*f", "of factors": "f*h", "no intercept": "0 +"},
    **{"intercepts": "(1 | g", "slopes": "(x | g", "independent": "||", "contrasts": "(f | g"},
    **{"nested": "/room", "crossed": "(1 | k", "dates": "day", "splines": "s(x", "processes": "gp"},
    **{"offsets": "offset", "weights": "weights", "trials": "/ m", "another parameter": ";"},
}

# Origins and units that change the model itself; names are those of `TRANSFORMATIONS`.
ORIGINS = ("x is a calendar year", "x in Kelvin", "x in dollars", "x about its mean by scale(x)")

CASES = (
    # Common effects
    Case("y ~ x + f"),
    Case("y ~ x*f"),
    Case("y ~ x*z"),
    Case("y ~ x*h + I(x**2)"),
    Case("y ~ x + I(x**2) + (1 | g)"),
    Case("y ~ poly(x, 2) + h"),
    Case("y ~ f*h"),
    Case("y ~ b*x + (1 | g)"),
    Case("y ~ b:x + (1 | g)", unlike=ORIGINS),
    Case("y ~ 1 + f + (1 | g)"),
    Case("y ~ 0 + f"),
    Case("y ~ 0 + f + h + (1 | g)"),
    # Group effects
    Case("y ~ x + (1 | g)"),
    Case("y ~ x + (x | g)"),
    Case("y ~ x + (x || g)", unlike=ORIGINS),
    Case("y ~ x + z + (x + z | g)"),
    Case("y ~ x + f + (f | g)"),
    Case("y ~ x + (1 | school/room)"),
    Case("y ~ x + (1 | g) + (1 | k)"),
    Case("y ~ x*f + (x | g) + (1 | k)"),
    Case("y ~ x + (1 | day)"),
    # Smooth terms, offsets, weights, another parameter
    Case("y ~ s(x) + f"),
    Case("y ~ gp(x) + f"),
    Case("y ~ x + offset(o) + (1 | g)"),
    Case("weights(y, w) ~ x + (1 | g)"),
    Case("weights(y, w) ~ x + (1 | g)", priors={"sigma": 0.8}),
    Case("weights(y, w) ~ x*f", "student"),
    Case("y ~ x + (1 | g); sigma ~ x"),
    Case("y ~ x + (x | g)", method="laplace"),
    # Families
    Case("y ~ x*f", "student"),
    Case("y ~ x + (1 | g)", "student"),
    Case("y ~ x*f + (1 | g)", "bernoulli"),
    Case("y ~ x + I(x**2)", "bernoulli"),
    Case("y ~ x + (1 | g)", "bernoulli", response="texts"),
    Case("y / m ~ x*z + (1 | g)", "binomial"),
    Case("y ~ x + offset(log(e)) + (1 | g)", "poisson"),
    Case("y ~ x + (x | g)", "poisson"),
    Case("y ~ x*h + (1 | g)", "negative_binomial"),
    Case("y ~ x + (1 | g)", "gamma"),
    Case("y ~ x + z + (1 | g)", "beta"),
    Case("y ~ x*f + (1 | g)", "lognormal"),
    Case("y ~ x + f + (1 | g)", "exponential"),
    Case("y ~ x + f + (1 | g)", "ordinal"),
    Case("y ~ x*z", "cumulative"),
    Case("y ~ x + f", "categorical"),
    Case("y ~ x + h", "zero_inflated_poisson"),
    Case("y ~ x + h", "zero_inflated_negative_binomial"),
    Case("y ~ x + h", "mixture(gaussian, gaussian)"),
)
# By chains, seconds each: only with --nuts.
BY_CHAINS = (
    Case("y ~ x + (x | g)", method="nuts"),
    Case("y ~ x*f + (1 | g)", "bernoulli", method="nuts"),
    Case("y ~ x + I(x**2) + (1 | g)", "poisson", method="nuts"),
)


@cache
def _predictors() -> Table:
    """Columns of every kind, and the linear predictor behind responses."""
    rng = np.random.default_rng(16)
    g, k = np.arange(ROWS) % 8, rng.integers(0, 6, ROWS)
    school, room, day = (np.arange(ROWS) // 4) % 4, rng.integers(0, 3, ROWS), g
    x, z = rng.normal(size=ROWS), rng.normal(size=ROWS)
    f, h, b = rng.integers(0, 3, ROWS), rng.integers(0, 2, ROWS), rng.random(ROWS) < 0.5
    o = rng.normal(size=ROWS)
    e = np.exp(rng.normal(0.0, 0.5, ROWS))
    eta = 0.6 * x - 0.4 * z + 0.2 * x * z + 0.3 * x**2 + 0.4 * (f == 1) - 0.3 * (f == 2) * x
    eta = eta + 0.3 * h + 0.4 * b * x + rng.normal(0, 0.5, 8)[g] + rng.normal(0, 0.4, 8)[g] * x
    eta = eta + rng.normal(0, 0.4, 6)[k] + rng.normal(0, 0.4, (4, 3))[school, room]
    columns = {
        **{"x": x, "z": z, "o": o, "e": e, "w": rng.integers(1, 3, ROWS).astype(float)},
        **{"f": np.array(list("abc"))[f], "h": np.array(list("uv"))[h], "b": b},
        **{"g": np.array([f"g{i}" for i in g]), "k": np.array([f"k{i}" for i in k])},
        **{"school": np.array(list("ABCD"))[school], "room": np.array(list("pqr"))[room]},
        "day": np.datetime64("2024-03-01", "s") + day * np.timedelta64(86_400, "s"),
        "m": np.full(ROWS, 12.0),
    }
    return columns | {"eta": eta - eta.mean()}


def observed(case: Case) -> Table:
    """The table of a case: the columns that its formula reads."""
    rng = np.random.default_rng(61)
    table = dict(_predictors())
    eta = table.pop("eta")
    mean, noise = np.exp(0.7 * eta + 0.8), rng.normal(size=ROWS)
    p = 1 / (1 + np.exp(-eta))
    there = rng.random(ROWS) < 0.75
    cut = np.digitize(eta + rng.logistic(size=ROWS), [-0.8, 0.9])
    drawn: dict[str, Callable[[], Any]] = {
        "gaussian": lambda: eta + table["o"] * case.reads("o") + 0.8 * noise,
        "student": lambda: eta + 0.6 * rng.standard_t(4.0, ROWS),
        "bernoulli": lambda: (rng.random(ROWS) < p).astype(float),
        "binomial": lambda: rng.binomial(12, p).astype(float),
        "poisson": lambda: rng.poisson(mean * (table["e"] if case.reads("e") else 1.0)),
        "negative_binomial": lambda: rng.poisson(mean * rng.gamma(3.0, 1 / 3.0, ROWS)),
        "gamma": lambda: mean * rng.gamma(3.0, 1 / 3.0, ROWS),
        "beta": lambda: np.clip(rng.beta(8 * p, 8 * (1 - p)), 1e-3, 1 - 1e-3),
        "lognormal": lambda: np.exp(eta + 0.6 * noise),
        "exponential": lambda: mean * rng.exponential(size=ROWS),
        "ordinal": lambda: cut + 1,
        "cumulative": lambda: cut + 1,
        "categorical": lambda: np.array(["A", "B", "C"])[cut],
        "zero_inflated_poisson": lambda: there * rng.poisson(mean + 1.0),
        "zero_inflated_negative_binomial": lambda: (
            there * rng.poisson((mean + 1.0) * rng.gamma(3.0, 1 / 3.0, ROWS))
        ),
        "mixture(gaussian, gaussian)": lambda: 0.3 * eta + np.where(there, 0.0, 6.0) + 0.8 * noise,
    }
    table["y"] = drawn[case.family]()
    if case.response == "texts":
        table["y"] = np.where(table["y"] > 0, "yes", "no")
    return {name: values for name, values in table.items() if case.reads(name)}


# Transformations


@dataclass(frozen=True)
class Back:
    """How answers about a table in other units map back to the units of the case's own.

    Attributes:
        scale, shift: of the response: y' = shift + scale y.
        additive: whether the predictor is in the response's units (an identity link).
        mirrored: whether successes and failures have changed places.
        sigma: factor by which parameters named sigma become larger.
        continuous: whether log densities change with the units.
    """

    scale: float = 1.0
    shift: float = 0.0
    additive: bool = True
    mirrored: bool = False
    sigma: float = 1.0
    continuous: bool = True


@dataclass(frozen=True)
class Transformation:
    """Another way to write down the same information.

    Attributes:
        name: what is done, in a few words.
        applies: to which cases.
        rewrite: how the values of a table are written, in training and in new rows.
        arrange: what is done to the training table only, after `rewrite`; a folder for files.
        formula: how the formula is written.
        back: how answers map back, for a case.
    """

    name: str
    applies: Callable[[Case], bool] = lambda case: True
    rewrite: Callable[[Table], Any] = lambda table: table
    arrange: Callable[[Any, Path], Any] = lambda table, folder: table
    formula: Callable[[str], str] = lambda formula: formula
    back: Callable[[Case], Back] = lambda case: Back()

    @property
    def of_units(self) -> bool:
        """Whether it changes the unit or the origin of a column."""
        return self.name.startswith(("x ", "response", "offset", "exposure", "weights"))

    def holds_for(self, case: Case) -> bool:
        """Whether the contract has this case under this transformation."""
        return self.name not in case.unlike and self.applies(case)


def reads(*columns: str) -> Callable[[Case], bool]:
    """Cases with one of these columns in the formula."""
    return lambda case: any(case.reads(column) for column in columns)


def family(*names: str) -> Callable[[Case], bool]:
    return lambda case: case.family in names


def changed(**columns: Callable[[Any], Any]) -> Callable[[Table], Table]:
    """Rewrites these columns, where the table has them."""
    return lambda table: {
        name: columns[name](values) if name in columns else values for name, values in table.items()
    }


def renamed(names: dict[str, str]) -> Callable[[Any], Any]:
    """Gives levels other names."""
    return lambda values: np.array([names[str(v)] for v in values])


def backwards(prefix: str) -> Callable[[Any], Any]:
    """Names under which levels sort the other way round."""

    def rename(values: Any) -> Any:
        levels = sorted(set(values.tolist()))
        return np.array([f"{prefix}{len(levels) - levels.index(v):02}" for v in values.tolist()])

    return rename


def coded(values: Any) -> Any:
    """Levels as whole numbers from 1, in their order."""
    return np.unique(values, return_inverse=True)[1] + 1


def written(pattern: str, replacement: str) -> Callable[[str], str]:
    """Writes the right side of a formula in another way."""

    def rewrite(formula: str) -> str:
        left, tilde, right = formula.partition("~")
        return left + tilde + re.sub(pattern, replacement, right)

    return rewrite


def contains(pattern: str) -> Callable[[Case], bool]:
    return lambda case: re.search(pattern, case.predictors) is not None


def terms_reversed(formula: str) -> str:
    """The terms of every part in the opposite order."""
    parts = []
    for part in formula.split(";"):
        left, tilde, right = part.partition("~")
        # A plus between brackets belongs to its term.
        terms = [term.strip() for term in re.split(r"\+(?![^(]*\))", right)]
        first = [term for term in terms if term in ("0", "1")]
        rest = [term for term in terms if term not in ("0", "1")]
        parts.append(f"{left}{tilde} " + " + ".join(first + rest[::-1]))
    return "; ".join(parts)


def permuted(table: Any, folder: Path) -> Table:
    order = np.random.default_rng(4).permutation(ROWS)
    return {name: np.asarray(values)[order] for name, values in table.items()}


def indexed(index: Any) -> Callable[[Table], pd.DataFrame]:
    return lambda table: pd.DataFrame(table, index=index)


def in_polars(table: Table) -> pl.DataFrame:
    """Polars has dates in milliseconds and finer units."""
    return pl.DataFrame(
        {
            name: values.astype("datetime64[us]") if values.dtype.kind == "M" else values
            for name, values in table.items()
        }
    )


def as_csv(table: Any, folder: Path) -> Path:
    pd.DataFrame(table).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def as_parquet(table: Any, folder: Path) -> Path:
    pq.write_table(pa.Table.from_pandas(pd.DataFrame(table)), folder / "table.parquet")
    return folder / "table.parquet"


def in_two_rows(table: Any, folder: Path) -> Table:
    """Every row of weight 2 becomes two rows of weight 1."""
    rows = np.repeat(np.arange(ROWS), table["w"].astype(int))
    return {name: np.asarray(v)[rows] for name, v in table.items()} | {"w": np.ones(len(rows))}


def in_two_batches(table: Any, folder: Path) -> Table:
    """Every row of trials becomes two rows, of 5 trials and of the others."""
    first = np.random.default_rng(3).hypergeometric(
        table["y"].astype(int), (table["m"] - table["y"]).astype(int), 5
    )
    out = {name: np.concatenate([np.asarray(v)] * 2) for name, v in table.items()}
    out["y"] = np.concatenate([first, table["y"] - first])
    out["m"] = np.concatenate([np.full(ROWS, 5.0), table["m"] - 5.0])
    return out


def response_in(scale: float, shift: float = 0.0) -> dict[str, Any]:
    """The response in other units; where the link is a log, its predictor only moves."""

    def back(case: Case) -> Back:
        additive = case.family in ADDITIVE
        return Back(scale, shift, additive, sigma=scale if additive else 1.0)

    def fixed(case: Case) -> bool:
        return case.family in (ADDITIVE if shift else (*ADDITIVE, *MULTIPLICATIVE)) and not (
            case.priors or case.reads("o")
        )

    return {
        "applies": fixed,
        "rewrite": changed(y=lambda y: shift + scale * y),
        "back": back,
    }


# Families of a response in any unit, by whether its shift is a shift of the predictor.
ADDITIVE = ("gaussian", "student", "mixture(gaussian, gaussian)")
MULTIPLICATIVE = ("gamma", "lognormal", "exponential")
FACTORS = ("f", "h", "b")
GROUPS = ("g", "k", "school", "room")
SPLINES = r"\b(s|gp)\("

TRANSFORMATIONS = (
    # Predictors in other units and from another origin
    Transformation("x is a calendar year", reads("x"), changed(x=lambda x: 2005 + 10 * x)),
    Transformation("x in Kelvin", reads("x"), changed(x=lambda x: 288.15 + 3 * x)),
    Transformation("x in dollars", reads("x"), changed(x=lambda x: 4e4 + 9e3 * x)),
    Transformation("x in tiny units", reads("x"), changed(x=lambda x: 1e-5 * x)),
    Transformation("x turned round", reads("x"), changed(x=lambda x: -x)),
    Transformation(
        "x and z from afar",
        lambda case: case.reads("x") and case.reads("z"),
        changed(x=lambda x: 2005 + 10 * x, z=lambda z: 288.15 + 3 * z),
    ),
    # Responses in other units
    Transformation("response in other units", **response_in(1_000.0)),
    Transformation("response from another origin", **response_in(1.0, 300.0)),
    Transformation("response in Fahrenheit", **response_in(1.8, 32.0)),
    # Offsets
    Transformation("offset from another origin", reads("o"), changed(o=lambda o: o + 1_013)),
    Transformation("exposure in other units", reads("e"), changed(e=lambda e: 1e4 * e)),
    # Levels
    Transformation(
        "f has other levels first",
        reads("f"),
        changed(f=renamed({"a": "third", "b": "first", "c": "second"})),
    ),
    Transformation("h has the other level first", reads("h"), changed(h=backwards("h"))),
    Transformation(
        "groups have other names",
        reads(*GROUPS),
        changed(**dict.fromkeys(GROUPS, backwards("level "))),
    ),
    Transformation("groups are numbers", reads("g", "k"), changed(g=coded, k=coded)),
    Transformation(
        "groups are dates",
        reads("g"),
        changed(g=lambda g: np.datetime64("2020-01-01", "D") + coded(g)),
    ),
    Transformation(
        "groups are Categoricals",
        reads("g", "k"),
        lambda table: pd.DataFrame(
            {n: pd.Categorical(v) if n in GROUPS else v for n, v in table.items()}
        ),
    ),
    Transformation(
        "factors are Categoricals",
        reads("f", "h"),
        lambda table: pd.DataFrame(
            {n: pd.Categorical(v) if n in ("f", "h") else v for n, v in table.items()}
        ),
    ),
    Transformation(
        "factors are Categoricals with unused levels",
        reads("f"),
        lambda table: pd.DataFrame(
            {n: pd.Categorical(v, list("abcd")) if n == "f" else v for n, v in table.items()}
        ),
    ),
    Transformation(
        "factors are Categoricals declared in another order",
        reads("f"),
        lambda table: pd.DataFrame(
            {n: pd.Categorical(v, list("cab")) if n == "f" else v for n, v in table.items()}
        ),
    ),
    Transformation(
        "factors are Enums",
        reads("f"),
        lambda table: pl.DataFrame(table).with_columns(pl.col("f").cast(pl.Enum(list("abc")))),
    ),
    Transformation(
        "f is a number in C()",
        lambda case: case.reads("f") and not contains(r"\(f ")(case),
        changed(f=coded),
        formula=written(r"\bf\b", "C(f)"),
    ),
    Transformation(
        "f is a date in C()",
        lambda case: case.reads("f") and not contains(r"\(f ")(case),
        changed(f=lambda f: np.datetime64("2020-01-01", "D") + coded(f)),
        formula=written(r"\bf\b", "C(f)"),
    ),
    Transformation("h is a boolean", reads("h"), changed(h=lambda h: h == "v")),
    Transformation("booleans are texts", reads("b"), changed(b=lambda b: b.astype(str))),
    Transformation("booleans are text in a file, training only", reads("b"), arrange=as_csv),
    Transformation(
        "days in nanoseconds, training only",
        reads("day"),
        arrange=lambda table, folder: changed(day=lambda day: day.astype("datetime64[ns]"))(table),
    ),
    Transformation(
        "days as dates", reads("day"), changed(day=lambda day: day.astype("datetime64[D]"))
    ),
    # Sources
    Transformation("from pandas", rewrite=pd.DataFrame),
    Transformation("from polars", rewrite=in_polars),
    Transformation("from Arrow", rewrite=lambda table: pa.table(pd.DataFrame(table))),
    Transformation("from CSV, training only", lambda case: not case.reads("day"), arrange=as_csv),
    Transformation("from Parquet, training only", arrange=as_parquet),
    # Order
    Transformation("rows in another order", arrange=permuted),
    Transformation("columns in another order", rewrite=lambda table: dict(reversed(table.items()))),
    Transformation("terms in another order", contains(r"\+"), formula=terms_reversed),
    Transformation("an index of texts", rewrite=indexed([f"r{i}" for i in range(ROWS)][::-1])),
    Transformation("an index of equal numbers", rewrite=indexed(np.zeros(ROWS, int))),
    Transformation(
        "an index in another order", rewrite=indexed(np.random.default_rng(1).permutation(ROWS))
    ),
    # Weights and trials
    Transformation(
        "weights in other units",
        lambda case: case.reads("w") and not case.priors,
        changed(w=lambda w: 100 * w),
        back=lambda case: Back(sigma=10.0),
    ),
    Transformation(
        "a row of weight 2 is two rows",
        lambda case: case.reads("w") and bool(case.priors),
        arrange=in_two_rows,
    ),
    Transformation("trials in two batches", family("binomial"), arrange=in_two_batches),
    Transformation(
        "successes and failures swapped",
        lambda case: case.family in ("bernoulli", "binomial") and case.response == "numbers",
        lambda table: table | {"y": table.get("m", 1.0) - table["y"]},
        back=lambda case: Back(mirrored=True),
    ),
    Transformation(
        "successes are texts",
        lambda case: case.family == "bernoulli" and case.response == "numbers",
        changed(y=lambda y: np.where(y > 0, "success", "failure")),
    ),
    Transformation(
        "grades are an ordered Categorical",
        family("ordinal", "cumulative"),
        lambda table: pd.DataFrame(table).assign(
            y=pd.Categorical.from_codes(
                np.asarray(table["y"]) - 1, ["low", "medium", "high"], ordered=True
            )
        ),
    ),
    # Notation
    Transformation(
        "poly(x, 1) for x",
        contains(r"~? x \+ (f|h|z|\(1)"),
        formula=written(r"\bx \+", "poly(x, 1) +"),
    ),
    Transformation(
        "0 + f for f",
        lambda case: (
            # Where thresholds stand for the intercept, factors keep their contrasts.
            case.family not in ("ordinal", "cumulative") and contains(r"^ (1 \+ f|x \+ f)")(case)
        ),
        formula=written(r"^ (1 \+ )?", " 0 + "),
    ),
    Transformation("1 + f for 0 + f", contains(r"^ 0 \+"), formula=written(r"^ 0 \+", " 1 +")),
    Transformation(
        "a + b + a:b for a*b",
        contains(r"\*\w"),
        formula=written(r"(\w+)\*([a-z]\w*)", r"\1 + \2 + \1:\2"),
    ),
    Transformation(
        "b*a for a*b", contains(r"\*[a-z]"), formula=written(r"(\w+)\*([a-z]\w*)", r"\2*\1")
    ),
    Transformation(
        "x about its mean by scale(x)",
        lambda case: case.reads("x") and not contains(rf"{SPLINES}|\*\*|poly")(case),
        formula=written(r"\bx\b", "scale(x)"),
    ),
    Transformation(
        "ns(x, 1) for x",
        lambda case: case.family == "gaussian" and contains(r"~? x \+ (f|h|z|\(1)")(case),
        formula=written(r"\bx \+", "ns(x, 1) +"),
    ),
    Transformation(
        "f in sum contrasts", reads("f"), formula=written(r"\bf\b", "C(f, contrast='sum')")
    ),
    Transformation(
        "f in polynomial contrasts of another order",
        reads("f"),
        formula=written(r"\bf\b", "C(f, contr.poly, levels=[c, a, b])"),
    ),
    Transformation(
        "f in contrasts of one's own",
        reads("f"),
        formula=written(r"\bf\b", "C(f, contrast=[[1, 0], [2, 1], [0, -1/3]])"),
    ),
    Transformation(
        "a dot for all columns", contains(r"^ x \+ f$"), formula=written(r"x \+ f", ".")
    ),
)


# Answers


@dataclass(frozen=True)
class Answers:
    """What a model says, in the units of the case's own table.

    Attributes:
        mean, sd: of the mean response of each row of the table.
        contrast, contrast_sd: of the difference of the mean responses of neighbouring rows.
        scales: label to mean and sd: of the sd that each grouping adds to a row, which is the
            same wherever slopes have their origin, and of the family's own parameters.
        log_score: summed over the rows.
        log_score_sd: sd over draws of sum_i p(y_i | draw) / mean p(y_i), of which the log score
            has its Monte Carlo error.
        verdict: of `check`.
        has_index: whether predictions of a table of pandas have its index.
    """

    mean: Array
    sd: Array
    contrast: Array
    contrast_sd: Array
    scales: dict[str, tuple[float, float]]
    log_score: float
    log_score_sd: float
    verdict: str
    has_index: bool


def fitted(case: Case, formula: str, table: Any) -> rf.Fit:
    options = {"chains": 4, "tune": 1_000} if case.method == "nuts" else {}
    model = rf.Model(formula, family=case.family, priors=case.priors)
    return model.fit(table, method=case.method, seed=0, draws=DRAWS, progress=False, **options)


def answers(case: Case, transformation: Transformation, folder: Path) -> Answers:
    """What the model says of the table, written in this way."""
    rows = transformation.rewrite(observed(case))
    table = transformation.arrange(rows, folder)
    fit = fitted(case, transformation.formula(case.formula), table)
    back = transformation.back(case)
    predicted = fit.predict(rows)
    mean, sd = (np.asarray(predicted[name], float) for name in ("mean", "sd"))
    locations, log_density = draws_of(fit, rows)
    contrast = np.diff(locations, axis=1) / (-1.0 if back.mirrored else back.scale)
    score = np.asarray(fit.log_score(rows))
    unit = back.scale if back.additive else 1.0
    density = ROWS * np.log(back.scale) if back.continuous else 0.0
    return Answers(
        1.0 - mean if back.mirrored else (mean - back.shift) / back.scale,
        sd / back.scale,
        contrast.mean(axis=0),
        contrast.std(axis=0),
        {
            label: tuple(
                value / (back.sigma if label.startswith("sigma") else unit_of(label, unit))
                for value in both
            )
            for label, both in scales(fit).items()
        },
        float(score.sum()) + density,
        float(np.exp(log_density - score).sum(axis=1).std()),
        fit.check(quick=True).verdict,
        not isinstance(rows, pd.DataFrame) or predicted.index.equals(rows.index),
    )


def unit_of(label: str, unit: float) -> float:
    """In which unit a scale is: sds of groups in the predictor's, shapes in none."""
    return unit if label.startswith("sd of ") else 1.0


def draws_of(fit: rf.Fit, rows: Any) -> tuple[Array, Array]:
    """Draws of the mean response and of the log density of the response, (draws, rows)."""
    frame, designs = read_new_rows(fit._known, rows, "error", response=True, companion=True)
    response = fit.program.family.design(fit.training.state.family, frame)
    predictive = fit._predictive("error", 0)
    locations = predictive.locations(designs, response, frame.n)
    return locations, predictive.log_likelihood(designs, response, frame.n)


def scales(fit: rf.Fit) -> dict[str, tuple[float, float]]:
    """Mean and sd of what each grouping adds to a row, of shares and the family's parameters."""
    values = {n: np.asarray(v).reshape(-1, *v.shape[2:]) for n, v in fit._known.values.items()}
    out = {}
    for parameter, term in fit.program.all_terms():
        state, design = fit.training.state.terms[term.label], fit.training.designs[term.label]
        adds = term.variances(state, design, values) if isinstance(term, HasVariances) else {}
        for factor, variance in adds.items():
            if not factor:
                continue  # of common effects, which predictions hold already
            sd = np.sqrt(variance)
            out[f"sd of {parameter.name} by {factor}"] = (sd.mean(), sd.std())
    table = fit.summary()
    for label, row in table[table["kind"] == "derived"].iterrows():
        out[str(label)] = (row["mean"], row["sd"])
    for name, variable in fit.variables.items():
        if variable.role == "family" and name in values and values[name].ndim == 1:
            out[name] = (values[name].mean(), values[name].std())
    return out


@dataclass(frozen=True)
class Failure:
    """What is not the same.

    Attributes:
        what: which answer.
        size: how far it is off, in the error that is allowed; infinite for what has no size.
        said: what was found, beside what it should be.
    """

    what: str
    size: float
    said: str

    def __str__(self) -> str:
        return f"{self.what}: {self.said} ({self.size:.3g} times what is allowed)"


def compared(case: Case, base: Answers, other: Answers) -> list[Failure]:
    """What differs by more than the error of draws."""
    draws = DRAWS_OF_CHAINS if case.method == "nuts" else DRAWS
    out = []

    def means(what: str, a: Array, b: Array, sd: Array, size: Array) -> None:
        if len(a) != len(b):
            out.append(Failure(what, np.inf, f"{len(b)} of them, not {len(a)}"))
            return
        if not len(a):
            return
        allowed = ERRORS * sd / np.sqrt(draws) + RELATIVE * (np.abs(a).max() + size)
        worst = int(np.argmax(np.nan_to_num(np.abs(a - b) / allowed, nan=np.inf)))
        ratio = np.abs(a - b)[worst] / allowed[worst]
        if not ratio <= 1:
            out.append(
                Failure(what, ratio, f"{b[worst]:.4g}, not {a[worst]:.4g} +- {sd[worst]:.2g}")
            )

    def sds(what: str, a: Array, b: Array) -> None:
        if len(a) != len(b) or not len(a):
            return
        # Below this a contrast between two alike rows is only rounding.
        floor = 1e-3 * np.median(a)
        away = np.abs(np.log((b + floor) / (a + floor)))
        allowed = SD_ERROR * ERRORS / np.sqrt(2 * draws)
        worst = int(np.argmax(np.nan_to_num(away, nan=np.inf)))
        if not away[worst] <= allowed:
            out.append(Failure(what, away[worst] / allowed, f"{b[worst]:.4g}, not {a[worst]:.4g}"))

    means("predictions", base.mean, other.mean, base.sd, np.zeros(1))
    sds("sds of predictions", base.sd, other.sd)
    means("contrasts", base.contrast, other.contrast, base.contrast_sd, np.ones(1))
    sds("sds of contrasts", base.contrast_sd, other.contrast_sd)
    if list(base.scales) != list(other.scales) and sorted(base.scales) != sorted(other.scales):
        out.append(Failure("scales", np.inf, f"{list(other.scales)}, not {list(base.scales)}"))
    for label in base.scales.keys() & other.scales.keys():
        (a, sd), (b, _) = base.scales[label], other.scales[label]
        means(label, *(np.array([v]) for v in (a, b, sd)), np.zeros(1))
    allowed = ERRORS * base.log_score_sd / np.sqrt(draws) + RELATIVE * abs(base.log_score)
    apart = abs(base.log_score - other.log_score)
    if not apart <= allowed:
        found = f"{other.log_score:.2f}, not {base.log_score:.2f}"
        out.append(Failure("log score", apart / allowed, found))
    if not other.has_index:
        out.append(Failure("index", np.inf, "predictions do not have the index of their rows"))
    if base.verdict != other.verdict:
        found = f"{other.verdict!r}, not {base.verdict!r}"
        out.append(Failure("verdict", np.inf, found))
    return out


AS_IT_IS = Transformation("as it is")


@cache
def _base(name: str) -> Answers:
    """What the model of this name says of its table as it is."""
    case = next(case for case in (*CASES, *BY_CHAINS) if case.name == name)
    return answers(case, AS_IT_IS, Path())


def check_equivariance(case: Case, transformation: Transformation, folder: Path) -> None:
    """What the model says does not depend on how the table is written."""
    failures = failures_of(case, transformation, folder)
    assert not failures, "\n".join(map(str, failures))


def failures_of(case: Case, transformation: Transformation, folder: Path) -> list[Failure]:
    return compared(case, _base(case.name), answers(case, transformation, folder))


def product() -> list[tuple[Case, Transformation]]:
    """Every pair that the contract has."""
    return [(case, t) for case in CASES for t in TRANSFORMATIONS if t.holds_for(case)]


def covering() -> list[tuple[Case, Transformation]]:
    """Every transformation, those of units and origins twice, every family and term once.

    A case is taken for what it has that none before had, else because it has been fitted as it
    is already, and least often.
    """
    pairs = product()
    seen: set[str] = set()
    taken: Counter[str] = Counter()
    out = []
    for transformation in TRANSFORMATIONS:
        own = [case for case, t in pairs if t is transformation]
        for _ in range(min(len(own), 2 if transformation.of_units else 1)):
            case = min(own, key=lambda c: (-len(c.kinds - seen), not taken[c.name], taken[c.name]))
            own.remove(case)
            seen |= case.kinds
            taken[case.name] += 1
            out.append((case, transformation))
    return out


# Families that are made of others are under the contract by one of the names they can have.
FAMILIES_COVERED = {registry.parts(case.family)[0] for case in CASES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="the full product, not the subset")
    parser.add_argument("--nuts", action="store_true", help="the cases by chains as well")
    parser.add_argument("--cases", default="", help="only those with this in their name")
    parser.add_argument("--transformations", default="", help="only those with this in their name")
    parser.add_argument("--seconds", type=float, default=np.inf, help="stop after so many")
    options = parser.parse_args()
    pairs = product() if options.all else covering()
    if options.nuts:
        pairs += [(c, t) for c in BY_CHAINS for t in TRANSFORMATIONS[:8] if t.holds_for(c)]
    pairs = [
        (case, t)
        for case, t in pairs
        if options.cases in case.name and options.transformations in t.name
    ]
    began, tried, failed = time.perf_counter(), Counter(), Counter()
    seen: list[tuple[Case, Transformation]] = []
    print("| case | transformation | what differs |\n|---|---|---|")
    for case, transformation in pairs:
        if time.perf_counter() - began > options.seconds:
            break
        seen.append((case, transformation))
        tried[transformation.name] += 1
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = [str(f) for f in failures_of(case, transformation, Path(folder))]
            except Exception as error:
                found = [f"{type(error).__name__}: {error}"]
        if found:
            failed[transformation.name] += 1
            cells = (case.name, transformation.name, "; ".join(found))
            print("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |", flush=True)
    print("\n| transformation | cases tried | failed |\n|---|---|---|")
    for name, count in tried.items():
        print(f"| {name} | {count} | {failed[name]} |")
    families = {case.family for case, _ in seen}
    print(
        f"\n{len(tried)} transformations x {len({c.name for c, _ in seen})} models of "
        f"{len(families)} families: {len(seen)} of {len(pairs)} pairs tried, "
        f"{sum(failed.values())} failed; {time.perf_counter() - began:.0f} s."
    )


if __name__ == "__main__":
    main()
