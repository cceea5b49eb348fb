"""Contrasts are those of R: their matrices, their coefficients, and what they say of a table."""

import numpy as np
import pandas as pd
import pytest

import ranef as rf
from ranef.check.cells import empty_cells
from ranef.data.tables import read
from ranef.errors import DataError, FormulaError
from ranef.formula import contrasts, model_matrix
from ranef.formula.formula import Formula

# contr.NAME(4) of R 4.5, and contr.sdif(4) of MASS 7.3.
OF_R = {
    "treatment": [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "sum": [[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, -1]],
    "helmert": [[-1, -1, -1], [1, -1, -1], [0, 2, -1], [0, 0, 3]],
    "poly": [
        [-0.6708203932, 0.5, -0.2236067977],
        [-0.2236067977, -0.5, 0.6708203932],
        [0.2236067977, -0.5, -0.6708203932],
        [0.6708203932, 0.5, 0.2236067977],
    ],
    "sdif": [
        *([-0.75, -0.5, -0.25], [0.25, -0.5, -0.25]),
        *([0.25, 0.5, -0.25], [0.25, 0.5, 0.75]),
    ],
}
# The fourth column of contr.poly(5) of R.
FOURTH = [0.119522860933439, -0.478091443733758, 0.717137165600636]
LEVELS = ("lo", "mid", "hi")
Y = [3.1, 2.4, 5.6, 4.4, 7.1, 6.9, 2.2, 3.9, 4.8, 5.5, 8.2, 6.1, 2.9, 3.3, 5.1, 4.9, 7.7, 6.6]
TABLE = pd.DataFrame(
    {
        "y": Y,
        "f": pd.Categorical(np.tile(np.repeat(LEVELS, 2), 3), LEVELS, ordered=True),
        "h": np.tile(["u", "v"], 9),
        "x": [1, 4, 2, 8, 5, 7, 3, 9, 6, 2, 5, 1, 8, 4, 7, 3, 6, 9],
    }
)
# coef(lm(y ~ f*h + x)) of R with these contrasts of f: f, h, x and the interactions.
COEFFICIENTS = {
    "sum": "5.1323471400394 -2.4463510848126 -0.0248520710059 -0.3052596975674 "
    "0.0118343195266 0.7522024983563 0.0798159105851",
    "helmert": "5.1323471400394 1.2107495069034 1.2356015779093 -0.3052596975674 "
    "0.0118343195266 -0.3361932938856 -0.4160092044707",
    "poly": "5.1323471400394 3.4772359504030 0.0304374465080 -0.3052596975674 "
    "0.0118343195266 -1.1202133464478 -0.0977541271446",
    "sdif": "5.1323471400394 2.4214990138067 2.4960552268245 -0.3052596975674 "
    "0.0118343195266 -0.6723865877712 -0.9118343195266",
    "[[0, 0], [1, 0], [1, 1]]": "2.6859960552268 2.4214990138067 2.4960552268245 "
    "0.4469428007890 0.0118343195266 -0.6723865877712 -0.9118343195266",
}
NAMES = {
    "sum": ["S.lo", "S.mid"],
    "helmert": ["H.mid", "H.hi"],
    "poly": [".L", ".Q"],
    "sdif": ["mid-lo", "hi-mid"],
    "[[0, 0], [1, 0], [1, 1]]": ["1", "2"],
}


def built(text, table=TABLE):
    products = Formula.parse(f"y ~ {text}").predictors[""][0].arguments
    frame = read(table)
    learned = model_matrix.finish(model_matrix.scan(None, products, frame), products)
    names = [n for c in learned.codings for n in ([f"{c.name}[{i}]" for i in c.names] or [c.name])]
    return names, learned.build(frame), learned.codings


@pytest.mark.parametrize("kind", OF_R)
def test_matrices_are_those_of_r(kind):
    np.testing.assert_allclose(contrasts.matrix_of(kind, "abcd", "f"), OF_R[kind], atol=1e-10)
    assert len(contrasts.names_of(kind, "abcd")) == 3


def test_polynomials_of_many_levels_are_orthonormal():
    np.testing.assert_allclose(contrasts.matrix_of("poly", "abcde", "f")[:3, 3], FOURTH)
    many = contrasts.matrix_of("poly", [str(i) for i in range(100)], "f")
    np.testing.assert_allclose(many.T @ many, np.eye(99), atol=1e-12)
    assert contrasts.names_of("poly", "abcdef") == (".L", ".Q", ".C", "^4", "^5")


@pytest.mark.parametrize("kind", COEFFICIENTS)
def test_coefficients_are_those_of_lm(kind):
    """With flat priors and a known residual the posterior mean is the least squares estimate."""
    quoted = kind if kind.startswith("[") else f"'{kind}'"
    priors = {"common": rf.Flat(), "Intercept": rf.Flat(), "sigma": 1.0}
    fit = rf.Model(f"y ~ C(f, contrast={quoted})*h + x", priors=priors).fit(
        TABLE, draws=10, progress=False
    )
    own, (intercept, *slopes) = NAMES[kind], map(float, COEFFICIENTS[kind].split())
    found = fit.fixef()["mean"]
    names = [*(f"C(f)[{n}]" for n in own), "h[v]", "x", *(f"C(f):h[{n}, v]" for n in own)]
    np.testing.assert_allclose(found[["Intercept", *names]], [intercept, *slopes], rtol=1e-8)
    assert f"contrasts of {', '.join(LEVELS)}" in "\n".join(map(str, fit.equations()))


@pytest.mark.parametrize(
    ("written", "same"),
    [
        ("C(f, Sum)", "C(f, contrast='sum')"),
        ("C(f, contr.sum)", "C(f, contrast='sum')"),
        ("factor(f, contrast=Helmert)", "C(f, contrast='helmert')"),
        ("C(f, Diff)", "C(f, contrast='sdif')"),
        ("C(f, contr.poly)", "C(f, contrast='poly')"),
        ("C(f, Treatment('mid'))", "C(f, ref='mid')"),
        ("C(f, contr.treatment(base='mid'))", "C(f, ref='mid')"),
        ("C(f, [[0, 0], [1, 0], [-1/2, 1]])", "C(f, contrast=[[0, 0], [1, 0], [-0.5, 1]])"),
        ("C(f, Poly, levels=['hi', 'mid', 'lo'])", "C(f, levels=[hi, mid, lo], contrast=poly)"),
    ],
)
def test_contrasts_are_written_as_in_r_and_patsy(written, same):
    (names, columns, _), (others, expected, _) = built(written), built(same)
    assert names == others
    np.testing.assert_array_equal(columns, expected)


def test_the_level_without_a_coefficient_can_be_chosen():
    assert built("C(f, contrast='sum', ref='lo')")[0][1:] == ["C(f)[S.mid]", "C(f)[S.hi]"]
    np.testing.assert_array_equal(built("C(f, Sum, ref=lo)")[1][0], [1, -1, -1])


@pytest.mark.parametrize("kind", ["Sum", "Helmert", "Poly", "Diff", "[[1, 0], [0, 1], [2, 0]]"])
@pytest.mark.parametrize("text", ["F*h", "0 + F*h", "x:F", "h/F", "0 + h:F + x*F"])
def test_columns_span_what_treatment_contrasts_do(kind, text):
    columns = built(text.replace("F", f"C(f, {kind})"))[1]
    expected = built(text.replace("F", "C(f)"))[1]
    assert columns.shape == expected.shape
    assert np.linalg.matrix_rank(np.hstack([columns, expected])) == columns.shape[1]


@pytest.mark.parametrize("kind", ["Sum", "Poly"])
def test_empty_cells_are_found_under_any_contrasts(kind):
    table = TABLE[(TABLE["f"] != "mid") | (TABLE["h"] != "v")]
    _, columns, codings = built(f"C(f, {kind})*h", table)
    assert empty_cells(codings, columns) == {"C(f):h": [(("C(f)", "mid"), ("h", "v"))]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("C(f, contrast='cubic')", "there are no contrasts 'cubic'"),
        ("C(f, contrast='poly', ref='lo')", "poly contrasts take the order of the levels"),
        ("C(f, [[1, 1], [1, 1], [1, 1]])", "depend on each other"),
        ("C(f, [[1], [1]])", "add up to the intercept's constant"),
        ("C(f, [[1, 2], [3, 4]])", "one row of k - 1 numbers"),
        ("C(f, [[lo, mid], [1, 2], [3, 5]])", "something else than numbers"),
        ("C(f, Treatment(1, 2))", 'write contrast="treatment"'),
        ("C(f, ref='a', ref='b')", "an option of C() is given twice"),
        ("C(f, Sum) + x:C(f)", "coded in two ways"),
    ],
)
def test_what_are_no_contrasts_is_refused(text, message):
    with pytest.raises(FormulaError) as caught:
        Formula.parse(f"y ~ {text}")
    assert message in str(caught.value)


def test_a_matrix_of_another_size_names_the_levels():
    with pytest.raises(DataError, match=r"of C\(f\) has 2 rows of 1; it takes one row of 2 for"):
        built("C(f, [[0], [1]])")
    many = {"f": np.array([str(i) for i in range(101)])}
    with pytest.raises(DataError, match="has 101 levels, and polynomial contrasts take 100"):
        built("C(f, Poly)", many)
