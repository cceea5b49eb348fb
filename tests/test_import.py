"""Importing the package and asking for help is light."""

import subprocess
import sys

import pytest

_HEAVY = ("jax", "jaxlib", "keras", "numpyro", "optax", "sklearn", "tensorflow")


@pytest.mark.parametrize(
    "statement",
    [
        "import ranef",
        "import ranef; ranef.Normal(0, 1); ranef.FormulaError",
        "from ranef.formula.formula import Formula; Formula.parse('y ~ x + (1 | g)')",
        "import contextlib, ranef.cli.main\n"
        "with contextlib.suppress(SystemExit): ranef.cli.main.main(['--help'])",
        "import contextlib, ranef.cli.main\n"
        "with contextlib.suppress(SystemExit): ranef.cli.main.main(['zillow', '--help'])",
    ],
)
def test_loads_neither_jax_nor_keras(statement):
    check = f"{statement}\nimport sys\nprint([m for m in {_HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_sets_the_keras_backend_unless_the_user_did():
    check = "import os, ranef; print(os.environ['KERAS_BACKEND'])"
    for given, expected in ((None, "jax"), ("torch", "torch")):
        env = {"PATH": "", "KERAS_BACKEND": given} if given else {"PATH": ""}
        done = subprocess.run(
            [sys.executable, "-c", check], capture_output=True, text=True, check=True, env=env
        )
        assert done.stdout.strip() == expected


def test_every_public_name_is_there():
    import ranef

    for name in ranef.__all__:
        assert getattr(ranef, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ranef.nothing  # noqa: B018


def test_a_gaussian_mixed_model_loads_neither_jax_nor_keras():
    """Nor what draws figures or fits distributions: it all takes longer than the fit."""
    check = f"""
import sys
import numpy as np
import ranef as rf
rng = np.random.default_rng(0)
g, x = rng.integers(0, 9, 90), rng.normal(size=90)
y = x + rng.normal(size=9)[g] + rng.normal(size=90)
fit = rf.Model("y ~ x + (1 + x | g)").fit({{"y": y, "x": x, "g": g.astype(str)}}, progress=False)
print(fit.summary(), fit.check())
print([m for m in {(*_HEAVY, "matplotlib", "scipy.stats", "xarray")} if m in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
