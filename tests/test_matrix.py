"""Model matrices as R's model.matrix makes them."""

import numpy as np
import pytest

from ranef import matrix
from ranef.errors import DataError
from ranef.formula import Formula
from ranef.tables import read

TABLE = {
    "x": np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    "f": np.array(["b", "a", "c", "a", "b", "c"]),
    "k": np.array([2, 10, 2, 10, 2, 10]),
}


def built(text, table=TABLE, new=None):
    products = Formula.parse(f"y ~ {text}").predictors[""][0].arguments
    learned = matrix.finish(matrix.scan(None, products, read(table)), products)
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
    ],
)
def test_names_and_rank(text, names):
    got, columns = built(text)
    assert got == names
    assert columns.shape == (6, len(names))


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
