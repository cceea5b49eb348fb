"""The arithmetic of hypotheses, against Python's own."""

import numpy as np
import pytest

from ranef import FormulaError
from ranef.effects.arithmetic import evaluated

KNOWN = {
    "a": np.array([1.0, 4.0]),
    "x|g[7]": np.array([2.0, 3.0]),
    "odd name": np.array([5.0, 6.0]),
}


def _of(text):
    return evaluated(text, KNOWN.get, lambda: list(KNOWN))


@pytest.mark.parametrize(
    ("text", "first", "relation"),
    [
        ("a + 2 * 3", 7.0, ""),
        ("-a^2", -1.0, ""),
        ("2^-a", 0.5, ""),
        ("2^3^2 - 511", 1.0, ""),
        ("(a + 1) / 4 = 0.5", 0.0, "="),
        ("x|g[7] > a", 1.0, ">"),
        ("`odd name` < 1e1", -5.0, "<"),
        ("exp(log(a)) - sqrt(4) + abs(-3)", 2.0, ""),
        ("expit(logit(0.25)) == .25", 0.0, "="),
        ("a - -a", 2.0, ""),
        ("8 / 2 / 2", 2.0, ""),
    ],
)
def test_values(text, first, relation):
    found = _of(text)
    assert np.ravel(found.difference)[0] == pytest.approx(first)
    assert found.relation == relation


@pytest.mark.parametrize(
    "text", ["", "a +", "a b", "(a", "a = b = a", "q", "a = q", "a; a", "sin(a)", "(" * 200 + "a"]
)
def test_what_is_no_hypothesis_is_refused(text):
    with pytest.raises(FormulaError, match="hypothesis"):
        _of(text)
