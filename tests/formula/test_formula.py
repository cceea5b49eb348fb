"""Wilkinson notation means what lme4 and brms mean by it."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranef.errors import FormulaError, RanefError
from ranef.formula.formula import Formula


def common(text):
    """The products of the common term, "1" for the intercept."""
    terms = [t for t in Formula.parse(text).predictors[""] if t.kind == "common"]
    return [":".join(map(str, p)) or "1" for t in terms for p in t.arguments]


def labels(text):
    return [t.label for t in Formula.parse(text).predictors[""] if t.kind != "common"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y ~ 1", ["1"]),
        ("y ~ x", ["1", "x"]),
        ("y ~ 0 + x", ["x"]),
        ("y ~ x - 1", ["x"]),
        ("y ~ -1 + x", ["x"]),
        ("y ~ x + x", ["1", "x"]),
        ("y ~ a:b", ["1", "a:b"]),
        ("y ~ a*b", ["1", "a", "b", "a:b"]),
        ("y ~ a*b*c", ["1", "a", "b", "c", "a:b", "a:c", "b:c", "a:b:c"]),
        ("y ~ a*b - a:b", ["1", "a", "b"]),
        ("y ~ (a + b)**2", ["1", "a", "b", "a:b"]),
        ("y ~ (a + b)^2", ["1", "a", "b", "a:b"]),
        ("y ~ a/b", ["1", "a", "a:b"]),
        ("y ~ a + b:a + a:b", ["1", "a", "b:a"]),
        ("y ~ log( x )+ I(x ** 2)", ["1", "log(x)", "I(x**2)"]),
        ("y ~ poly(x,2):C(z)", ["1", "poly(x, 2):C(z)"]),
        ("y ~ `odd name` + log.radon", ["1", "odd name", "log.radon"]),
        ("y ~ größe", ["1", "größe"]),
    ],
)
def test_common_effects(text, expected):
    assert common(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y ~ (1 | g)", ["1 | g"]),
        ("y ~ (x | g)", ["1 + x | g"]),
        ("y ~ (0 + x | g)", ["x | g"]),
        ("y ~ (x || g)", ["1 + x || g"]),
        ("y ~ (1 | a/b)", ["1 | a", "1 | a:b"]),
        ("y ~ (1 | a:b)", ["1 | a:b"]),
        ("y ~ (1 | g) + (1 | h) + offset(o)", ["1 | g", "1 | h", "offset(o)"]),
        ("y ~ nn(a, b, hidden=[5], l2=0.1)", ["nn(a, b, hidden=[5], l2=0.1)"]),
    ],
)
def test_other_terms(text, expected):
    assert labels(text) == expected


def test_no_intercept_and_no_column_leaves_no_common_term():
    assert common("y ~ 0 + (1 | g)") == []


@pytest.mark.parametrize(
    ("text", "form", "value", "companion"),
    [
        ("y ~ x", "plain", "y", None),
        ("log(y) ~ x", "plain", "log(y)", None),
        ("s / n ~ x", "trials", "s", "n"),
        ("se(y, s) ~ 1", "se", "y", "s"),
        ("weights(y, w) ~ 1", "weights", "y", "w"),
        ("cbind(s, f) ~ 1", "trials", "s", "s + f"),
        ("cbind(s, n - s) ~ 1", "trials", "s", "n"),
    ],
)
def test_response_forms(text, form, value, companion):
    response = Formula.parse(text).response
    assert response.form == form
    assert str(response.value) == value
    assert (None if response.companion is None else str(response.companion)) == companion


@pytest.mark.parametrize("break_", ["; sigma ~ x", "\nsigma ~ x", " +\n (1 | g)\n sigma ~ x;\n"])
def test_parts_are_separated_by_semicolon_or_new_line(break_):
    predictors = Formula.parse("y ~ a" + break_).predictors
    assert list(predictors) == ["", "sigma"]
    assert [str(e) for e in predictors["sigma"][0].expressions()] == ["x"]


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("y ~ x +", "ends too early", 7),
        ("y ~ (1 | g", "ends too early", 10),
        ("y x", "needs '~'", 2),
        ("y ~ x | g", "in brackets", 6),
        ("y ~ foo(x)", "no function foo()", 4),
        ("y ~ lag(x)", "did you mean 'log'", 4),
        ("y ~ x; mi(x) ~ z", "no term mi(x) is there to take this model", 7),
        ("y ~ mi(log(x))", "mi() takes one column by its name", 4),
        ("y ~ mi(x, k=3)", "mi() has no option 'k'", 4),
        ("y ~ mi(x); mi(x) ~ z; mi(x) ~ w", "'x' has two predictors", 22),
        ("y ~ __import__('os')", "no function __import__()", 4),
        ("y ~ 2", "2 is not a term", 4),
        ("y ~ x $ z", "'$' is not expected", 6),
        ("y ~ (1 | log(g))", "must be a column", 9),
        ("y ~ (1 | g) + (1 | g)", "appears twice", 15),
        ("y ~ nn(x):z", "cannot be part of an interaction", 4),
        ("1 ~ x", "must name a column", 0),
        ("cbind(s) ~ x", "cbind() takes two columns, successes and failures", 0),
        ("y ~ x > 3", "write a comparison in I(), as in 'I(x > 3)'", 6),
        ("y ~ (x > 3)", "write the comparison in I(), as in I(x > 3)", 5),
        ("y ~ log(x > 3)", "write the comparison in I(), as in I(x > 3)", 8),
        ("y ~ C(f, base=3)", "C() has no option 'base'; it takes ref, levels and contrast", 4),
        ("y ~ C(f, levels=a)", "C(levels=...) must list the levels", 4),
        ("y ~ C(f) + x:C(f, ref=a)", "C(f) is coded in two ways", 13),
        ("y ~ x; sigma ~ x; sigma ~ z", "two predictors", 18),
    ],
)
def test_an_error_has_a_caret_under_the_place(text, message, column):
    with pytest.raises(FormulaError) as caught:
        Formula.parse(text)
    sentence, line, caret = str(caught.value).split("\n")
    assert message in sentence
    assert line == f"  {text}"
    assert caret.index("^") == column + 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "y ~ " + "(" * 100 + "x" + ")" * 100,
        "y ~ " + "+".join(f"x{i}" for i in range(2000)),
        "y ~ " + "*".join(f"x{i}" for i in range(30)),
        "y ~ " + ":".join(f"x{i}" for i in range(500)),
        "y ~ (a + b)**99",
        "y ~ " + "x" * 30_000,
        "y ~ 1e999",
        "y ~ x ~ z",
    ],
)
def test_empty_and_oversized_formulas_are_refused(text):
    with pytest.raises(FormulaError):
        Formula.parse(text)


def test_a_formula_must_be_text():
    with pytest.raises(FormulaError, match="not int"):
        Formula.parse(3)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="yxg123~+-*/:|() ^,=[]'`;\nlogI.", max_size=40))
def test_any_text_parses_or_is_refused_with_our_error(text):
    with contextlib.suppress(RanefError):
        assert Formula.parse(text).predictors
