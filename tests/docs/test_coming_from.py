"""The calls in the tables of docs/coming_from.md run, and its formulas fit the page's table."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import ranef as rf

PAGE = Path(__file__).parents[2] / "docs" / "coming_from.md"


def calls(text: str) -> list[str]:
    """The code of the middle cell of every row of the page's tables, without repetitions."""
    rows = (re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("| "))
    cells = [cells[2].replace("\\|", "|") for cells in rows]
    return list(dict.fromkeys(code for cell in cells for code in re.findall(r"`([^`]+)`", cell)))


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the block of the page defines."""
    block = re.search(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert block
    found: dict = {"rf": rf}
    exec(compile(block[1], str(PAGE), "exec"), found)  # noqa: S102
    return found


@pytest.mark.parametrize("code", calls(PAGE.read_text()))
def test_the_call_runs(code, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if code.startswith("rf.load"):
        names["fit"].save("slopes.ranef")
    try:
        compiled = compile(code, str(PAGE), "eval")
    except SyntaxError:  # a formula
        compiled = None
    answer = rf.Model(code) if compiled is None else eval(compiled, names)
    plt.close("all")
    assert answer is not None or code.startswith("fit.save")
    if isinstance(answer, rf.Model):
        assert answer.priors_for(names["table"])
