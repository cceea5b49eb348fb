"""Importing the package and asking for help is light."""

import subprocess
import sys

import pytest

_HEAVY = ("jax", "jaxlib", "keras", "numpyro", "optax", "tensorflow")


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
