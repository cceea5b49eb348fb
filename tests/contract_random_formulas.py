"""One contract for every formula: it is fitted, or refused in a sentence, within a minute.

`random_case` draws a formula, a family, a table of sixty rows, priors and options from a seed.
`outcome` does with it what a user does: fit, predict, score, summarise, check and save. Its answer
is one of five words:

- "fitted": every step came to an end, and every number is finite;
- "refused": a step ended in a `RanefError`, which is a sentence;
- "raw": a step ended in any other exception, or a promise of the guide was not kept;
- "nonfinite": a step returned NaN, or infinity where none is documented;
- "slow": a step took more processor time than the limit. (A check may take as long as the fit.)

The contract holds for "fitted" and "refused". ``benchmarks/random_formulas.py`` runs any number of
seeds, and ``tests/test_random_formulas.py`` a few that are fast. To put a new term, family or
option under the contract, add it to the lists below.
"""

import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

import ranef as rf
from ranef import registry

# Rows of a table: so few that compilation, and not arithmetic, takes the time.
ROWS = 60
# Draws of a fit, of each chain by nuts.
DRAWS = 100
# Rows that are predicted beside the training rows, whose groups training has not seen.
NEW_ROWS = 6
# Processor seconds that each step of a case may take.
LIMIT = 60.0
# How far the mean of a row that is predicted alone may be from that of the same row among others,
# relative to the largest mean and sd in the table: `predict` computes in single precision.
ALONE = 1e-6

Table = dict[str, Any]
Words = tuple[str, ...]

# What a formula may be made of. Columns are those of `_columns`.

COMMON = (
    *("x", "z", "i", "f", "h", "b", "C(k)", "C(k, ref='2')", "C(f, levels=['c', 'a', 'b'])"),
    *("x:z", "x*z", "x*f", "f:h", "f*h", "b*x", "x:C(k)", "f/x", "(x + z)**2", "(x + f + h)**2"),
    *("poly(x, 2)", "poly(z, 3)", "poly(x, 2):f", "I(x**2)", "I(x > 0)", 'I(f == "a")'),
    *("log(w)", "log10(w)", "sqrt(w)", "exp(x)", "log1p(w)", "abs(x)", "scale(z)", "center(x)"),
    *("many", "constant", "far", "small", "day", "skewed"),
)
GROUPS = (
    *("(1 | g)", "(1 | g)", "(x | g)", "(x || g)", "(0 + x | g)", "(1 | school/room)", "(f | g)"),
    *("(1 | g) + (1 | l)", "(x | g) + (1 | l)", "(1 | g:h)", "(0 + f | g)", "(0 + C(k) || g)"),
    *("(C(k) | g)", "(poly(x, 2) | g)", "(x*z | g)", "(x + z || g)", "(x | school/room)"),
    *("(1 | day)", "(1 | many)", "(1 | row)", "(log(w) | g)", "(scale(x) | l)", "(1 | b)"),
    *("(far | g)", "(0 + x | g) + (1 | g)", "(x:f | g)", "(1 | school) + (1 | f)"),
)
# Those that quadrature serves.
SCALAR = ("(1 | g)", "(0 + x | g)", "(1 | g:h)", "(1 | day)", "(1 | many)", "(1 | row)", "(1 | b)")
SMOOTH = (
    *("gp(x)", "gp(x, m=8)", "gp(z, kernel=sqexp)", "gp(x, kernel=matern32, m=6)"),
    *("gp(x, z, m=4)", "gp(x, z, iso=True)", "gp(x, z)", "gp(x, by=f, m=6)", "gp(x, by=f)"),
    *("gp(log(w), m=6)", "s(x)", "s(z, k=5)", "s(log(w), k=6)", "s(x) + s(z)", "s(i, k=5)"),
    *("gp(skewed)", "s(skewed)", "gp(far)"),
)
MISSING = (
    *("mi(q)", "mi(q)", "mi(r, family=bernoulli)", "mi(n, family=poisson)"),
    *(
        "mi(q, family=student)",
        "mi(n, family=negative_binomial)",
        "mi(q) + mi(r, family=bernoulli)",
    ),
)
FACTORIZATIONS = ("mf(user, item, rank=2)", "(1 | user) + (1 | item) + mf(user, item, rank=3)")
NETWORKS = (
    *("nn(x)", "nn(x, z, hidden=[4])", "nn(x, z, hidden=[4], weights='last')"),
    *("nn(x, hidden=[3], weights='full')", "nn(x, f, hidden=[4])", "nn(x, C(k), g, hidden=[3])"),
    *(
        "nn(poly(x, 2), scale(z), hidden=[3], activation='relu', l2=0.01)",
        "nn(scale(x), z, net=own)",
    ),
    *("nn(f, hidden=[3], weights='last')", "nn(picture, x, hidden=[3])"),
)
OFFSETS = ("offset(o)", "offset(log(w))")
# Terms that there are not, and terms that cannot be: each must be refused.
MISTAKES = (
    "te(x, z)",
    "bs(x, df=2)",
    "poly(f, 2)",
    "absent",
    "log(x)",
    "gp(f)",
    "(1 | x | g)",
    "gp(constant)",
)
# Notations that came later, and their mistakes. They are drawn from this seed on, so that the cases
# of earlier seeds stay what they are.
LATER_FROM = 10_000
LATER = (
    *("C(f, contrast='sum')", "C(k, Helmert)*x", "x:C(k, contr.poly)", "C(f, Diff):h"),
    *("C(f, contrast=[[0, 1], [1, 0], [-1/2, 2]])", "C(f, Sum, levels=[c, b, a])", "h*C(k, Sum)"),
    *("bs(x, df=5)", "bs(w, degree=2)", "ns(z, 3)", "ns(x, knots=[-1, 0.5]):f", "bs(far, 4)"),
    *("I(x > 0 & z < 1)", "I(!b | f == 'a')", "I((i > 2) & (h == 'u')):x"),
    *("days(day)", "poly(days(day), 2)", "days(day, since='2024-03-04'):f", "s(days(day), k=5)"),
    *("(C(f, contrast='sum') || g)", "(C(f, Sum) | g)", "(0 + C(k, Poly) | g)", "(ns(x, 2) | g)"),
    *("(days(day) | g)", "(I(x > 0 & z < 1) | l)", "offset(I(x > 0 & b))"),
    *("ns(constant, df=2)", "C(k, [[0, 1], [1, 0]])"),
)
# Share of cases whose method is one that fits such a model.
FITTING = 0.9
# Kinds of terms, and how often a formula has one of them.
KINDS: dict[str, tuple[Words, float]] = {
    "common": (COMMON, 0.45),
    "group": (GROUPS, 0.27),
    "smooth": (SMOOTH, 0.11),
    "missing": (MISSING, 0.05),
    "network": (NETWORKS, 0.05),
    "factorization": (FACTORIZATIONS, 0.02),
    "offset": (OFFSETS, 0.04),
    "mistake": (MISTAKES, 0.006),
}
# How many of a kind a formula has at most. More of the others is a longer compilation.
MOST = {"smooth": 2, "missing": 1, "network": 1, "factorization": 1, "offset": 1, "mistake": 1}
# The probability of each further term: many terms are a long compilation.
MORE = 0.4
# Terms that code a column in a way of their own, and how others write that column.
CODED: dict[str, Words] = {
    "C(k, ref='2')": ("C(k)",),
    "C(f, levels=['c', 'a', 'b'])": ("f",),
}
# Models of columns with gaps, for those that a formula has.
COLUMN_MODELS = {
    "mi(q)": ("mi(q) ~ x", "mi(q) ~ x + (1 | g)", "mi(q) ~ f*x"),
    "mi(r, family=bernoulli)": ("mi(r) ~ z", "mi(r) ~ mi(q) + z"),
    "mi(n, family=poisson)": ("mi(n) ~ x",),
}
MIXED: tuple[Words, ...] = (
    *(("gaussian", "gaussian"), ("gaussian", "student"), ("gamma", "lognormal")),
    *(
        ("poisson", "poisson"),
        ("gaussian", "gaussian", "gaussian"),
        ("poisson", "negative_binomial"),
    ),
    ("beta", "beta"),
)
# What may be on the left, beside the response itself.
LEFT: dict[str, Words] = {
    "gaussian": ("weights(y, w)", "se(y, e)", "log(w)"),
    "student": ("weights(y, w)", "se(y, e)"),
    "binomial": ("y / t", "y / t", "y / 20"),
    **dict.fromkeys(("poisson", "lognormal"), ("weights(y, w)",)),
}
# Parameters that may have a predictor of their own.
PARTS: dict[str, Words] = {
    "gaussian": ("sigma",),
    "student": ("sigma", "nu"),
    "negative_binomial": ("alpha",),
    "gamma": ("alpha",),
    "beta": ("kappa",),
    "lognormal": ("sigma",),
    "zero_inflated_poisson": ("psi",),
    "zero_inflated_negative_binomial": ("psi", "alpha"),
    "categorical": ("muB",),
    "mixture": ("mix", "mu2", "mix2"),
}
# Parameters that take a prior, where they have no predictor.
PARAMETERS: dict[str, Words] = {
    "gaussian": ("sigma",),
    "student": ("sigma", "nu"),
    "lognormal": ("sigma",),
    **dict.fromkeys(("negative_binomial", "gamma"), ("alpha",)),
    "zero_inflated_poisson": ("psi",),
    "zero_inflated_negative_binomial": ("alpha", "psi"),
}
METHODS: dict[str, float] = {"auto": 0.58, "exact": 0.1, "laplace": 0.18, "svi": 0.09, "nuts": 0.05}
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "auto": (*({},) * 12, {"quadrature": 3}, {"guide": "structured"}),
    "exact": (*({},) * 12, {"quadrature": 2}),
    "laplace": ({}, {}, {}, {"quadrature": 1}, {"quadrature": 5}),
    "svi": (
        {},
        {"steps": 300},
        {"guide": "meanfield", "steps": 300},
        {"batch_size": 20, "steps": 200},
    ),
    "nuts": (
        {"chains": 2, "tune": 100},
        {"chains": 1, "tune": 100, "coefficients": "sampled"},
    ),
}
PRIORS: dict[str, tuple[Any, ...]] = {
    "common": (rf.Normal(0, 1), rf.StudentT(4, 0, 2), rf.Flat(), rf.Normal(0, 100)),
    "Intercept": (rf.Normal(0, 10), rf.Flat(), rf.Cauchy(0, 5)),
    "x": (rf.Normal(0, 1), 0.5, rf.PointEstimate()),
    "1|g_sigma": (rf.HalfNormal(0.5), rf.Exponential(1), rf.Uniform(0, 3), 0.7, rf.PointEstimate()),
    "sigma": (rf.HalfCauchy(1), rf.Exponential(1), 0.8, rf.PointEstimate(), rf.LogNormal(0, 1)),
    "nu": (4.0, rf.Gamma(2, 0.1)),
    "alpha": (rf.Exponential(1), 2.0),
    "psi": (rf.Beta(2, 2), 0.7),
}


@dataclass(frozen=True)
class Case:
    """A model and a table, and how it is fitted.

    Attributes:
        seed: that `random_case` makes it from.
        formula, family, priors, networks: of the model.
        table: with all columns that a formula may have.
        new: rows to be predicted, of groups that training has not seen among others.
        method, options: of the fit.
        odd: what is odd about the table, in words.
        saves: whether the fit is saved and loaded.
    """

    seed: int
    formula: str
    family: Any
    table: Any
    new: Any
    method: str
    options: dict[str, Any]
    priors: dict[str, Any]
    networks: bool
    odd: Words
    saves: bool

    @property
    def name(self) -> str:
        own = [f"seed {self.seed}", getattr(self.family, "name", self.family), self.formula]
        own += [self.method] if self.method != "auto" else []
        own += [f"{name}={value}" for name, value in (self.options | self.priors).items()]
        return ", ".join([*own, *self.odd])

    @property
    def kinds(self) -> set[str]:
        """Its family, its method, and the names of the registry's terms in its formula."""
        named = {t for t in registry.TERMS if f"{t}(" in self.formula}
        groups = {"group"} if "|" in self.formula else set()
        family = registry.parts(getattr(self.family, "name", self.family))[0]
        return {"common", family, self.method, *named, *groups}


# The table


def _columns(rng: np.random.Generator, n: int) -> tuple[Table, NDArray[np.float64]]:
    """Columns of every kind, and the linear predictor behind responses."""
    x, z = rng.normal(size=n), rng.normal(2.0, 3.0, size=n)
    f, h, k = rng.integers(0, 3, n), rng.integers(0, 2, n), rng.integers(0, 4, n)
    g, place = rng.integers(0, int(rng.integers(3, 13)), n), rng.integers(0, 5, n)
    school, room = rng.integers(0, 4, n), rng.integers(0, 3, n)
    b, day = rng.random(n) < 0.5, rng.integers(0, 8, n)
    eta = 0.5 * x + 0.1 * z + 0.4 * (f == 1) - 0.3 * (h == 1) * x + rng.normal(0, 0.6, 13)[g]
    eta = eta + rng.normal(0, 0.3, 5)[place]
    q = 0.5 * x + rng.normal(size=n)
    r = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float)
    columns = {
        **{"x": x, "z": z, "i": rng.integers(-3, 9, n), "o": 0.3 * rng.normal(size=n)},
        **{"f": np.array(list("abc"))[f], "h": np.array(list("uv"))[h], "b": b, "k": k + 1},
        **{"w": rng.gamma(3.0, 0.5, n) + 0.05, "e": rng.uniform(0.2, 1.5, n)},
        **{
            "t": rng.integers(4, 30, n),
            "constant": np.full(n, 2.5),
            "small": 1e-6 * rng.normal(size=n),
        },
        **{"far": 2000.0 + rng.integers(0, 25, n), "skewed": np.exp(2 * rng.normal(size=n))},
        **{"many": np.array([f"m{i}" for i in rng.integers(0, 25, n)])},
        **{"g": np.array([f"g{i}" for i in g]), "l": place, "row": np.arange(n)},
        **{"school": np.array(list("ABCD"))[school], "room": np.array(list("pqr"))[room]},
        **{
            "user": rng.integers(0, 8, n),
            "item": np.array([f"i{i}" for i in rng.integers(0, 7, n)]),
        },
        "day": np.datetime64("2024-03-01", "us") + day * np.timedelta64(1, "D"),
        **{
            "q": np.where(rng.random(n) < 0.2, np.nan, q),
            "r": np.where(rng.random(n) < 0.2, np.nan, r),
        },
        "n": np.where(rng.random(n) < 0.2, np.nan, rng.poisson(np.exp(0.4 * x + 0.5))),
        "picture": rng.random((n, 2, 3)),
    }
    return columns, eta


def _response(
    rng: np.random.Generator, family: str, eta: NDArray[np.float64], table: Table, trials: Any
) -> NDArray[Any]:
    """A response of a family."""
    n = len(eta)
    mean, p = np.exp(0.7 * eta + 0.8), 1 / (1 + np.exp(-eta))
    there = rng.random(n) < 0.7
    cut = np.digitize(eta + rng.logistic(size=n), [-0.8, 0.9])
    noise = rng.normal(size=n)
    drawn: dict[str, Callable[[], NDArray[Any]]] = {
        "gaussian": lambda: eta + 0.8 * noise,
        "student": lambda: eta + 0.6 * rng.standard_t(4.0, n),
        "bernoulli": lambda: rng.random(n) < p,
        "binomial": lambda: rng.binomial(trials, p),
        "poisson": lambda: rng.poisson(mean),
        "negative_binomial": lambda: rng.poisson(mean * rng.gamma(3.0, 1 / 3.0, n)),
        "gamma": lambda: mean * rng.gamma(3.0, 1 / 3.0, n) + 1e-6,
        "beta": lambda: np.clip(rng.beta(8 * p, 8 * (1 - p)), 1e-3, 1 - 1e-3),
        "lognormal": lambda: np.exp(eta + 0.6 * noise),
        "exponential": lambda: mean * rng.exponential(size=n),
        "ordinal": lambda: cut + 1,
        "cumulative": lambda: np.array(["low", "middle", "top"])[cut],
        "categorical": lambda: np.array(["A", "B", "C"])[cut],
        "zero_inflated_poisson": lambda: there * rng.poisson(mean + 1.0),
        "zero_inflated_negative_binomial": lambda: (
            there * rng.poisson((mean + 1.0) * rng.gamma(3.0, 1 / 3.0, n))
        ),
    }
    if not family.startswith("mixture"):
        return drawn[family]()
    of = registry.parts(family)[1]
    apart = {"gaussian": 4.0, "beta": 0.0}.get(of, 0.0)
    return drawn[of]() + (np.where(there, 0.0, apart) if apart else 0)


# What may be odd about a table: rewrites it in place of all its columns.


def _gaps(rng: np.random.Generator, table: Table) -> Table:
    """Missing cells in some columns, as each type has them."""
    out = dict(table)
    for name in rng.choice(["x", "f", "g", "z", "w", "y"], size=2, replace=False):
        values = np.asarray(out[name]).astype(object)
        values[rng.random(len(values)) < 0.08] = None
        out[name] = values
    return out


def _separated(rng: np.random.Generator, table: Table) -> Table:
    """One level of a factor in which all responses are alike."""
    y = np.array(table["y"])
    y[np.asarray(table["f"]) == "c"] = y[0]
    return table | {"y": y}


def _one_level(rng: np.random.Generator, table: Table) -> Table:
    """A factor and a grouping with one level each."""
    n = len(table["y"])
    return table | {"h": np.full(n, "u"), "l": np.zeros(n, int)}


def _constant_response(rng: np.random.Generator, table: Table) -> Table:
    """A response that does not vary."""
    y = np.array(table["y"])
    return table | {"y": np.full(len(y), y[0])}


def _copied(rng: np.random.Generator, table: Table) -> Table:
    """A column that is twice another, and a factor that is another."""
    return table | {"z": 2 * np.asarray(table["x"]), "h": table["f"]}


def _far_away(rng: np.random.Generator, table: Table) -> Table:
    """A column of large numbers beside one of tiny ones."""
    return table | {"x": 1e7 + 1e5 * np.asarray(table["x"]), "z": 1e-9 * np.asarray(table["z"])}


def _outliers(rng: np.random.Generator, table: Table) -> Table:
    """One row far away from all others in a column."""
    x = np.array(table["x"])
    x[int(rng.integers(len(x)))] = 1e4
    return table | {"x": x}


ODD: dict[str, Callable[[np.random.Generator, Table], Table]] = {
    "gaps": _gaps,
    "separated": _separated,
    "one level": _one_level,
    "constant response": _constant_response,
    "copied columns": _copied,
    "far from zero": _far_away,
    "an outlier": _outliers,
}


def _pandas(table: Table) -> pd.DataFrame:
    return pd.DataFrame({n: v.tolist() if np.ndim(v) > 1 else v for n, v in table.items()})


def _categorical(table: Table) -> pd.DataFrame:
    """Declared categories, one of them without rows."""
    out = _pandas(table)
    for name, levels in {"f": ["c", "a", "b", "unused"], "h": ["v", "u"]}.items():
        out[name] = pd.Categorical(out[name], categories=levels, ordered=True)
    out.index = pd.Index([f"r{i}" for i in range(len(out))])
    return out


def _nullable(table: Table) -> pd.DataFrame:
    """Nullable and Arrow-backed columns."""
    out = _pandas(table)
    for name in ("f", "g"):
        out[name] = out[name].astype("string")
    out["z"] = out["z"].astype("Float32")
    out["k"] = out["k"].astype("Int16")
    out["i"] = out["i"].astype("int64[pyarrow]")
    return out


def _polars(table: Table) -> pl.DataFrame:
    out = {n: list(v) if np.asarray(v).dtype == object else v for n, v in table.items()}
    return pl.DataFrame(out, strict=False)


def _arrow(table: Table) -> pa.Table:
    return pa.Table.from_pandas(_pandas(table), preserve_index=False)


WRITTEN: dict[str, Callable[[Table], Any]] = {
    "pandas": _pandas,
    "categories of pandas": _categorical,
    "nullable columns": _nullable,
    "polars": _polars,
    "arrow": _arrow,
    "dict": dict,
}


# The case


def _chosen(rng: np.random.Generator, of: Any) -> Any:
    """One of some, each as likely."""
    return of[int(rng.integers(len(of)))]


def _weighted(rng: np.random.Generator, weights: dict[str, float]) -> str:
    shares = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=shares / shares.sum()))


def _terms(rng: np.random.Generator, most: int) -> list[str]:
    """Terms of a predictor, in random order."""
    weights = {kind: share for kind, (_, share) in KINDS.items()}
    counts = dict.fromkeys(KINDS, 0)
    out = []
    for _ in range(1 + int(rng.binomial(most - 1, MORE))):
        kind = _weighted(rng, weights)
        term = str(_chosen(rng, KINDS[kind][0]))
        # A column has one coding in a formula.
        recoded = any(column in " ".join(out) for column in CODED.get(term, ()))
        if counts[kind] < MOST.get(kind, most) and not recoded:
            counts[kind] += 1
            out.append(term)
    return list(dict.fromkeys(out))


def _with_later(rng: np.random.Generator, terms: list[str]) -> list[str]:
    """The terms, and one or two of `LATER` in place of those that code the same column."""
    for _ in range(1 + int(rng.random() < MORE)):
        term = str(_chosen(rng, LATER))
        coded = [start for start in ("C(f", "C(k") if start in term]
        terms = [own for own in terms if not any(start in own for start in coded)]
        terms.append(term)
    return list(dict.fromkeys(terms))


def _predictor(rng: np.random.Generator, terms: list[str]) -> str:
    begin = _chosen(rng, ("1 + ", "", "", "", "0 + "))
    return begin + " + ".join(terms) if terms else "1"


def _fitting(
    rng: np.random.Generator, method: str, family: str, terms: list[str], parts: list[str]
) -> str:
    """The method, or another where it would only say that it does not fit such a model."""
    linear = not any(term in (*MISSING, *NETWORKS, *FACTORIZATIONS) for term in terms)
    if method == "exact" and (family != "gaussian" or not linear or len(parts) > 1):
        return "laplace" if linear else "auto"
    if method == "laplace" and not linear:
        return str(_chosen(rng, ("auto", "svi")))
    return method


def random_case(seed: int) -> Case:
    """The case of a seed."""
    rng = np.random.default_rng([seed, ROWS])
    family = str(_chosen(rng, [*registry.FAMILIES, "gaussian", "gaussian", "bernoulli", "poisson"]))
    mixed = family == "mixture"
    own = rf.Mixture(*_chosen(rng, MIXED)) if mixed else None
    name = own.name if own is not None else family
    terms = _terms(rng, 4)
    if seed >= LATER_FROM:
        terms = _with_later(np.random.default_rng([seed, ROWS, 1]), terms)
    left = "y"
    if family in LEFT and (family == "binomial" or rng.random() < 0.2):
        left = str(_chosen(rng, LEFT[family]))
    parts = [f"{left} ~ {_predictor(rng, terms)}"]
    for parameter in PARTS.get(family, ()):
        if rng.random() < 0.25:
            parts.append(f"{parameter} ~ {_predictor(rng, _terms(rng, 2))}")
    parts += [
        str(_chosen(rng, models))
        for column, models in COLUMN_MODELS.items()
        if column in terms and rng.random() < 0.6
    ]
    formula = "; ".join(parts)
    method = _weighted(rng, METHODS)
    if rng.random() < FITTING:
        method = _fitting(rng, method, family, terms, parts)
    options = dict(_chosen(rng, OPTIONS[method]))
    groups = [term for term in (*terms, *parts[1:]) if "|" in term]
    scalar = len(groups) == 1 and groups[0] in SCALAR
    if "quadrature" in options and not scalar and rng.random() < FITTING:
        options = {}
    having = ("common", *(["Intercept"] if "0 +" not in parts[0] else []))
    having += tuple(n for n, term in {"x": "x", "1|g_sigma": "(1 | g)"}.items() if term in terms)
    having += tuple(n for n in PARAMETERS.get(family, ()) if f"{n} ~" not in formula)
    priors = {
        parameter: _chosen(rng, known)
        for parameter, known in PRIORS.items()
        if rng.random() < (0.12 if parameter in having else 0.01)
    }
    odd = tuple(str(o) for o in rng.choice(list(ODD), size=1) if rng.random() < 0.3)
    written = str(_chosen(rng, list(WRITTEN)))
    columns, eta = _columns(rng, ROWS)
    trials = 20 if "/ 20" in left else columns["t"]
    table = columns | {"y": _response(rng, name, eta, columns, trials)}
    new = {column: values[:NEW_ROWS] for column, values in table.items()}
    new |= {
        "g": np.array([f"new{i // 2}" for i in range(NEW_ROWS)]),
        "user": np.arange(5, 5 + NEW_ROWS),
    }
    for each in odd:
        table = ODD[each](rng, table)
    if "far from zero" in odd:
        new |= {column: np.asarray(table[column])[:NEW_ROWS] for column in ("x", "z")}
    if "one level" in odd or "copied columns" in odd:
        new |= {column: np.asarray(table[column])[:NEW_ROWS] for column in ("h", "l", "z")}
    return Case(
        seed,
        formula,
        own if own is not None else family,
        WRITTEN[written](table),
        new,
        method,
        options,
        priors,
        "net=own" in formula,
        (*odd, *([written] if written != "pandas" else [])),
        bool(rng.random() < 0.25),
    )


# The outcome


@dataclass(frozen=True)
class Outcome:
    """How a case ended.

    Attributes:
        word: "fitted", "refused", "raw", "nonfinite" or "slow".
        step: at which it ended, the last for what was fitted.
        said: the sentence of a refusal, or what went wrong.
        seconds: of processor time, of all steps.
        spent: seconds by step.
        method: that fitted it.
        verdict: of the check.
        trace: of an exception that is no `RanefError`, or of where a slow case was.
    """

    word: str
    step: str
    said: str
    seconds: float
    spent: dict[str, float] = field(default_factory=dict)
    method: str = ""
    verdict: str = ""
    trace: str = ""

    @property
    def holds(self) -> bool:
        """Whether the contract holds."""
        return self.word in ("fitted", "refused")


class LimitReached(BaseException):
    """The processor time of a case is up: no `Exception`, so that only `outcome` takes it."""


class NotFinite(Exception):
    """A number that is not finite where none is documented."""


class PromiseBroken(Exception):
    """An answer that is not what the guide says."""


@contextmanager
def limited(seconds: float) -> Iterator[Callable[[], None]]:
    """Raise `LimitReached` once a step has taken so much processor time, which others on the
    machine do not change as they change the time on the wall. A compilation ends first.

    Yields:
        What begins a step.
    """

    def up(number: int, frame: Any) -> None:
        raise LimitReached

    def begin() -> None:
        signal.setitimer(signal.ITIMER_PROF, seconds)

    before = signal.signal(signal.SIGPROF, up)
    try:
        yield begin
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def _network() -> Any:
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((2,)),
            layers.Dense(4, activation="tanh"),
            layers.Dropout(0.1),
            layers.Dense(1),
        ]
    )


def _numbers(table: Any) -> dict[str, NDArray[np.float64]]:
    """Columns of numbers in an answer, of any kind of table."""
    if isinstance(table, pl.DataFrame):
        table = table.to_pandas()
    return {str(n): np.asarray(table[n], float) for n in table.select_dtypes("number").columns}


def _finite(step: str, table: Any, may_be_infinite: Words = ()) -> None:
    for name, values in _numbers(table).items():
        wrong = np.isnan(values) if name in may_be_infinite else ~np.isfinite(values)
        if wrong.any():
            raise NotFinite(f"{step}: {name} is {values[wrong][0]} in row {np.argmax(wrong) + 1}")


def _row(table: Table, place: int) -> Table:
    return {name: values[place : place + 1] for name, values in table.items()}


def _stand_alone(fit: rf.Fit, new: Table, among: Any) -> None:
    """A row alone has the mean that it has among others, unless missing cells of it are drawn."""
    known = _numbers(among)
    size = np.abs(known["mean"]).max() + known["sd"].max()
    drawn = [name for name in ("q", "r", "n") if f"mi({name}" in fit.program.formula.text]
    for place in (0, NEW_ROWS - 1):
        row = _row(new, place)
        if any(np.isnan(np.asarray(row[name], float)).any() for name in drawn):
            continue
        alone = _numbers(fit.predict(row, new_levels="sample", seed=1))["mean"][0]
        apart = abs(alone - known["mean"][place])
        if not apart <= ALONE * size:
            raise PromiseBroken(
                f"row {place + 1} alone has the mean {alone:.9g}, and among others "
                f"{known['mean'][place]:.9g}: {apart / size:.2g} of the size of predictions"
            )


def _steps(case: Case, folder: Path, kept: dict[str, Any]) -> Iterator[str]:
    """Do what a user does; yields the name of each step before it."""
    yield "model"
    networks = {"own": _network()} if case.networks else {}
    model = rf.Model(case.formula, family=case.family, priors=case.priors, networks=networks)
    yield "fit"
    fit = model.fit(
        case.table, method=case.method, draws=DRAWS, progress=False, seed=case.seed, **case.options
    )
    kept["method"] = fit.method
    complete = fit.rows.used == fit.rows.read
    if complete:
        yield "predict"
        _finite("predict", fit.predict(case.table))
        yield "predict a response"
        answer = fit.predict(case.table, kind="response", seed=2)
        _finite("predict a response", answer, ("sd",))
        yield "log_score"
        scores = np.asarray(fit.log_score(case.table), float)
        if np.isnan(scores).any() or (scores == np.inf).any():
            raise NotFinite(f"log_score: {scores[~np.isfinite(scores)][0]}")
    yield "predict new rows"
    among = fit.predict(case.new, new_levels="sample", seed=1)
    _finite("predict new rows", among)
    yield "predict a row alone"
    _stand_alone(fit, case.new, among)
    yield "predict new responses"
    answer = fit.predict(case.new, kind="response", new_levels="sample", seed=1)
    _finite("predict new responses", answer, ("sd",))
    yield "summary"
    _finite("summary", fit.summary())
    yield "check"
    kept["verdict"] = fit.check().verdict
    str(fit.check())
    if case.saves:
        yield "save"
        path = fit.save(folder / "fit.ranef")
        yield "load"
        later = rf.load(path)
        again = later.predict(case.new, new_levels="sample", seed=1)
        first, second = _numbers(among), _numbers(again)
        if any(not np.array_equal(first[name], second[name]) for name in first):
            raise PromiseBroken("a loaded fit does not predict what the fit predicted")


def outcome(case: Case, folder: Path, limit: float = LIMIT) -> Outcome:
    """What becomes of a case: never an exception."""
    began, step = time.process_time(), ""
    spent: dict[str, float] = {}
    kept: dict[str, Any] = {}
    word, said, trace = "fitted", "", ""
    try:
        with limited(limit) as begin, warnings.catch_warnings():
            # A warning is something to be said in a sentence, by check(), or not at all.
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", module="keras")
            since = began
            for name in _steps(case, folder, kept):
                now = time.process_time()
                if step:
                    spent[step] = now - since
                step, since = name, now
                begin()
    except rf.RanefError as error:
        word, said = "refused", str(error)
    except NotFinite as error:
        word, said = "nonfinite", str(error)
    except LimitReached:
        word, trace = "slow", traceback.format_exc()
    except Exception as error:
        word, said, trace = "raw", f"{type(error).__name__}: {error}", traceback.format_exc()
    seconds = time.process_time() - began
    spent[step] = seconds - sum(spent.values())
    slowest = max(spent, key=lambda each: spent[each])
    if word == "fitted" and spent[slowest] > limit:
        word, step = "slow", slowest
    if word == "slow":
        said = f"{spent[step]:.0f} s of processor time for {step}"
    return Outcome(
        word, step, said, seconds, spent, kept.get("method", ""), kept.get("verdict", ""), trace
    )
