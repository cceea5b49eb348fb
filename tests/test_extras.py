"""What works without the optional packages, and the sentence where one of them is missing.

The code runs in a process in which they cannot be imported, as after a plain `pip install`.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from ranef import PackageError
from ranef.extras import PACKAGES, require

GOLDEN = Path(__file__).parent / "storage" / "golden"

# Each optional package with those that only it would bring into an environment.
_NETWORKS = ("keras", "h5py", "namex", "optree", "rich")
_PLOTS = (
    *("arviz_plots", "jinja2", "matplotlib", "contourpy", "cycler", "fontTools", "kiwisolver"),
    *("markupsafe", "PIL", "pyparsing"),
)
_TABLES = ("great_tables",)

_SKLEARN = ("sklearn", "joblib")

# Hides the packages ABSENT from imports and from questions for their versions.
_START = """
import sys
from importlib import metadata

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def version(name, known=metadata.version):
    if name.replace("-", "_") in ABSENT:
        raise metadata.PackageNotFoundError(name)
    return known(name)

sys.meta_path.insert(0, Absent())
metadata.version = version
import numpy as np
import ranef as rf

rng = np.random.default_rng(0)
g, x = rng.integers(0, 9, 90), rng.normal(size=90)
y = x + rng.normal(size=9)[g] + rng.normal(0, 0.5, 90)
table = {"y": y, "x": x, "g": g.astype(str), "up": y > 0}
"""

_FITS = """
def said(fit):
    found = [fit.summary(), fit.predict({"x": [0.5], "g": ["3"]}), fit.ranef("g")]
    return "\\n".join(map(str, found))

for method, formula, family, options in (
    ("exact", "y ~ x + (1 | g)", "gaussian", {}),
    ("laplace", "up ~ x + (1 | g)", "bernoulli", {}),
    ("nuts", "y ~ x + (1 | g)", "gaussian", {"tune": 50}),
    ("svi", "y ~ x + (1 | g)", "gaussian", {"guide": "meanfield", "steps": 50}),
):
    fit = rf.Model(formula, family).fit(
        table, method=method, draws=100, progress=False, **options
    )
    assert fit.method == method
    fit.save("fit.ranef")
    assert said(rf.load("fit.ranef")) == said(fit)
    assert fit.check().verdict
    print(method)
assert "posterior" in fit.idata.children and fit.loo().elpd < 0
"""

# Code that needs an optional package, and what is said. It runs where `fit` is a fit.
_NEEDS = {
    "rf.Model('y ~ nn(x) + (1 | g)')": (
        "nn() needs Keras, which is not installed; install it with pip install 'ranef[networks]'"
    ),
    f"rf.load({str(GOLDEN / 'network.ranef')!r})": (
        "nn() needs Keras, which is not installed; install it with pip install 'ranef[networks]'"
    ),
    "rf.plots.shrinkage(fit)": (
        "rf.plots.shrinkage() needs matplotlib, which is not installed; install it with "
        "pip install 'ranef[plots]'"
    ),
    "from ranef.plots import elbo": (
        "rf.plots.elbo() needs matplotlib, which is not installed; install it with "
        "pip install 'ranef[plots]'"
    ),
    "rf.effects.avg_slopes(fit, 'x').gt()": (
        "rf.effects.great_table() needs great_tables, which is not installed; install it with "
        "pip install 'ranef[tables]'"
    ),
    "from ranef.sklearn import MixedRegressor": (
        "ranef.sklearn.MixedRegressor needs scikit-learn, which is not installed; install it with "
        "pip install 'ranef[sklearn]'"
    ),
    "fit.report('page.html')": (
        "fit.report() needs matplotlib, arviz-plots and Jinja2, which are not installed; install "
        "them with pip install 'ranef[plots]'"
    ),
}

_SENTENCES = f"""
from ranef import *
assert "Normal" in globals() and plots is rf.plots
fit = rf.Model("y ~ x + (1 | g)").fit(table, progress=False)
for code in {list(_NEEDS)!r}:
    try:
        exec(code)
    except rf.PackageError as error:
        print(error)
from ranef.cli.main import main
assert main(["zillow", "--out", "page"]) == 1
fit.save("fit.ranef")
assert main(["report", "fit.ranef", "--out", "page.html"]) == 1
"""


def _run(
    code: str,
    folder: Path,
    absent: tuple[str, ...] = (*_NETWORKS, *_PLOTS, *_TABLES, *_SKLEARN),
) -> subprocess.CompletedProcess[str]:
    code = f"ABSENT = {absent!r}{_START}{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)


def test_every_method_fits_checks_and_saves_without_the_extras(tmp_path):
    done = _run(_FITS, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["exact", "laplace", "nuts", "svi"]


def test_what_needs_an_extra_says_which(tmp_path):
    done = _run(_SENTENCES, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == list(_NEEDS.values())
    assert done.stderr.splitlines() == [
        "ranef: ranef zillow needs Keras, matplotlib, arviz-plots and Jinja2, which are not "
        "installed; install them with pip install 'ranef[networks,plots]'",
        "ranef: ranef report needs matplotlib, arviz-plots and Jinja2, which are not installed; "
        "install them with pip install 'ranef[plots]'",
    ]
    assert not (tmp_path / "page").exists()


def test_figures_and_pages_need_no_keras(tmp_path):
    code = """
fit = rf.Model("y ~ x + (1 | g)").fit(table, progress=False)
print("Made with" in fit.report("page.html").read_text())"""
    done = _run(code, tmp_path, _NETWORKS)
    assert done.stdout == "True\n", done.stderr


def test_only_missing_packages_are_named(monkeypatch):
    require("this", *PACKAGES)
    monkeypatch.setitem(sys.modules, "arviz_plots", None)
    with pytest.raises(PackageError, match=r"this needs arviz-plots, which is not") as caught:
        require("this", *PACKAGES)
    assert caught.value.name == "arviz_plots"
