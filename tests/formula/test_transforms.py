"""Stateful functions learn from batches what they learn from the whole, and replay it."""

import numpy as np
import pytest

from ranef.data.tables import read
from ranef.errors import DataError, OptionError
from ranef.formula import transforms
from ranef.formula.formula import Formula


def expression(text):
    (term,) = Formula.parse(f"y ~ 0 + {text}").predictors[""]
    return term.arguments[0][0]


def learned(text, *batches):
    e = expression(text)
    calls = transforms.stateful_calls([e])
    seen = None
    for batch in batches:
        seen = transforms.accumulate(seen, calls, read({"x": batch}))
    return e, transforms.finish(seen or {}, calls)


X = np.random.default_rng(1).gamma(2.0, 3.0, 200)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log(x)", np.log(X)),
        ("log10(x)", np.log10(X)),
        ("exp(x)", np.exp(X)),
        ("sqrt(x)", np.sqrt(X)),
        ("I(x**2 / 3 - 1)", X**2 / 3 - 1),
        ("I(-x)", -X),
        ("I(2 * (x + 1))", 2 * (X + 1)),
        ("center(x)", X - X.mean()),
        ("scale(x)", (X - X.mean()) / X.std(ddof=1)),
        ("log(scale(x) + 9)", np.log((X - X.mean()) / X.std(ddof=1) + 9)),
    ],
)
def test_values(text, expected):
    e, state = learned(text, X[:50], X[50:])
    got = transforms.evaluate(e, read({"x": X}), state)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


def test_poly_is_orthonormal_on_training_rows_and_replays_on_new_ones():
    e, state = learned("poly(x, 3)", X[:70], X[70:])
    basis = transforms.evaluate(e, read({"x": X}), state)
    with_mean = np.column_stack([np.full(len(X), 1 / np.sqrt(len(X))), basis])
    np.testing.assert_allclose(with_mean.T @ with_mean, np.eye(4), atol=1e-10)
    new = transforms.evaluate(e, read({"x": X[:3]}), state)
    np.testing.assert_allclose(new, basis[:3])


def test_scale_keeps_its_digits_far_from_zero():
    far = 1e9 + X
    e, state = learned("scale(x)", far[:50], far[50:])
    got = transforms.evaluate(e, read({"x": far}), state)
    np.testing.assert_allclose(got, (X - X.mean()) / X.std(ddof=1), atol=1e-6)


def test_what_is_not_finite_names_the_expression_and_the_row():
    e, state = learned("log(x)", X)
    with pytest.raises(DataError, match=r"log\(x\) is not a finite number in 1 of 3 rows.*row 2"):
        transforms.evaluate(e, read({"x": np.array([1.0, -1.0, 2.0])}), state)


def test_misuse_is_refused():
    with pytest.raises(OptionError, match="inside"):
        learned("scale(center(x))", X)
    with pytest.raises(OptionError, match="degree from 1 to 8"):
        learned("poly(x, 20)", X)
    with pytest.raises(DataError, match="too few distinct values"):
        learned("scale(x)", np.ones(5))
    with pytest.raises(DataError, match="too few distinct values"):
        learned("poly(x, 3)", np.array([1.0, 2.0, 1.0, 2.0]))
