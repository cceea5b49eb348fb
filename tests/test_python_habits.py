"""What Python users expect of objects: copies, pickles, notebooks, progress, logs and messages."""

import copy
import io
import logging
import multiprocessing
import pickle
import typing

import joblib
import numpy as np
import pandas as pd
import pytest

import ranef as rf
from ranef import habits, names, registry
from ranef.check import Check, Symptom
from ranef.errors import ExactFitError, MethodError
from ranef.formula.equation import Sub
from ranef.formula.printed_equations import Equations, latex
from ranef.inference.base import Method
from ranef.progress import progress_bar


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(1)
    g = np.arange(60) % 6
    x = rng.normal(size=60)
    y = x + rng.normal(size=6)[g] + rng.normal(size=60)
    return {"y": y, "x": x, "<g>": np.array(list("uvwxyz"))[g]}


@pytest.fixture(scope="module")
def model():
    return rf.Model("y ~ x + (1 | `<g>`)", priors={"x": rf.Normal(0, 1), "sigma": 1.5})


@pytest.fixture(scope="module")
def fit(model, table):
    return model.fit(table, draws=100, progress=False)


# Copies and pickles


def _pickled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301


def _dumped(value):
    file = io.BytesIO()
    joblib.dump(value, file)
    file.seek(0)
    return joblib.load(file)


@pytest.mark.parametrize("copied", [_pickled, copy.deepcopy, _dumped])
def test_a_copied_fit_gives_the_same_bytes(fit, copied):
    again = copied(fit)
    assert repr(again) == repr(fit)
    pd.testing.assert_frame_equal(again.ranef("<g>"), fit.ranef("<g>"))
    assert again.posterior.equals(fit.posterior)
    assert again.priors == fit.priors
    assert again.equations() == fit.equations()


def test_a_pickle_holds_no_compiled_programs(fit, table):
    before = len(pickle.dumps(fit))
    fit.predict(table)
    assert len(pickle.dumps(fit)) == before


def test_a_copied_model_gives_the_same_fit(model, fit, table):
    again = _pickled(model)
    assert repr(again) == repr(model)
    assert again.priors_for(table) == model.priors_for(table)
    assert again.fit(table, draws=100, progress=False).posterior.equals(fit.posterior)
    mixture = _pickled(rf.Model("y ~ x; mix ~ x", rf.Mixture("gaussian", k=2)))
    assert "family mixture(gaussian, gaussian)" in repr(mixture)


def test_damaged_bytes_are_refused(fit):
    rebuild, (packed,) = fit.__reduce__()
    with pytest.raises(rf.FileError, match="a pickled fit"):
        rebuild(packed[: len(packed) // 2])


@pytest.mark.parametrize(
    "error",
    [
        MethodError("exact", "takes a gaussian response"),
        ExactFitError("the common effects fit y exactly", ("sigma",)),
        rf.ColumnError("column 'x' is not in the table"),
        rf.FileError("there is no file 'a'"),
        rf.PackageError("nn() needs Keras", name="keras"),
    ],
)
def test_an_error_of_another_process_says_the_same(error):
    again = _pickled(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.long
def test_a_model_with_a_network_is_copied_with_its_starting_weights(table):
    keras = pytest.importorskip("keras")
    layers = keras.layers
    network = keras.Sequential([layers.Input((1,)), layers.Dense(2), layers.Dense(1)])
    start = [np.array(v.value) for v in network.variables]
    model = rf.Model("y ~ nn(x, net=f) + (1 | `<g>`)", networks={"f": network})
    fit = model.fit(table, draws=20, progress=False, steps=50)
    again = _pickled(model)
    own = again.program.networks["f"]
    assert own is not network
    for old, variable in zip(start, own.variables, strict=True):
        np.testing.assert_array_equal(old, variable.value)
    refitted = again.fit(table, draws=20, progress=False, steps=50)
    np.testing.assert_array_equal(refitted.predict(table)["mean"], fit.predict(table)["mean"])
    assert copy.deepcopy(fit).network("f") is not fit.network("f")
    other = keras.Sequential([layers.Input((1,)), layers.Lambda(lambda a: a, (1,))])
    with pytest.raises(rf.OptionError, match="the network 'f' has a Lambda"):
        pickle.dumps(rf.Model("y ~ nn(x, net=f)", networks={"f": other}))


def _mean(fit, table):
    return fit.predict(table)["mean"].to_numpy()


@pytest.mark.long
def test_fits_cross_to_other_processes(fit, table):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        again = pool.apply(copy.copy, (fit,))
    np.testing.assert_array_equal(_mean(again, table), _mean(fit, table))


# Notebooks


def test_notebooks_show_models_and_fits_with_every_text_escaped(model, fit):
    assert "<td>Normal(0, 1)</td>" in model._repr_html_()
    for shown in (model._repr_html_(), fit._repr_html_()):
        assert "y ~ x + (1 | `&lt;g&gt;`)" in shown
        assert "<g>" not in shown
    assert "by exact in" in fit._repr_html_()
    assert "<th>Intercept</th>" in fit._repr_html_()


def test_notebooks_show_priors_checks_and_cross_validation(fit):
    assert str(fit.priors).splitlines()[0] == "x: Normal(0, 1)"
    assert "<tr><td>x</td><td>Normal(0, 1)</td></tr>" in fit.priors._repr_html_()
    check = fit.check(quick=True)
    assert f"verdict: {check.verdict}" in check._repr_html_()
    assert rf.Normal(0, 1) == dict(fit.priors)["x"]
    other = Check((Symptom("a < b", "c", "d", "caution"),), ("chains",))
    assert other._repr_html_() == (
        "<p>verdict: caution<br>second opinion: chains</p><ul><li>a &lt; b: c; d</li></ul>"
    )


def test_notebooks_show_equations_as_mathematics(fit):
    shown = fit.equations()._repr_latex_()
    assert shown.startswith(
        r"$$\begin{aligned} & y_{i}\ \sim \ \mathrm{Normal}(\mu _{i},\ \sigma ^2)"
    )
    assert r"b_{\mathrm{1|\lt g\gt [i]}}" in shown
    assert str(fit.equations()) == "\n".join(fit.equations())
    line = ("log", Sub("i"), " 50% of a_b ~ ", Sub("sigma_x y"))
    assert latex(line) == (
        r"\mathrm{log}_{i}\ 50\%\ \mathrm{of}\ a\_b\ \sim \ _{\mathrm{sigma\_x\ y}}"
    )
    assert copy.deepcopy(Equations([line]))._repr_latex_() == Equations([line])._repr_latex_()


# Progress and logs


def _said(capsys, **options):
    bar = progress_bar("exact", "evaluations", shown=True, **options)
    bar.delay = 0  # as if half a second had passed
    bar.update(3)
    bar.refresh()
    shown = capsys.readouterr().err.split("\r")[-1]
    bar.close()
    # What is left of the bar after the end: nothing but blanks.
    assert capsys.readouterr().err.split("\r")[-2].strip() == ""
    return shown


def test_a_bar_says_what_it_counts_and_leaves_nothing(capsys):
    assert _said(capsys).startswith("exact: 3 evaluations [00:00")
    assert "| 3 of 12 evaluations [00:00, " in _said(capsys, total=12)


def test_a_fit_of_a_moment_shows_no_bar(model, table, capsys):
    model.fit(table, draws=10)
    assert capsys.readouterr().err == ""


def test_a_fit_logs_what_happens_and_says_nothing_unasked(table, caplog, capsys):
    model = rf.Model("y ~ x; sigma ~ x")
    with caplog.at_level(logging.INFO, logger="ranef"):
        model.fit(table, draws=10, progress=False)
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("fitting <ranef.Model 'y ~ x; sigma ~ x', family gaussian>")
    assert said[1].startswith("exact is not used: it takes one sigma for all rows")
    assert said[2].startswith("60 rows read, 60 used; method laplace, because")
    assert said[3].startswith("fitted by laplace in ")
    assert capsys.readouterr().err == ""


# Names


def test_only_public_names_are_completed():
    assert set(dir(rf)) == {*rf.__all__, "__version__"}
    assert "importlib" not in dir(rf)
    assert dir(rf.sklearn) == ["MixedClassifier", "MixedRegressor"]


def test_types_list_the_names_that_there_are():
    families = {name for name in registry.FAMILIES if name != "mixture"}
    assert set(typing.get_args(names.FamilyName)) == families
    assert set(typing.get_args(names.MethodName)) == {"auto", *registry.METHODS}
    methods = [registry.load("method", name) for name in registry.METHODS]
    options = {option for method in methods for option in method.options}
    assert set(names.MethodOptions.__annotations__) == options
    assert issubclass(methods[0], Method)
    assert not options & set(habits.FIT)


# Habits of other packages


@pytest.mark.parametrize("data", ["table", "frame", "houses.csv"])
def test_a_table_where_the_family_stands(table, data):
    given = {"table": table, "frame": pd.DataFrame(table)}.get(data, data)
    with pytest.raises(rf.OptionError, match=r"write rf.Model\(formula\).fit\(data\)"):
        rf.Model("y ~ x", given)


@pytest.mark.parametrize(("said", "meant"), habits.FAMILIES.items())
def test_families_by_other_names(said, meant):
    assert meant in registry.FAMILIES
    with pytest.raises(rf.OptionError) as caught:
        rf.Model("y ~ x", said)
    assert str(caught.value) == f"there is no family '{said}'; write family='{meant}'"


@pytest.mark.parametrize("name", ["random_seed", "iter", "warmup", "cores", "priors"])
def test_arguments_of_other_fits(model, table, name):
    with pytest.raises(rf.OptionError) as caught:
        model.fit(table, **{name: 1})
    assert str(caught.value) == f"fit() has no argument {name!r}; {habits.FIT[name]}"


def test_arguments_of_other_models(table):
    with pytest.raises(rf.OptionError, match="has no argument 'data'; the table goes to fit"):
        rf.Model("y ~ x", data=table)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        rf.Model("y ~ x", nonsense=1)


@pytest.mark.parametrize(
    ("formula", "advice"),
    [
        ("s | trials(n) ~ x", "write 's / n ~ ...', with family='binomial'"),
        ("y | weights(w) ~ x", "write 'weights(y, w) ~ ...'"),
        ("y ~ mi(x); x | mi() ~ z", "write 'mi(x) ~ ...'"),
        ("y | cens(c) ~ x", "cens() on the left side is not supported"),
        ("y ~ (1 + x | g, correlated)", "write (1 + x | g) for correlated effects"),
        ("y ~ x + (1 | p | g)", "write (1 | g)"),
        ("y ~ x | g", "write group-specific effects in brackets"),
        ("cbind(s, f) ~ x", "use family='binomial'"),
    ],
)
def test_formulas_of_other_packages(formula, advice):
    with pytest.raises(rf.RanefError) as caught:
        rf.Model(formula)
    assert advice in str(caught.value)
    assert rf.Model("y ~ x + (x | g)")
