"""exact against long runs of NUTS on models written by hand (``benchmarks/nuts_references.py``)."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "nuts_references.py"


@pytest.fixture(scope="module")
def references():
    specification = importlib.util.spec_from_file_location("nuts_references", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["Dyestuff", "sleepstudy", "Penicillin", "radon", "InstEval"])
def test_every_parameter_is_that_of_nuts(name, references, reference_data):
    """Within a tenth of an sd in the mean and a tenth in the sd."""
    table = references.REFERENCES[name].read(reference_data / "mixed")
    stored = pd.read_csv(references.TABLE)
    expected = stored[stored["data"] == name].set_index("parameter")
    found = pd.DataFrame(references.exact(name, table), index=["mean", "sd"]).T
    assert expected["r_hat"].max() <= 1.01
    assert not set(expected.index) - set(found.index)
    found = found.loc[expected.index]
    assert ((found["mean"] - expected["mean"]).abs() / expected["sd"]).max() < 0.1
    assert (found["sd"] / expected["sd"]).between(0.9, 1.1).all()
