"""Model matrices as R's model.matrix makes them."""

import numpy as np
import pandas as pd
import pytest

from ranef.data.tables import read
from ranef.errors import DataError, OptionError
from ranef.formula import model_matrix
from ranef.formula.formula import Formula

TABLE = {
    "x": np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    "f": np.array(["b", "a", "c", "a", "b", "c"]),
    "k": np.array([2, 10, 2, 10, 2, 10]),
}


def built(text, table=TABLE, new=None):
    products = Formula.parse(f"y ~ {text}").predictors[""][0].arguments
    learned = model_matrix.finish(model_matrix.scan(None, products, read(table)), products)
    names = [n for c in learned.codings for n in ([f"{c.name}[{i}]" for i in c.names] or [c.name])]
    return names, learned.build(read(new if new is not None else table))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("f", ["Intercept", "f[b]", "f[c]"]),
        ("0 + f", ["f[a]", "f[b]", "f[c]"]),
        ("C(k)", ["Intercept", "C(k)[10]"]),
        ("k", ["Intercept", "k"]),
        ("x:f", ["Intercept", "x:f[a]", "x:f[b]", "x:f[c]"]),
        ("x*f", ["Intercept", "x", "f[b]", "f[c]", "x:f[b]", "x:f[c]"]),
        ("f*C(k)", ["Intercept", "f[b]", "f[c]", "C(k)[10]", "f:C(k)[b, 10]", "f:C(k)[c, 10]"]),
        ("f/C(k)", ["Intercept", "f[b]", "f[c]", *(f"f:C(k)[{i}, 10]" for i in "abc")]),
        ("poly(x, 2)", ["Intercept", "poly(x, 2)[1]", "poly(x, 2)[2]"]),
        ("poly(x, 1)", ["Intercept", "poly(x, 1)"]),
        ("factor(k) + as.factor(k)", ["Intercept", "C(k)[10]"]),
        ("C(f, ref='b')", ["Intercept", "C(f)[a]", "C(f)[c]"]),
        ("C(f, levels=[c, a, b])", ["Intercept", "C(f)[a]", "C(f)[b]"]),
        ("C(f, ref=a, levels=['c', 'a', 'b', 'unseen'])", ["Intercept", "C(f)[c]", "C(f)[b]"]),
        ("factor(f, levels=c('b', 'a', 'c'))", ["Intercept", "C(f)[a]", "C(f)[c]"]),
        ("C(k, ref=10)", ["Intercept", "C(k)[2]"]),
        ('I(f == "a") + I(x > 3)', ["Intercept", 'I(f == "a")', "I(x > 3)"]),
    ],
)
def test_names_and_rank(text, names):
    got, columns = built(text)
    assert got == names
    assert columns.shape == (6, len(names))


RNG = np.random.default_rng(5)
RANDOM = {
    "x": RNG.normal(size=400),
    "z": RNG.normal(size=400),
    "f": RNG.choice(["a", "b", "c"], 400),
    "h": RNG.choice(["u", "v"], 400),
    "k": RNG.choice(["p", "q", "r", "s"], 400),
    "b": RNG.random(400) < 0.5,
}

FORMULAS = """
f | 0 + f | f + h | 0 + f + h | 0 + h + f | f:h | 0 + f:h | f + f:h | h + f:h | 0 + f + f:h
f*h | 0 + f*h | 0 + h*f | f/h | 0 + f/h | f*h - f | f*h*k | 0 + f*h*k | f:h:k | 0 + f:h:k
f + h:k | 0 + f + h:k | f:h + h:k | 0 + f:h + h:k | f:h + h:k + f:k | x:f | 0 + x:f | x*f
0 + x*f | x:f:h | x + x:f:h | 0 + f + x:f | f:x + h:x | 0 + f:x + h:x | x:z:f + x:f | b*f | 0 + b
0 + b:x | b:x | 0 + f + b:h | poly(x, 2):f | poly(x, 2)*f | (f + h + k)**2 | 0 + (f + h + k)**2
(f + h + x)**3 - f:h | 0 + C(f, ref="b")*h | 0 + f + h + k | f*h - h | x:f + x:h + f:h
"""


def dummies(products):
    """Every product with a column for each combination of levels."""
    columns = []
    for product in products:
        block = np.ones((400, 1))
        for expression in product:
            name = expression.columns()[0]
            values = RANDOM[name]
            if values.dtype.kind == "f" and str(expression).startswith("poly"):
                own = np.column_stack([values - values.mean(), (values - values.mean()) ** 2])
                own -= own.mean(axis=0)
            elif values.dtype.kind == "f":
                own = values[:, None]
            else:
                own = (values[:, None] == np.unique(values)).astype(float)
            block = (block[:, :, None] * own[:, None, :]).reshape(400, -1)
        columns.append(block)
    return np.concatenate(columns, axis=1)


@pytest.mark.parametrize("text", [t.strip() for t in FORMULAS.replace("\n", "|").split("|") if t])
def test_columns_are_independent_and_span_what_all_dummies_do(text):
    _, columns = built(text, RANDOM)
    everything = dummies(Formula.parse(f"y ~ {text}").predictors[""][0].arguments)
    rank = np.linalg.matrix_rank(columns)
    assert rank == columns.shape[1]
    if "poly" in text:  # its columns are orthogonal polynomials of the same degree
        assert rank == np.linalg.matrix_rank(everything)
        return
    assert rank == np.linalg.matrix_rank(everything)
    assert np.linalg.matrix_rank(np.column_stack([columns, everything])) == rank


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0 + f + h", "fa fb fc hv"),
        ("0 + h + f", "hu hv fb fc"),
        ("0 + f*h", "fa fb fc hv fb:hv fc:hv"),
        ("0 + f + f:h", "fa fb fc fa:hv fb:hv fc:hv"),
        ("f/h", "(Intercept) fb fc fa:hv fb:hv fc:hv"),
        ("0 + h*f", "hu hv fb fc hv:fb hv:fc"),
        ("f + f:x", "(Intercept) fb fc fa:x fb:x fc:x"),
        ("f*h*x", "(Intercept) fb fc hv x fb:hv fc:hv fb:x fc:x hv:x fb:hv:x fc:hv:x"),
        ("h + f:h", "(Intercept) hv fb:hu fb:hv fc:hu fc:hv"),
        ("b*x", "(Intercept) bTRUE x bTRUE:x"),
        ("0 + b + x", "bFALSE bTRUE x"),
        ("0 + f + h + x", "fa fb fc hv x"),
    ],
)
def test_columns_are_those_of_r(text, names):
    """The names of model.matrix in R 4.3, whatever order an interaction has its columns in."""
    products = Formula.parse(f"y ~ {text}").predictors[""][0].arguments
    learned = model_matrix.finish(model_matrix.scan(None, products, read(RANDOM)), products)
    got = []
    for coding in learned.codings:
        combined = [""]
        for part in coding.parts:
            own = [f"{part.expression}{name}" for name in part.names]
            combined = [f"{a}:{b}".strip(":") for a in combined for b in own]
        got += [(c or "(Intercept)").replace("bTrue", "bTRUE") for c in combined]
    expected = names.replace("bFALSE", "bFalse").split()
    assert {frozenset(n.split(":")) for n in got} == {frozenset(n.split(":")) for n in expected}
    assert len(got) == len(expected)


def test_what_an_interaction_lacks_of_its_margins_has_names_of_its_own():
    names, _ = built("f:h", RANDOM)
    assert names == ["Intercept", "h[v]", "f:h[b, u]", "f:h[b, v]", "f:h[c, u]", "f:h[c, v]"]


def test_an_interaction_of_many_factors_is_refused():
    table = {f"f{i}": np.array(["a", "b"]) for i in range(13)}
    with pytest.raises(DataError, match="joins 13 factors, more than 12"):
        built(":".join(table), table)


def test_the_reference_and_the_levels_of_a_factor_can_be_chosen():
    with pytest.raises(
        DataError, match=r"ref='z'\) names no level of the column 'f', which has 'a'"
    ):
        built("C(f, ref=z)")
    with pytest.raises(
        DataError, match="leaves out 'c', and the column 'f' has the levels 'a', 'b'"
    ):
        built("C(f, levels=[a, b])")


def test_declared_orders_are_those_of_the_levels():
    f = pd.Categorical(TABLE["f"], ["unused", "c", "a", "b"])
    assert built("f", {"f": f})[0] == ["Intercept", "f[a]", "f[b]"]
    assert built("f", {"f": TABLE["f"]})[0] == ["Intercept", "f[b]", "f[c]"]


def test_comparisons_are_ones_and_zeros():
    _, columns = built('I(x >= 3) + I(f != "a") + I(k == "2")')
    x, f, k = TABLE["x"], TABLE["f"], TABLE["k"]
    np.testing.assert_array_equal(columns[:, 1:], np.column_stack([x >= 3, f != "a", k == 2]))
    with pytest.raises(OptionError, match="texts are compared by == and !="):
        built('I(f > "a")')


def test_true_and_false_are_two_levels_and_count_as_one_and_zero_in_arithmetic():
    table = {"b": np.array([True, False, True]), "x": np.array([1.0, 2.0, 3.0])}
    names, columns = built("0 + b:x + I(b + 1)", table)
    assert names == ["b:x[False]", "b:x[True]", "I(b + 1)"] or names[0] == "I(b + 1)"
    np.testing.assert_array_equal(columns[:, names.index("I(b + 1)")], [2, 1, 2])


@pytest.mark.parametrize("text", ["{}%", "{},000", "$ {}", "{}.5", "1,{}", "({},5)"])
def test_numbers_written_as_text_are_named(text):
    values = np.array([text.format(100 + i) for i in range(40)])
    with pytest.raises(
        DataError, match=r"column 'x' holds numbers written as text, such as '.*' in"
    ):
        built("x", {"x": values})
    assert built("C(x)", {"x": values})[1].shape == (40, 40)
    few = np.array([text.format(100 + i) for i in range(3)] * 5)
    assert built("x", {"x": few})[1].shape == (15, 3)


def test_ids_as_text_are_no_numbers_written_as_text():
    assert built("x", {"x": np.array([f"{i:05}" for i in range(40)])})[1].shape == (40, 40)


def test_treatment_contrasts():
    _, columns = built("x*f")
    is_b, is_c = TABLE["f"] == "b", TABLE["f"] == "c"
    x = TABLE["x"]
    expected = np.column_stack([np.ones(6), x, is_b, is_c, x * is_b, x * is_c])
    np.testing.assert_array_equal(columns, expected)


def test_new_rows_are_coded_by_the_training_levels():
    _, columns = built("f", new={"x": np.ones(1), "f": np.array(["c"]), "k": np.ones(1)})
    np.testing.assert_array_equal(columns, [[1.0, 0.0, 1.0]])


def test_levels_that_cannot_be_used_are_named():
    with pytest.raises(DataError, match="level 'z' of 'f' in row 1 was not in the training"):
        built("f", new={"f": np.array(["z"])})
    with pytest.raises(DataError, match="has one level, 'a'"):
        built("f", table={"f": np.array(["a", "a"])})
