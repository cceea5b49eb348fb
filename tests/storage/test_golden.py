"""Files that earlier states of the code have saved load, and predict what they did.

`golden/NAME.ranef` is a fit, and `golden/NAME.json` what it predicted for some rows and its table
of common effects, by the code that wrote it. Files are added, by `golden/make.py`, and never made
anew.
"""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ranef as rf
from ranef.storage import encoding

GOLDEN = Path(__file__).parent / "golden"
# A network's forward pass is in single precision.
SINGLE = {name: 1e-6 for name in ("network", "network-last", "network-full", "network-factors")}
# Bases of others, and what is said of a default prior, which a file does not hold.
NEVER_HELD = {"priors.Prior", "priors.OfPower", "priors.Stated"}
NAMES = sorted(path.stem for path in GOLDEN.glob("*.ranef"))


def test_there_are_files():
    assert len(NAMES) >= 46


def test_every_class_that_a_file_may_hold_has_a_name_that_does_not_follow_from_where_it_is():
    """A file says what it holds by name: one that is not in the table is lost once it moves."""
    assert set(encoding.register()) == set(encoding.CLASSES)
    assert all(place.startswith("ranef.") for place in encoding.CLASSES.values())


def test_golden_files_hold_every_class_that_files_have():
    held = set()
    for name in NAMES:
        with zipfile.ZipFile(GOLDEN / f"{name}.ranef") as file:
            held |= set(re.findall(r'"of": ?"([\w.]+)"', file.read("model.json").decode()))
    assert set(encoding.CLASSES) - held == NEVER_HELD


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_an_earlier_state_predicts_what_it_did(name, tmp_path):
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    rows = {column: np.array(values) for column, values in expected["rows"].items()}
    rows["holes"] = np.array(rows["holes"], float)
    fit = rf.load(GOLDEN / f"{name}.ranef")
    for again in (fit, rf.load(fit.save(tmp_path / "again.ranef"))):
        found = again.predict(rows)
        for column, values in expected["predicted"].items():
            rtol = SINGLE.get(name, 1e-9)
            np.testing.assert_allclose(found[column], values, rtol=rtol, atol=1e-12)
        means = again.fixef()
        assert list(means.index) == list(expected["fixef"])
        np.testing.assert_allclose(means, list(expected["fixef"].values()), rtol=1e-9)
