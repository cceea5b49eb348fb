"""What rows cannot tell is named, and what they can is not."""

import numpy as np
import pytest

import ranef as rf

N = 240
RNG = np.random.default_rng(14)
F, H, K = (
    np.array(list(v))[np.arange(N) // s % len(v)] for v, s in (("abc", 1), ("uv", 3), ("pq", 6))
)
G = np.arange(N) // 20
BALANCED = {
    **{"f": F, "h": H, "k": K, "g": np.array([f"g{i:02}" for i in G]), "id": np.arange(N)},
    **{"x": RNG.normal(size=N), "year": RNG.integers(1990, 2021, N), "gx": RNG.normal(size=12)[G]},
    **{"one": np.ones(N), "zero": np.zeros(N), "half": np.full(N, 0.5), "g2": 100 - G},
    "y": 1.0 + (F == "b") + RNG.normal(size=12)[G] + RNG.normal(size=N),
}


def without(**cell):
    """The table without the rows of a cell."""
    keep = ~np.all([BALANCED[name] == level for name, level in cell.items()], axis=0)
    return {name: values[keep] for name, values in BALANCED.items()}


def said(formula, table=BALANCED, **model):
    """The verdict but for the sds, and the signs of what speaks for it."""
    fit = rf.Model(formula, **model).fit(table, progress=False, seed=0)
    check = fit.check(quick=True)
    found = [s for s in check.symptoms if s.weight in ("caution", "distrust")]
    return found[0].weight if found else "trust", [s.sign for s in found]


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ f*h",
        "y ~ f*h*k",
        "y ~ 0 + f",
        "y ~ 0 + f:h",
        "y ~ 0 + f + x",
        "y ~ 0 + f + year",
        "y ~ 0 + x",
        "y ~ 0 + one + x",
        "y ~ year*f",
        "y ~ f + (f | g)",
        "y ~ gx + (1 | g)",
        "y ~ f + (1 | g); sigma ~ 0 + h",
        "y ~ 1 + (1 | g) + (1 | g:f)",
    ],
)
def test_what_the_rows_can_tell_is_trusted(formula):
    assert said(formula) == ("trust", [])


@pytest.mark.parametrize(
    ("formula", "cell", "sign"),
    [
        ("y ~ f*h", {"f": "c", "h": "v"}, "no row has f 'c' with h 'v', a cell of f:h"),
        # That of both references has no column of its own.
        ("y ~ f*h", {"f": "a", "h": "u"}, "no row has f 'a' with h 'u', a cell of f:h"),
        ("y ~ f*h", {"f": "b", "h": "u"}, "no row has f 'b' with h 'u', a cell of f:h"),
        ("y ~ 0 + f:h", {"f": "a", "h": "u"}, "no row has f 'a' with h 'u', a cell of f:h"),
        ("y ~ f*h*k", {"f": "b", "h": "v"}, "no row has f 'b' with h 'v', a cell of f:h"),
        (
            "y ~ f*h*k",
            {"f": "a", "h": "u", "k": "q"},
            "no row has f 'a' with h 'u' with k 'q', a cell of f:h:k",
        ),
        ("y ~ f*h*x", {"f": "c", "h": "v"}, "no row has f 'c' with h 'v', a cell of f:h"),
        (
            "y ~ 1 + (1 | g); sigma ~ f*h",
            {"f": "c", "h": "v"},
            "no row has f 'c' with h 'v', a cell of f:h",
        ),
    ],
)
def test_an_empty_cell_is_named_once(formula, cell, sign):
    assert said(formula, without(**cell)) == ("caution", [sign])


@pytest.mark.parametrize(
    ("formula", "sign"),
    [
        ("y ~ f + one", "the column one is 1 in every row, as an intercept is"),
        ("y ~ x + half", "the column half is 0.5 in every row, as an intercept is"),
        ("y ~ f + zero", "the column zero is 0 in every row"),
        ("y ~ 0 + x + zero", "the column zero is 0 in every row"),
        ("y ~ x + x:zero", "the column x:zero is 0 in every row"),
        (
            "y ~ 1 + (1 | g); sigma ~ one",
            "the column sigma_one is 1 in every row, as an intercept is",
        ),
        ("y ~ 1 + (1 + zero || g)", "the column zero|g is 0 in every row"),
    ],
)
def test_a_column_that_does_not_vary_is_named(formula, sign):
    assert said(formula) == ("caution", [sign])


def test_a_constant_beside_thresholds_is_named():
    table = {**BALANCED, "grade": np.digitize(BALANCED["y"], [0.5, 2.0]) + 1}
    _, signs = said("grade ~ x + one", table, family="ordinal")
    assert "the column one is 1 in every row, as an intercept is" in signs


def test_a_constant_whose_effect_or_intercept_is_known_is_told():
    assert said("y ~ x + one", priors={"Intercept": 0.0})[0] == "trust"
    assert said("y ~ x + one", priors={"one": 0.5})[0] == "trust"


def test_a_constant_made_up_of_levels_is_a_combination():
    verdict, signs = said("y ~ 0 + f + one")
    assert verdict == "caution"
    assert "one is a combination of the other columns" in signs


def test_a_factor_with_as_many_levels_as_rows_is_named():
    table = {**BALANCED, "x": np.array([f"{v:.4f}%" for v in BALANCED["x"]])}
    fit = rf.Model("y ~ C(x)").fit(table, progress=False)
    [symptom] = [s for s in fit.check().symptoms if "the factor" in s.sign]
    assert symptom.sign.startswith("the factor C(x) has 2")
    assert symptom.sign.endswith("levels in 240 rows")
    assert "its texts look like numbers" in symptom.remedy
    names = {**BALANCED, "id": np.array([f"no {i * 2 // 3}" for i in range(N)])}
    fit = rf.Model("y ~ id").fit(names, progress=False)
    [symptom] = [s for s in fit.check().symptoms if "the factor" in s.sign]
    assert symptom.remedy == "write it as (1 | id)"


def test_one_row_for_each_level_is_named():
    sign = "the grouping id has one row for each of its levels"
    assert sign in said("y ~ x + (1 | id)")[1]
    assert said("y ~ x + (1 | id)", priors={"sigma": 1.0}) == ("trust", [])
    assert said("se(y, one) ~ x + (1 | id)") == ("trust", [])
    twice = {**BALANCED, "id": np.r_[0:5, 0 : N - 5]}
    sign = "the grouping id has 235 levels in 240 rows"
    assert sign in said("y ~ x + (1 | id)", twice)[1]
    half = {**BALANCED, "id": np.arange(N) // 2}
    assert not said("y ~ x + (1 | id)", half)[1]


def test_counts_with_an_effect_of_each_row_are_not():
    counts = {**BALANCED, "n": RNG.poisson(np.exp(1 + RNG.normal(size=N)))}
    assert not any("grouping" in s for s in said("n ~ x + (1 | id)", counts, family="poisson")[1])


def test_groupings_that_are_one_are_named():
    assert said("y ~ x + (1 | g) + (1 | g2)") == ("caution", ["g and g2 divide the rows alike"])
    sign = "the levels of g have common effects and the effects 1|g too"
    assert said("y ~ g + (1 | g)") == ("caution", [sign])
    assert said("y ~ x + (1 | g)") == ("trust", [])


def test_a_column_whose_name_ends_as_that_of_an_intercept_is_none():
    table = {**BALANCED, "x1": BALANCED["x"]}
    assert said("y ~ x1 + (0 + x1 | g) + (0 + x1 | g2)", table) == ("trust", [])


def test_of_many_empty_cells_three_are_named_and_all_are_counted():
    p, q = RNG.integers(0, 12, N), RNG.integers(0, 10, N)
    table = {**BALANCED, "p": np.array([f"p{i}" for i in p]), "q": q}
    empty = 120 - len(np.unique(p * 10 + q))
    [sign] = said("y ~ p:C(q)", table)[1]
    assert sign.count("no row has") == 1
    assert sign.count(" with ") == 3
    assert f"and {empty - 3} more, a cell of p:C(q)" in sign


def test_a_slope_that_no_level_shows_is_worth_knowing():
    fit = rf.Model("y ~ gx + (gx | g)").fit(BALANCED, progress=False)
    sign = "the column of gx|g is the same in all rows of each level of g"
    assert [s.weight for s in fit.check(quick=True).symptoms if s.sign == sign] == ["trust"]
    fit = rf.Model("y ~ x + (x | g)").fit(BALANCED, progress=False)
    assert not any("the column of" in s.sign for s in fit.check(quick=True).symptoms)


AGE = np.random.default_rng(6).uniform(8, 14, N)
GROWING = {"y": AGE + RNG.normal(size=N), "age": AGE, "h": H, "x": BALANCED["x"]}


def symptoms(formula):
    return rf.Model(formula).fit(GROWING, draws=50, progress=False).check(quick=True).symptoms


def test_effects_beside_an_uncentred_interaction_are_to_be_centred():
    """The sd of the effect of h, by dense algebra, with age as it is and centred."""
    [symptom] = symptoms("y ~ age*h")
    v = (H == "v").astype(float)

    def sd(age):
        columns = np.column_stack([np.ones(N), age, v, age * v])
        return np.sqrt(np.linalg.inv(columns.T @ columns)[2, 2])

    assert symptom.sign == "h[v], age:h[v] go together, because age is far from 0"
    assert f"up to {sd(AGE) / sd(AGE - AGE.mean()):.1f} times" in symptom.meaning
    assert "as in center(age)" in symptom.remedy
    assert symptom.weight == "trust"
    assert symptoms("y ~ center(age)*h") == ()


def test_centring_is_no_remedy_where_it_makes_another_model():
    """Without h, the columns of age:h do not span h."""
    assert all("leave one of them out" in s.remedy for s in symptoms("y ~ age:h"))
    assert any("center(age)" in s.remedy for s in symptoms("y ~ h + age:h"))
    assert symptoms("y ~ x*h") == ()
