"""`ranef fit`, `predict` and `report`: a fit kept in a file, and what is made of it."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import ranef as rf
from ranef.cli.main import main
from ranef.data import tables

FORMULA = "y ~ x + (1 | g)"


@pytest.fixture(scope="module")
def folder(grouped, tmp_path_factory):
    """Rows as CSV and Parquet, and a fit that the command has written."""
    folder = tmp_path_factory.mktemp("keep")
    columns = {name: pa.array(values) for name, values in grouped.items()}
    for name in ("rows.csv", "rows.parquet"):
        tables.write(folder / name, columns)
    assert main(["fit", str(folder / "rows.csv"), FORMULA, "--out", str(folder / "a.ranef")]) == 0
    return folder


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    return (status, *capsys.readouterr())


def test_fit_writes_what_the_library_would(folder, capsys):
    out = folder / "b.ranef"
    status, printed, said = run(
        capsys, "fit", folder / "rows.csv", FORMULA, "--out", out, "--json", "--draws", 200
    )
    assert (status, said) == (0, "")
    result = json.loads(printed)
    assert result["out"] == str(out.resolve())
    fit = rf.Model(FORMULA).fit(folder / "rows.csv", draws=200, progress=False)
    found = rf.load(out)
    pd.testing.assert_frame_equal(fit.summary(), found.summary(), check_exact=True)
    assert [p["parameter"] for p in result["parameters"]] == list(fit.summary().index)
    assert result["parameters"][0]["mean"] == fit.summary()["mean"].iloc[0]
    assert (result["method"], result["verdict"]) == ("exact", fit.check().verdict)
    assert result["rows"] == {"read": 300, "used": 300, "dropped": {}}


def test_fit_prints_a_table_for_a_person(folder, capsys):
    _, printed, _ = run(
        capsys, "fit", folder / "rows.parquet", FORMULA, "--out", folder / "b.ranef"
    )
    for text in ("1|g_sigma", "300 rows read, 300 used", "trust", str(folder / "b.ranef")):
        assert text in printed


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_predictions_are_those_of_the_library(folder, capsys, kind):
    out = folder / f"predictions.{kind}"
    asked = ["--kind", "response", "--interval", "0.5", "--new-levels", "sample", "--seed", "4"]
    status, printed, _ = run(
        capsys,
        *("predict", folder / "a.ranef", folder / "rows.csv", "--out", out),
        *(*asked, "--keep", "g", "--keep", "x", "--json"),
    )
    assert status == 0
    assert json.loads(printed) == {
        "rows": 300,
        "columns": ["g", "x", "mean", "sd", "lower", "upper"],
        "out": str(out.resolve()),
    }
    written = pd.read_csv(out) if kind == "csv" else pd.read_parquet(out)
    expected = rf.load(folder / "a.ranef").predict(
        folder / "rows.csv", kind="response", interval=0.5, new_levels="sample", seed=4
    )
    np.testing.assert_array_equal(written[["mean", "sd", "lower", "upper"]], expected)
    assert list(written["g"]) == list(pd.read_csv(folder / "rows.csv")["g"])


def test_a_page_about_a_kept_fit(folder, capsys):
    status, printed, _ = run(
        capsys, "report", folder / "a.ranef", "--out", folder / "page.html", "--json"
    )
    assert status == 0
    assert json.loads(printed) == {"out": str((folder / "page.html").resolve())}
    assert "y ~ x + (1 | g)" in (folder / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "none.csv", FORMULA, "--out", "b"], "there is no file or folder"),
        (["fit", "rows.csv", "y ~ nope", "--out", "b"], "column 'nope' is not in"),
        (["fit", "rows.csv", "y ~ (", "--out", "b"], "^"),
        (["fit", "rows.csv", FORMULA, "--out", "none/b"], "there is no folder"),
        (["fit", "rows.csv", FORMULA, "--out", "."], "is a folder"),
        (["predict", "rows.csv", "rows.csv", "--out", "p.csv"], "is not a saved fit"),
        (["predict", "none", "rows.csv", "--out", "p.csv"], "there is no file"),
        (["predict", "a.ranef", "rows.csv", "--out", "p.csv", "--keep", "no"], "column 'no'"),
        (["report", "rows.csv", "--out", "p.html"], "is not a saved fit"),
        (["report", "a.ranef", "--out", "none/p.html"], "there is no folder"),
    ],
)
def test_what_cannot_be_done_is_said(folder, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(folder)
    status, printed, error = run(capsys, *arguments)
    assert (status, printed) == (1, "")
    assert said in error
    assert "Traceback" not in error
    assert not (folder / "p.csv").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "rows.csv", FORMULA],
        ["fit", "rows.csv", FORMULA, "--out", "b", "--family", "cauchy"],
        ["fit", "rows.csv", FORMULA, "--out", "b", "--draws", "1"],
        ["predict", "a.ranef", "rows.csv", "--out", "p.xlsx"],
        ["predict", "a.ranef", "rows.csv", "--out", "p.csv", "--interval", "1.5"],
        ["predict", "a.ranef", "rows.csv", "--out", "p.csv", "--keep", "mean"],
    ],
)
def test_wrong_usage_is_two(folder, capsys, monkeypatch, arguments):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: ranef" in capsys.readouterr().err


def test_a_level_never_seen_is_refused_with_the_remedy(folder, capsys):
    (folder / "new.csv").write_text("x,g\n1.0,never\n")
    arguments = ["predict", folder / "a.ranef", folder / "new.csv", "--out", folder / "p.csv"]
    status, _, error = run(capsys, *arguments)
    assert status == 1
    assert "'never'" in error
    status, _, _ = run(capsys, *arguments, "--new-levels", "zero")
    assert status == 0
    (folder / "p.csv").unlink()


def test_compare_prints_what_the_library_says(folder, capsys):
    other = folder / "c.ranef"
    assert main(["fit", str(folder / "rows.csv"), "y ~ x", "--out", str(other)]) == 0
    capsys.readouterr()
    files = (folder / "a.ranef", other)
    status, printed, _ = run(capsys, "compare", *files, "--json", "--group", "g")
    assert status == 0
    found = json.loads(printed)
    table = rf.compare({"a": rf.load(files[0]), "c": rf.load(files[1])}, group="g")
    assert [f["fit"] for f in found["fits"]] == list(table.index)
    assert found["fits"][1]["difference"] == table["difference"].iloc[1]
    assert found["fits"][0]["file"] == str(files[0].resolve())
    status, printed, _ = run(capsys, "compare", *files, "--data", folder / "rows.parquet")
    assert status == 0
    assert "weight" in printed
    assert run(capsys, "compare", *files, "--group", "h")[0] == 1
