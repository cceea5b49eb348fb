"""Which method `auto` takes, and why."""

import numpy as np
import pytest

import ranef as rf
from ranef.errors import MethodError
from ranef.inference.pwls import solver


def fit(formula, table, **options):
    keywords = {"draws": 50, "progress": False, **options.pop("fit", {})}
    return rf.Model(formula, **options).fit(table, **keywords)


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ x + f + (1 + x | g) + (1 | h)",
        "y ~ x",
        "se(y, w) ~ 1 + (1 | g)",
        "weights(y, w) ~ offset(z) + (x || g)",
    ],
)
def test_exact_wherever_it_applies(formula, grouped):
    found = fit(formula, grouped)
    assert found.method == "exact"
    assert "gaussian and every term linear" in found.why


@pytest.mark.parametrize(
    ("formula", "options", "why"),
    [
        ("y ~ x", {"family": "student"}, "'exact' takes gaussian responses, and the family is st"),
        ("y ~ x; sigma ~ x", {}, "'exact' takes one sigma for all rows, and the formula predicts"),
    ],
)
def test_laplace_for_other_responses_and_what_exact_lacks(formula, options, why, grouped):
    found = fit(formula, grouped, **options)
    assert found.method == "laplace"
    assert why in found.why
    with pytest.raises(MethodError, match=why) as refused:
        fit(formula, grouped, **options, fit={"method": "exact"})
    assert str(refused.value).endswith("; use method='svi'")


@pytest.mark.parametrize(
    ("formula", "options", "why"),
    [
        ("y ~ nn(x, hidden=[2])", {}, r"takes terms that are linear in their coefficients"),
    ],
)
def test_svi_elsewhere(formula, options, why, grouped, monkeypatch):
    from ranef.inference.svi import SVI

    monkeypatch.setattr(SVI, "options", {**SVI.options, "steps": 50})
    found = fit(formula, grouped, **options)
    assert found.method == "svi"
    assert f"method 'laplace' {why}" in found.why


def test_an_option_chooses_the_method_that_has_it(grouped):
    found = fit("y ~ x", grouped, fit={"steps": 50})
    assert (found.method, found.why) == ("svi", "it has the option 'steps'")
    found = fit("y ~ x", grouped, fit={"chains": 1, "tune": 50})
    assert (found.method, found.why) == ("nuts", "it has the option 'chains'")
    found = fit("hit ~ (1 | g)", grouped, fit={"quadrature": 5})
    assert (found.method, found.why) == ("laplace", "it has the option 'quadrature'")
    with pytest.raises(rf.OptionError, match="'svi' has no option 'stepz'; did you mean 'steps'"):
        fit("y ~ x", grouped, fit={"stepz": 50})


def test_crossed_groupings_that_are_too_large(grouped, monkeypatch):
    from ranef.inference.svi import SVI

    for name in ("MOST_REMAINING", "_DENSE", "_DENSE_AT_MOST"):
        monkeypatch.setattr(solver, name, 3)
    monkeypatch.setattr(SVI, "options", {**SVI.options, "steps": 50})
    table = {**grouped, "h": np.array([f"h{i % 7}" for i in range(300)])}
    found = fit("y ~ x + (1 | g) + (1 | h)", table)
    assert found.method == "svi"
    assert "at most 3 effects, and the groupings beside the largest have 7 together" in found.why


def test_a_method_that_was_asked_for(grouped):
    assert fit("y ~ x", grouped, fit={"method": "exact"}).why == "it was asked for"
