"""gp(): the basis against the kernel, its derivatives, its warning, functions by level."""

import numpy as np
import pytest

import ranef as rf
from ranef.errors import FormulaError, OptionError
from ranef.terms.smooth import hilbert_basis
from ranef.terms.smooth.hilbert_basis import KERNELS, SpectralSds


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_basis_has_the_covariance_of_the_kernel(kernel):
    """Within a percent of the variance, away from the ends by half a length scale and more."""
    length, end = 0.5, 2.0
    m = int(np.ceil(2 * KERNELS[kernel].functions * end / length))
    u = np.linspace(-1, 1, 21)[:, None]
    spectrum = SpectralSds(kernel, "a", ("l",), (m,), (end,), (length,))
    columns = hilbert_basis.columns(u, (m,), (end,)) * spectrum.sds({"a": 1.5, "l": length})
    exact = 1.5**2 * hilbert_basis.covariance(kernel, np.abs(u - u.T) / length)
    np.testing.assert_allclose(columns @ columns.T, exact, atol=0.012 * 1.5**2)


def test_a_surface_has_the_covariance_of_the_kernel():
    spectrum = SpectralSds("matern52", "a", ("l", "k"), (24, 24), (2.0, 4.0), (1.0, 1.0))
    u = np.random.default_rng(0).uniform(-1, 1, (15, 2))
    x = u * [1.0, 2.0]
    values = {"a": 1.0, "l": 0.4, "k": 0.8}
    columns = hilbert_basis.columns(u, (24, 24), (2.0, 2.0)) * spectrum.sds(values)
    away = (x[:, None] - x) / [0.4, 0.8]
    exact = hilbert_basis.covariance("matern52", np.sqrt((away**2).sum(axis=-1)))
    np.testing.assert_allclose(columns @ columns.T, exact, atol=0.01)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("lengths", [("l",), ("l", "k")])
def test_slopes_are_derivatives(kernel, lengths):
    spectrum = SpectralSds(kernel, "a", lengths, (5, 4), (2.0, 3.0), (1.0,) * len(lengths))
    values = {"a": 0.7, "l": 0.8, "k": 1.3}
    for name, slope in spectrum.slopes(values).items():
        ends = [spectrum.sds({**values, name: values[name] + step}) for step in (-1e-6, 1e-6)]
        np.testing.assert_allclose(slope, (ends[1] - ends[0]) / 2e-6, atol=1e-7)


def curve(n=150, by=False):
    rng = np.random.default_rng(3)
    x, g = rng.uniform(0, 10, n), np.arange(n) % 3
    y = np.sin(x + (g if by else 0)) + 0.2 * rng.normal(size=n)
    return {"x": x, "y": y, "g": np.array(list("abc"))[g]}


def test_a_curve_is_found_and_a_coarse_basis_doubted():
    fit = rf.Model("y ~ gp(x, m=30)").fit(curve(), method="exact", draws=200, progress=False)
    new = np.linspace(0.5, 9.5, 40)
    found = fit.predict({"x": new})
    assert np.abs(found["mean"] - np.sin(new)).max() < 0.25
    assert "gp(x)_ell" in fit.summary().index
    assert not any("basis functions" in reason for reason in fit.check().reasons)
    coarse = rf.Model("y ~ gp(x, m=6, boundary=3)").fit(
        curve(), method="exact", draws=200, progress=False
    )
    assert any("basis functions follow" in reason for reason in coarse.check().reasons)


def test_functions_by_level_share_their_scales_and_a_new_level_has_one(tmp_path):
    table = curve(by=True)
    fit = rf.Model("y ~ gp(x, by=g, m=12)").fit(table, method="exact", draws=200, progress=False)
    new = {"x": [5.0, 5.0], "g": ["b", "new"]}
    found = fit.predict(new, new_levels="sample")
    assert abs(found["mean"][0] - np.sin(6.0)) < 0.25
    assert found["sd"][1] > 3 * found["sd"][0]
    fit.save(tmp_path / "fit.ranef")
    again = rf.load(tmp_path / "fit.ranef").predict(new, new_levels="sample")
    np.testing.assert_array_equal(again.to_numpy(), found.to_numpy())


def test_it_has_no_likelihood_criterion_of_lme4():
    fit = rf.Model("y ~ gp(x, m=8)").fit(curve(), method="exact", draws=50, progress=False)
    with pytest.raises(OptionError, match="lme4"):
        fit.deviance([1.0])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("y ~ gp(x, kernel=cubic)", "must be one of"),
        ("y ~ gp(x, n=3)", "no option 'n'"),
        ("y ~ gp(x, m=[3, 4])", "one number for each"),
        ("y ~ gp(x, boundary=0.5)", "above 1"),
        ("y ~ gp(scale(x))", "scales its columns"),
        ("y ~ s(x, z)", "takes one column"),
        ("y ~ s(x, k=3)", "from 5 to 500"),
    ],
)
def test_what_is_not_a_smooth_term_is_refused(text, says):
    with pytest.raises(FormulaError, match=says):
        rf.Model(text)
