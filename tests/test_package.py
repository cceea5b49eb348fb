"""What is published: the wheel holds its types, and its page links to no file."""

import email
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def metadata(wheel):
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_the_wheel_says_that_it_is_typed(wheel):
    assert "ranef/py.typed" in wheel.namelist()
    assert "Typing :: Typed" in metadata(wheel).get_all("Classifier")


def test_the_page_of_the_package_names_files_and_links_to_none(wheel):
    page = metadata(wheel).get_payload(decode=True).decode("utf-8")
    targets = re.findall(r"\]\(([^)]*)\)", page)
    assert [t for t in targets if not re.match(r"https?://|mailto:|#", t)] == []
    named = set(re.findall(r"`((?:docs|benchmarks)/\w+\.md)`", page))
    assert {"docs/guide.md", "docs/method.md", "benchmarks/README.md"} <= named
    assert [path for path in named if not (ROOT / path).is_file()] == []
