"""A "." in a new formula stands for what the old one has there, as in R's update."""

import pytest

from ranef.errors import FormulaError
from ranef.formula.formula import Formula
from ranef.formula.update import updated


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("y ~ x", ". ~ . + z", "y ~ x + z"),
        ("y ~ x + (1 | g)", ". ~ . - x", "y ~ (1 | g)"),
        ("y ~ x * z", ". ~ . - x:z", "y ~ x + z"),
        ("y ~ x + z", ". ~ .:w", "y ~ x:w + z:w"),
        ("y ~ x + z", ". ~ w*.", "y ~ w + x + z + w:x + w:z"),
        ("y ~ x + z", ". ~ (.)**2", "y ~ x * z"),
        ("y ~ x - 1", ". ~ . + z", "y ~ 0 + x + z"),
        ("y ~ x", "log(.) ~ .", "log(y) ~ x"),
        ("y / n ~ x", ". ~ 1", "y / n ~ 1"),
        ("y ~ x; sigma ~ z", ". ~ . + w", "y ~ x + w; sigma ~ z"),
        ("y ~ x\nsigma ~ z", ". ~ .; sigma ~ . + x", "y ~ x; sigma ~ z + x"),
        ("y ~ x", ". ~ .; sigma ~ x", "y ~ x; sigma ~ x"),
        ("y ~ x; sigma ~ z", "y ~ w", "y ~ w"),
        ("`a.b` ~ c.d + I(x > .5)", ". ~ . + C(f, ref='.')", None),
    ],
)
def test_the_formula_is_that_of_r(old, new, expected):
    found = Formula.parse(updated(old, new))
    if expected is None:
        assert found.text == "`a.b` ~ c.d + I(x > .5) + C(f, ref='.')"
        return
    wanted = Formula.parse(expected)
    assert str(found.response) == str(wanted.response)
    assert found.predictors.keys() == wanted.predictors.keys()
    for name, terms in wanted.predictors.items():
        assert [
            (t.label, {frozenset(map(str, a)) if isinstance(a, tuple) else a for a in t.arguments})
            for t in found.predictors[name]
        ] == [
            (t.label, {frozenset(map(str, a)) if isinstance(a, tuple) else a for a in t.arguments})
            for t in terms
        ]


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (". + x", "left ~ right"),
        (". ~", "left ~ right"),
        (". ~ .; sigma ~ . + x", "has no part 'sigma'"),
        (3, "a formula is a text"),
    ],
)
def test_what_is_no_change_is_said(new, said):
    with pytest.raises(FormulaError, match=said.replace(".", r"\.")):
        updated("y ~ x", new)
