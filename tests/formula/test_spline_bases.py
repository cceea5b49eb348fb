"""bs() and ns() have the values of R's functions of the same names."""

import numpy as np
import pytest

from ranef.data.tables import read
from ranef.errors import DataError, FormulaError
from ranef.formula import spline_bases, transforms
from ranef.formula.formula import Formula

X = np.array([0.3, 1.1, 1.9, 2.2, 3.7, 4.4, 5.8, 6.1, 7.5, 9.2, 9.9, 12.4])
NEW = np.array([-1.0, 0.3, 2.0, 5.0, 12.4, 14.0])
# predict(bs(x, ...), new) and predict(ns(x, ...), new) of R 4.5, row by row.
OF_R = {
    "bs(x, df=5)": """
        -2.377720995238617 0.349949095444612 -0.009991026115217 0 0   0 0 0 0 0
        0.588436388735907 0.318369753269194 0.022342244562614 0 0
        0.029084158415842 0.563700712956671 0.386748715256472 0.020466413371016 0
        0 0 0 0 1   0 -0.006307684410451 0.170793190370869 -1.233675849983741 2.069190344023323""",
    "bs(x, degree=2, knots=[2, 6])": """
        -2.288593455958235 0.174406604747162 0 0   0 0 0 0
        0.701754385964912 0.298245614035088 0 0
        0.043859649122807 0.739794197031039 0.216346153846154 0
        0 0 0 1   0 0.038461538461538 -0.600961538461538 1.5625""",
    "bs(x, 4, boundary=[0, 15])": """
        -7.537643892620485e-01 4.352172241445597e-02 -8.714596949891060e-04 0
        1.628568288214940e-01 3.413148788927336e-03 2.352941176470588e-05 0
        6.460320691136895e-01 1.224144559784698e-01 6.971677559912856e-03 0
        4.489223601782119e-01 4.421376393694733e-01 1.089324618736384e-01 0
        7.890460157126820e-03 1.088294935890895e-01 4.823551767032637e-01 4.009248695505201e-01
        4.489337822671156e-04 1.862394993708125e-02 2.543789079448706e-01 7.265482083357812e-01""",
    "ns(x, df=4)": """
        0 0.174443804116797 -0.459011350497270 0.284567546380473   0 0 0 0
        0.073553409686354 -0.181236552453210 0.476885006734424 -0.295648454281214
        0.665685459091601 0.062025559381356 0.189476164589090 -0.117467176348225
        0 -0.154116516190667 0.405524464389968 0.748592051800699
        0 -0.586072075153473 0.469496912834001 1.116575162319473""",
    "ns(x, knots=c(2, 6), boundary=[1, 10])": """
        0.263624865098248 -0.790874595294744 0.527249730196496
        0.092268702784387 -0.276806108353161 0.184537405568774
        -0.096531686075412 0.356261724892902 -0.237507816595268
        0.352889626673194 0.465810286647084 -0.240227691098056
        -0.785714285714286 0.557142857142857 1.228571428571429
        -1.214285714285714 0.642857142857143 1.571428571428572""",
    "ns(x)": "-0.0861420531783848 0 0.1126473003101954 0.3114366537987755 0.8017837257372731 "
    "0.9078047142645158",
}


def learned(text, *batches):
    (term,) = Formula.parse(f"y ~ 0 + {text}").predictors[""]
    expression = term.arguments[0][0]
    calls = transforms.stateful_calls([expression])
    seen = None
    for batch in batches:
        seen = transforms.accumulate(seen, calls, read({"x": batch}))
    return expression, transforms.finish(seen, calls)


@pytest.mark.parametrize("text", OF_R)
def test_values_are_those_of_r(text):
    expression, state = learned(text, X[:5], X[5:])
    found = transforms.evaluate(expression, read({"x": NEW}), state)
    expected = np.array(OF_R[text].split(), float).reshape(len(NEW), -1)
    np.testing.assert_allclose(found, expected, atol=2e-14)


def test_neither_unit_nor_origin_of_the_column_matters():
    expression, state = learned("ns(x, df=4)", X)
    far, other = learned("ns(x, df=4)", 1e6 + 1e-3 * X)
    found = transforms.evaluate(expression, read({"x": NEW}), state)
    moved = transforms.evaluate(far, read({"x": 1e6 + 1e-3 * NEW}), other)
    np.testing.assert_allclose(moved, found, atol=1e-6)


def test_quantiles_of_many_values_stay_close(monkeypatch):
    monkeypatch.setattr(spline_bases, "_MOST_VALUES", 1_000)
    x = np.random.default_rng(3).gamma(2.0, size=6_000)
    _, state = learned("ns(x, df=4)", *np.split(x, 12))
    low, high, *inner = state["ns(x, df=4)"]
    assert (low, high) == (x.min(), x.max())
    ranks = [(x < knot).mean() for knot in inner]
    np.testing.assert_allclose(ranks, [0.25, 0.5, 0.75], atol=0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bs(x, df=2)", "from 3 to 100, since its degree is 3"),
        ("ns(x, df=0)", "from 1 to 100"),
        ("bs(x, degree=9)", "a number from 1 to 8"),
        ("bs(x, knots=[2, 1])", "takes numbers that grow"),
        ("bs(x, knots=[1, 2], df=9)", "2 knots make 5 columns, not df=9"),
        ("ns(x, degree=2)", "no option 'degree'; it takes df, knots, boundary"),
        ("bs(x, boundary=[1])", "takes two numbers"),
        ("bs(x, 4, 5)", "takes one column"),
        ("log(bs(x))", "must stand by itself"),
    ],
)
def test_bases_that_there_are_not_are_refused(text, message):
    with pytest.raises(FormulaError) as caught:
        Formula.parse(f"y ~ {text}")
    assert message in str(caught.value)


def test_columns_without_enough_values_are_named():
    with pytest.raises(DataError, match="the column x has one value, 2; leave the term out"):
        learned("bs(x)", np.full(5, 2.0))
    with pytest.raises(DataError, match="quantiles, coincide; take a smaller df"):
        learned("bs(x, df=6)", np.r_[np.zeros(50), X])
    with pytest.raises(DataError, match=r"must lie between 0.3 and 12.4"):
        learned("ns(x, knots=[20])", X)
