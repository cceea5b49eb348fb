"""The version is stated in pyproject.toml; whatever else names it agrees."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import ranef

ROOT = Path(__file__).parent.parent
STATED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_package_has_the_version_that_pyproject_states():
    assert ranef.__version__ == version("ranef") == STATED
    assert "__version__" in dir(ranef)


def test_the_changelog_and_the_citation_are_of_this_version():
    releases = re.findall(r"^## (\S+) \(", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.findall(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert releases[0] == STATED
    assert cited == [STATED]
    assert f"version = {{{STATED}}}" in (ROOT / "docs" / "citing.md").read_text()


def test_no_module_states_it_again():
    for path in (ROOT / "src").rglob("*.py"):
        assert f'"{STATED}"' not in path.read_text(), path
