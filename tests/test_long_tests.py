"""The list of long tests names tests that there are."""

from pathlib import Path

from choose_long import long_tests

ROOT = Path(__file__).parent.parent


def test_each_named_test_is_there():
    names = (ROOT / "tests" / "long_tests.txt").read_text(encoding="utf-8").splitlines()
    assert names
    for name in names:
        path, _, test = name.partition("::")
        function = test.partition("[")[0]
        assert f"def {function}(" in (ROOT / path).read_text(encoding="utf-8"), name


def test_the_quickest_of_slow_cases_stays():
    printed = """
    9.00s call     tests/a.py::test_a[slow]
    3.00s call     tests/a.py::test_a[less slow]
    5.00s setup    tests/a.py::test_b
    0.50s call     tests/a.py::test_b
    20.0s call     tests/a.py::test_c[x]
    """
    assert long_tests(printed) == ["tests/a.py::test_a[slow]", "tests/a.py::test_c[x]"]
