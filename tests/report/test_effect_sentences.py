"""Sentences about effects: signs, units and wording by family and link, numbers worked by hand."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import ranef as rf
from ranef.report.amounts import Amounts, plain
from ranef.report.column_roles import roles
from ranef.report.effect_sentences import EffectSentences
from ranef.report.group_sentences import group_sentences
from ranef.report.outcomes import Outcomes

AMOUNTS = Amounts(0.9)
# Draws whose mean is 2 and whose 90% interval is 1.1 to 2.9.
AROUND_TWO = np.linspace(1.0, 3.0, 2001)


def told(formula: str, family: str | rf.Mixture, categories: tuple[str, ...] = ()) -> Outcomes:
    """The outcomes of a model that was not fitted."""
    program = rf.Model(formula, family).program
    state = SimpleNamespace(family=SimpleNamespace(categories=categories))
    return Outcomes(
        SimpleNamespace(program=program, training=SimpleNamespace(state=state)), AMOUNTS
    )


def test_amounts_have_two_digits_of_their_interval():
    assert AMOUNTS.difference(AROUND_TWO) == "+2.00, 90% interval 1.10 to 2.90"
    assert AMOUNTS.difference(-AROUND_TWO) == "-2.00, 90% interval -2.90 to -1.10"
    assert AMOUNTS.difference(1e4 * AROUND_TWO) == "+20,000, 90% interval 11,000 to 29,000"
    assert AMOUNTS.size(1e-3 * AROUND_TWO) == "0.00200, 90% interval 0.00110 to 0.00290"
    assert AMOUNTS.points(0.01 * AROUND_TWO) == (
        "+2.00 percentage points, 90% interval 1.10 to 2.90"
    )
    assert AMOUNTS.times(np.log(2) * (AROUND_TWO - 1), "many") == (
        "2.0 times as many, 90% interval 1.1 to 3.7"
    )
    assert AMOUNTS.times(np.full(9, np.log(0.5)), "high") == (
        "0.50 times as high (without an interval)"
    )
    assert AMOUNTS.times(np.full(9, 40.0), "high").startswith("over a million times as high")
    assert AMOUNTS.difference(np.full(9, -1.5)) == "-1.50 (without an interval)"
    assert AMOUNTS.is_open(AROUND_TWO - 2)
    assert not AMOUNTS.is_open(AROUND_TWO)
    assert [plain(v) for v in (3.0, 0.25, 12345.0, 1e-5)] == ["3", "0.25", "12,345", "1e-05"]


@pytest.mark.parametrize(
    ("formula", "family", "said"),
    [
        ("y ~ x", "gaussian", "y +0.30, 90% interval"),
        ("y ~ x", "student", "y +0.30, 90% interval"),
        ("log(y) ~ x", "gaussian", "y is 1.35 times as large, 90% interval"),
        ("log2(y) ~ x", "gaussian", "y is 1.23 times as large, 90% interval"),
        ("sqrt(y) ~ x", "gaussian", "sqrt(y) +0.30, 90% interval"),
        ("y ~ x", "lognormal", "y is 1.35 times as large, 90% interval"),
        ("y ~ x", "gamma", "y is 1.35 times as large, 90% interval"),
        ("y ~ x", "exponential", "y is 1.35 times as large, 90% interval"),
        ("y ~ x", "poisson", "y 1.35 times as many, 90% interval"),
        ("y ~ x", "negative_binomial", "y 1.35 times as many, 90% interval"),
        ("y ~ x", "zero_inflated_poisson", "y 1.35 times as many, 90% interval"),
        ("y ~ x", "bernoulli", "the odds of y = yes are 1.35 times as high, 90% interval"),
        ("s / n ~ x", "binomial", "the odds of a success (s / n) are 1.35 times as high, 90%"),
        ("y ~ x", "beta", "the odds of y are 1.35 times as high, 90% interval"),
        ("y ~ x", "ordinal", "the odds of a higher category of y are 1.35 times as high, 90%"),
        ("y ~ x", rf.Mixture("gaussian", k=2), "in component 1, y +0.30, 90% interval"),
        ("y ~ x", rf.Mixture("poisson", k=2), "in component 1, y 1.35 times as many, 90%"),
    ],
)
def test_each_link_has_its_words(formula, family, said):
    difference = 0.3 + 0.2 * (AROUND_TWO - 2)
    outcome = told(formula, family, ("no", "yes")).all()[0]
    assert outcome.phrase(difference, AMOUNTS).startswith(said)
    assert outcome.is_location


def test_other_parameters_are_named_and_come_last():
    found = told("y ~ x; sigma ~ z", "gaussian").all()
    assert [outcome.parameter for outcome in found] == ["mu", "sigma"]
    log = 0.3 + 0.2 * (AROUND_TWO - 2)
    assert found[1].phrase(log, AMOUNTS).startswith("sigma (the residual scale) is 1.35 times as")
    mixed = told("y ~ x; mix ~ z", rf.Mixture("gaussian", k=2)).all()
    assert [o.parameter for o in mixed] == ["mu1", "mu2", "mix2"]
    assert (
        mixed[2]
        .phrase(log, AMOUNTS)
        .startswith("the odds of component 2 against component 1 are 1.35 times as high")
    )


def test_roles_say_what_a_column_stands_with():
    program = rf.Model("y ~ x*f + log(z) + s(t) + gp(a, b) + (1 + x + w | g)").program
    found = roles(SimpleNamespace(program=program), "mu")
    assert list(found) == ["x", "f", "z", "t", "a", "b"]
    assert list(found["x"].partners) == ["f"]
    assert list(found["x"].groupings) == ["g"]
    assert (list(found["a"].partners), found["t"].kinds) == (["b"], {"s", "common"})


@pytest.fixture(scope="module")
def gaussian(grouped):
    return rf.Model("y ~ x*f + z + (1 + x | g)").fit(grouped, progress=False)


def numbers(text: str) -> list[str]:
    """The numbers of a text but those of "95% interval"."""
    return re.findall(r"[+-]?\d[\d,]*\.?\d*", text.replace("95% interval", ""))


def close(text: str, values: np.ndarray) -> None:
    """The numbers of a text are these, rounded to the digits that are written."""
    said = [number.replace(",", "") for number in numbers(text)]
    assert len(said) == len(values), text
    for number, value in zip(said, values, strict=True):
        decimals = len(number.partition(".")[2])
        assert float(number) == pytest.approx(value, abs=0.51 * 10.0**-decimals), text


def described(draws: np.ndarray) -> np.ndarray:
    """Mean and 95% interval."""
    return np.array([draws.mean(), *np.quantile(draws, [0.025, 0.975])])


def test_gaussian_sentences_are_those_of_the_coefficients(gaussian):
    draws = {name: v.to_numpy()[0] for name, v in gaussian.posterior.data_vars.items()}
    x, f, xf, z = (draws[name] for name in ("x", "f", "x:f", "z"))
    lines = EffectSentences(gaussian).all()
    assert len(lines) == 4
    opening = "The effect of x depends on f. x higher by 1: where f is a, y "
    assert lines[0].startswith(opening)
    parts = lines[0].removeprefix("The effect of x depends on f. x higher by 1: ").split("; ")
    for part, level, own in zip(parts, "abc", (x, x + xf[:, 0], x + xf[:, 1]), strict=True):
        assert part.startswith(f"where f is {level}, y +")
        close(part.partition("y ")[2].rstrip("."), described(own))
    assert lines[1].startswith("The effect of f depends on x. f b instead of a: where x is -1.")
    assert lines[2].startswith("f c instead of a: where x is -1.")
    low, high = (part.partition("where x is ")[2] for part in lines[2].split("; "))
    for part in (low, high):
        at, said = part.split(", y ")
        own = described(f[:, 1] + float(at) * xf[:, 1])
        close(said.partition(" (its")[0].rstrip("."), own)
    assert lines[3].startswith("z higher by 1: y ")
    close(lines[3].partition(": y ")[2].partition(" (its")[0].rstrip("."), described(z))


def test_groups_differ_by_their_sds(gaussian):
    first, second = group_sentences(gaussian)
    share = gaussian.summary().loc["share(g)", "mean"]
    assert first.startswith("g: the 12 levels differ in y with an sd of ")
    assert first.endswith(f"They explain {share:.0%} of the variance.")
    intercepts, slopes = (gaussian.posterior[f"{n}|g_sigma"].to_numpy().ravel() for n in "1x")
    close(first.partition("sd of ")[2].partition(". They")[0], described(intercepts))
    assert second.startswith("The effect of x differs between the 12 levels of g, with an sd of ")
    close(second.partition("sd of ")[2].rstrip("."), described(slopes))


@pytest.mark.long
def test_probabilities_change_by_the_average_over_the_rows(grouped):
    fit = rf.Model("hit ~ x + (1 | g)").fit(grouped, progress=False)
    (line,) = EffectSentences(fit).all()
    draws = {name: v.to_numpy()[0] for name, v in fit.posterior.data_vars.items()}
    slope = draws["x"]
    opening = "x higher by 1: the odds of hit = yes are "
    middle = "; on average over the rows the probability of hit = yes changes by "
    assert line.startswith(opening)
    odds, points = line.removeprefix(opening).split(middle)
    close(odds.replace(" times as high", ""), np.exp(described(slope)))
    levels = list(fit.posterior["1|g"].coords["g__factor_dim"].to_numpy())
    codes = np.array([levels.index(g) for g in grouped["g"]])
    eta = draws["Intercept"][:, None] + np.outer(slope, grouped["x"]) + draws["1|g"][:, codes]
    change = (1 / (1 + np.exp(-eta - slope[:, None])) - 1 / (1 + np.exp(-eta))).mean(axis=1)
    close(points.rstrip("."), 100 * described(change))
    (groups,) = group_sentences(fit)
    assert groups.startswith(
        "g: the 12 levels differ; one sd above the average level, the odds of hit = yes are "
    )


def rows(n: int = 300) -> dict[str, np.ndarray]:
    """Rows with a wave, counts, grades, picks and two components, all of which x drives."""
    rng = np.random.default_rng(3)
    x, f = rng.uniform(1, 9, n), rng.choice(["a", "b"], n)
    first = rng.random(n) < 0.5
    noise = rng.logistic(size=n)
    return {
        "x": x,
        "f": f,
        "wave": np.sin(x) + rng.normal(0, 0.2, n),
        "count": rng.poisson(np.exp(0.2 * x - 0.5 * (f == "b"))),
        "grade": np.digitize(0.5 * (x - 5) + noise, [-1.0, 1.0]) + 1,
        "pick": np.array(list("uvw"))[np.digitize(0.5 * (x - 5) + noise, [-1.0, 1.0])],
        "mixed": np.where(first, 1 + 0.5 * x, 30 - 0.25 * x) + rng.normal(0, 0.5, n),
        "day": pd.date_range("2024-01-01", periods=n).to_numpy(),
        "rise": 0.5 * np.arange(n) + rng.normal(0, 1, n),
        "money": 1e5 * np.log(x) + rng.normal(0, 1e4, n),
    }


@pytest.mark.long
@pytest.mark.parametrize(
    ("formula", "family", "patterns"),
    [
        (
            "count ~ x + f",
            "poisson",
            [
                r"x higher by 1: count 1\.\d+ times as many, 95% interval 1\.\d+ to 1\.\d+\.",
                r"f b instead of a: count 0\.[56]\d* times as many, 95% interval 0\.\d+ to 0\.\d+.",
            ],
        ),
        (
            "grade ~ x",
            "ordinal",
            [
                r"x higher by 1: the odds of a higher category of grade are 1\.[4-9]\d* times as "
                r"high, .*; on average over the rows the probability of grade = 3 changes by "
                r"\+\d.* percentage points, 95% interval [\d.]+ to [\d.]+\."
            ],
        ),
        (
            "pick ~ x",
            "categorical",
            [
                r"x higher by 1: the probability of pick = u changes by -\d.*; that of pick = v "
                r".*; that of pick = w changes by \+\d.*"
            ],
        ),
        (
            "mixed ~ x",
            rf.Mixture("gaussian", k=2),
            [
                r"x higher by 1: in component 1, mixed \+0\.[45]\d*, .*; in component 2, mixed "
                r"-0\.[23]\d*, 95% interval -.* to -.*\."
            ],
        ),
        (
            "wave ~ s(x)",
            "gaussian",
            [
                r"Along x from 1\.\d+ to 8\.\d+, wave is on average over the rows lowest at x = "
                r"[45]\.\d+ and highest at x = (1\.\d+|8\.\d+|7\.\d+); the two differ by 1\.[6-9].*"
            ],
        ),
        (
            "rise ~ days(day)",
            "gaussian",
            [r"day later by 1 day: rise \+0\.(49|50)\d*, 95% interval 0\.\d+ to 0\.\d+\."],
        ),
        (
            "mixed ~ x*f*count",
            "gaussian",
            [
                r"The effect of x depends on f and count\. x higher by 1: on average over .*",
                r"The effect of f depends on x and count\. f b instead of a: on average over .*",
                r"The effect of count depends on x and f\. count higher by 1: on average over .*",
            ],
        ),
        (
            "money ~ log(x)",
            "gaussian",
            [r"x doubled: money \+(6|7)\d,\d{3}, 95% interval \d\d,\d{3} to \d\d,\d{3}\."],
        ),
        (
            "money ~ nn(x, f, hidden=[4])",
            "gaussian",
            [
                r"The effect of x depends on f\. x = 8\.\d+ instead of 1\.\d+: on average over the "
                r"rows money \+1\d\d,\d{3} \(without an interval\), along a curve\.",
                r"The effect of f depends on x\. f b instead of a: on average over the rows .*",
                r"nn\(x, f, hidden=\[4\]\): as its columns vary .* The weights of the network are "
                r"point estimates, whose uncertainty the interval leaves out\.",
            ],
        ),
        (
            "wave ~ 1; sigma ~ x",
            "gaussian",
            [
                r"x higher by 1: sigma \(the residual scale\) is [01]\.\d+ times as large, .*",
            ],
        ),
    ],
)
def test_every_kind_of_effect_is_said(formula, family, patterns):
    options = {"steps": 400} if "nn(" in formula else {}
    fit = rf.Model(formula, family).fit(rows(), progress=False, **options)
    lines = EffectSentences(fit).all()
    found = [line for line in lines if not line.endswith("on average.")]
    assert len(found) == len(patterns), lines
    for line, pattern in zip(found, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
