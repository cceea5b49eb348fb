"""Predictions of rows with odd values: a finite number, or a sentence that names row and column."""

import warnings

import numpy as np
import pandas as pd
import pytest

import ranef as rf

N = 60
RNG = np.random.default_rng(4)
X, Z, F = RNG.normal(size=N), RNG.uniform(1, 9, size=N), RNG.choice(["a", "b"], N)
G, T = RNG.integers(0, 5, N), RNG.integers(5, 20, N)
ETA = 0.5 * X + 0.1 * Z
Y = ETA + 0.5 * RNG.normal(size=N)
TABLE = {
    **{"x": X, "z": Z, "f": F, "g": G, "t": T, "s": RNG.uniform(0.5, 1.5, N), "y": Y},
    **{"c": RNG.poisson(np.exp(ETA)), "k": RNG.binomial(T, 0.4), "p": np.exp(Y)},
    **{"u": 1 / (1 + np.exp(-Y)), "b": RNG.integers(0, 2, N)},
}
MODELS = {
    "line": ("y ~ x + f + (1 | g)", "gaussian"),
    "poly": ("y ~ poly(x, 2)", "gaussian"),
    "spline": ("y ~ s(x, k=5)", "gaussian"),
    "functions": ("y ~ log(z) + I(x**2) + exp(x) + x:z", "gaussian"),
    "se": ("se(y, s) ~ x", "gaussian"),
    "weights": ("weights(y, s) ~ x", "gaussian"),
    "sigma": ("y ~ x; sigma ~ z", "gaussian"),
    "trials": ("k / t ~ x", "binomial"),
    "poisson": ("c ~ x + offset(z)", "poisson"),
    "negative_binomial": ("c ~ x", "negative_binomial"),
    "zero_inflated": ("c ~ x", "zero_inflated_poisson"),
    "gamma": ("p ~ x", "gamma"),
    "beta": ("u ~ x", "beta"),
    "lognormal": ("p ~ x", "lognormal"),
    "exponential": ("p ~ x", "exponential"),
    "bernoulli": ("b ~ x", "bernoulli"),
}
ODD = [
    *(1.7e308, -1e308, 1e160, 1e30, -1e30, 1e15, 5e-324, 1e-310, 0.0, np.inf, np.nan, None),
    *("x", "", b"z", 1 + 2j, [1.0, 2.0], {}, 10**40, 2**63, pd.Timestamp("2020"), float),
]


@pytest.fixture(scope="module", params=MODELS)
def fit(request) -> rf.Fit:
    formula, family = MODELS[request.param]
    return rf.Model(formula, family=family).fit(TABLE, draws=40, progress=False)


def rows(column: str, odd: object, places: tuple[int, ...]) -> dict:
    out: dict = {name: list(values[:3]) for name, values in TABLE.items()}
    for place in places:
        out[column][place] = odd
    return out


def test_an_odd_value_is_predicted_from_or_refused(fit):
    for column in fit.program.needs():
        for odd in ODD:
            for places in ((1,), (0, 1, 2)):
                for kind in ("mean", "response", "score"):
                    table = rows(column, odd, places)
                    with warnings.catch_warnings():
                        warnings.simplefilter("error")
                        try:
                            found = (
                                fit.log_score(table, new_levels="sample")
                                if kind == "score"
                                else fit.predict(table, kind=kind, new_levels="sample")
                                .select_dtypes("number")
                                .to_numpy()
                            )
                        except rf.RanefError:
                            continue
                    # A response that cannot be has the log density minus infinity.
                    fine = ~np.isnan(found) if kind == "score" else np.isfinite(found)
                    assert fine.all(), (column, odd, places, kind)


def fitted(name: str) -> rf.Fit:
    formula, family = MODELS[name]
    return rf.Model(formula, family=family).fit(TABLE, draws=40, progress=False)


def test_the_sentence_names_row_and_column():
    line, se, trials = fitted("line"), fitted("se"), fitted("trials")
    with pytest.raises(rf.DataError, match="row 2 is not a finite number .* column 'x'"):
        line.predict(rows("x", 1.7e308, (1,)))
    with pytest.raises(rf.DataError, match="s is 1e-310 in row 2, too small to be squared"):
        se.predict(rows("s", 1e-310, (1,)), kind="response")
    with pytest.raises(rf.DataError, match="s is 1e.160 in row 3, too large to be squared"):
        se.predict(rows("s", 1e160, (2,)), kind="response")
    with pytest.raises(rf.DataError, match="t is 1e.30 in row 2, too large to be counted"):
        trials.predict(rows("t", 1e30, (1,)), kind="response")
    with pytest.raises(rf.DataError, match=r"poly\(x, 2\) takes one number in each row"):
        fitted("poly").predict(rows("x", [1.0, 2.0], (0, 1, 2)))


def test_what_is_large_but_in_reach_is_predicted():
    found = fitted("line").predict(rows("x", 1e100, (1,)))
    assert 1e98 < found["mean"].iloc[1] < 1e101
    assert np.isfinite(found.to_numpy()).all()


@pytest.mark.parametrize("groups", [(None,), (3,), ([],), ("nothing",), ({},)])
def test_odd_groups_of_the_datatree_are_refused(groups):
    with pytest.raises(rf.OptionError):
        fitted("line").extend(*groups)
