"""Every public name stands in docs/reference, with its docstring and an example that uses it.

`test_examples.py` runs the examples.
"""

import re
from pathlib import Path

import pytest

import ranef as rf
from ranef.check.symptom import Check
from ranef.posterior.kfold import KFold
from ranef.posterior.loo import LeaveOneOut
from ranef.sklearn import MixedClassifier, MixedRegressor
from ranef.stacked import StackedFits

OWNERS = {
    "model": rf.Model,
    "fit": rf.Fit,
    "check": Check,
    "loo": LeaveOneOut,
    "kfold": KFold,
    "stacked": StackedFits,
    "regressor": MixedRegressor,
    "classifier": MixedClassifier,
}
PAGES = sorted((Path(__file__).parents[2] / "docs" / "reference").glob("*.md"))


def members(owner: type) -> list[str]:
    """Public methods and properties of ours, not those that a Protocol or scikit-learn brings."""
    return [
        name
        for name in dir(owner)
        if not name.startswith("_") and (callable(each := getattr(owner, name)) or _computed(each))
        if not getattr(each, "__module__", "").startswith("sklearn")
    ]


def _computed(thing: object) -> bool:
    return isinstance(thing, property) or type(thing).__name__ == "cached_property"


def public() -> dict[str, str]:
    """The heading of each public name, and what its example must contain."""
    names = {f"rf.{name}": f"rf.{name}" for name in rf.__all__ if name not in rf._MODULES}
    for module in rf._MODULES:
        names |= {f"rf.{module}.{n}": f"rf.{module}.{n}(" for n in getattr(rf, module).__all__}
    for head, owner in OWNERS.items():
        names |= {f"{head}.{name}": f".{name}" for name in members(owner)}
    return names


def sections() -> dict[str, str]:
    """The text below each heading of the reference."""
    found = {}
    for page in PAGES:
        parts = re.split(r"^##+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        found |= dict(zip(parts[1::2], parts[2::2], strict=True))
    return found


@pytest.mark.parametrize(("name", "used"), public().items())
def test_the_name_has_a_docstring_and_an_example(name, used):
    section = sections().get(name)
    assert section, f"docs/reference has no heading {name!r}"
    assert re.search(r"^\.\. auto\w+:: ranef[\w.]*\b" + name.split(".")[-1], section, re.MULTILINE)
    examples = re.findall(r"^```python\n(.*?)^```", section, flags=re.DOTALL | re.MULTILINE)
    assert any(used in example for example in examples), f"no example of {name} uses it"


def test_every_heading_of_a_name_is_one_that_there_is():
    known = public()
    owners = {"rf", *OWNERS}
    named = [head for head in sections() if head.split(".")[0] in owners and "." in head]
    assert [head for head in named if head not in known] == []


def test_the_overview_lists_what_the_pages_have():
    overview = (PAGES[0].parent / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^   ([\w.]+)$", overview, re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        entries = set(re.findall(r"^\.\. auto(?:class|function|exception):: (\S+)$", text, re.M))
        assert entries <= listed, page.name
