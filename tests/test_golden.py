"""Files that earlier states of the code have saved load, and predict what they did.

`golden/NAME.ranef` is a fit, and `golden/NAME.json` what it predicted for some rows and its table
of common effects, by the code that wrote it. Files are added and never made anew.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import ranef as rf

GOLDEN = Path(__file__).parent / "golden"
# A network's forward pass is in single precision.
SINGLE = {"network": 1e-6}
NAMES = sorted(path.stem for path in GOLDEN.glob("*.ranef"))


def test_there_are_files():
    assert len(NAMES) >= 15


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
