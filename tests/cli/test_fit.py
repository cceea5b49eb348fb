"""`ranef fit`, `predict`, `show` and `report`: a fit kept in a file, and what is made of it."""

import io
import json
import sys

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
        ["fit", "rows.csv", FORMULA, "--out", "b", "--chains", "0"],
        ["fit", "rows.csv", FORMULA, "--out", "b", "--prior", "x=norml(0, 1)"],
        ["fit", "rows.csv", FORMULA, "--out", "b", "--prior", "x=1", "--prior", "x=2"],
        ["predict", "a.ranef", "rows.csv", "--out", "-", "--json"],
        ["predict", "a.ranef", "rows.csv", "--out", "p.csv", "--quantiles", "0.1,2"],
        ["show", "a.ranef", "--interval", "2"],
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
    assert "use --new-levels sample or --new-levels zero" in error
    status, _, _ = run(capsys, *arguments, "--new-levels", "zero")
    assert status == 0
    (folder / "p.csv").unlink()


def test_a_kept_fit_is_shown(folder, capsys):
    fit = rf.load(folder / "a.ranef")
    status, printed, _ = run(capsys, "show", folder / "a.ranef", "--interval", 0.5)
    assert status == 0
    for text in (FORMULA, "family gaussian", "exact:", "300 rows read", "trust"):
        assert text in printed
    assert f"{fit.summary(0.5).loc['x', 'lower']:.6f}" in printed
    status, printed, _ = run(capsys, "show", folder / "a.ranef", "--json")
    shown = json.loads(printed)
    assert (status, shown["file"]) == (0, str((folder / "a.ranef").resolve()))
    fitted = ["fit", folder / "rows.csv", FORMULA, "--out", folder / "b.ranef", "--json"]
    made = json.loads(run(capsys, *fitted)[1])
    same = set(made) - {"out", "seconds"}
    assert same == set(shown) - {"file", "seconds"}
    assert {name: made[name] for name in same} == {name: shown[name] for name in same}


def test_priors_are_given_by_name(folder, capsys):
    out = folder / "b.ranef"
    asked = ["--prior", "x=normal(0, 0.001)", "--prior", "sigma=2", "--json"]
    status, printed, _ = run(
        capsys, "fit", folder / "rows.csv", FORMULA, "--out", out, *asked, "--interval", 0.5
    )
    assert status == 0
    found = {p["parameter"]: p for p in json.loads(printed)["parameters"]}
    assert abs(found["x"]["mean"]) < 0.01
    assert (found["sigma"]["mean"], found["sigma"]["kind"]) == (2.0, "fixed")
    priors = {"x": rf.Normal(0, 0.001), "sigma": 2.0}
    fit = rf.Model(FORMULA, priors=priors).fit(folder / "rows.csv", progress=False)
    assert found["x"]["upper"] == fit.summary(0.5).loc["x", "upper"]
    status, _, error = run(
        capsys, "fit", folder / "rows.csv", FORMULA, "--out", out, "--prior", "nothing=2"
    )
    assert status == 1
    assert "'nothing'" in error


def test_strict_ends_in_three_after_writing(folder, capsys, monkeypatch):
    from ranef.check import Check, Symptom

    bad = Check((Symptom("k-hat is 2", "it is off", "use method='nuts'", "distrust"),), ())
    monkeypatch.setattr(rf.Fit, "check", lambda fit, quick=False: bad)
    out = folder / "strict.ranef"
    asked = ["fit", folder / "rows.csv", FORMULA, "--out", out]
    assert run(capsys, *asked)[0] == 0
    out.unlink()
    status, printed, _ = run(capsys, *asked, "--strict")
    assert status == 3
    assert out.exists()
    assert "it is off; use --method nuts" in printed
    status, printed, _ = run(capsys, "show", out, "--strict", "--json")
    assert (status, json.loads(printed)["verdict"]) == (3, "distrust")
    assert json.loads(printed)["reasons"] == list(bad.reasons)


def test_a_dash_is_standard_input_or_output(folder, capsys, monkeypatch):
    def piped(name: str) -> None:
        raw = io.BytesIO((folder / name).read_bytes())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))

    piped("rows.csv")
    out = folder / "piped.ranef"
    assert run(capsys, "fit", "-", FORMULA, "--out", out)[0] == 0
    pd.testing.assert_frame_equal(rf.load(out).summary(), rf.load(folder / "a.ranef").summary())
    piped("rows.csv")
    status, printed, said = run(capsys, "predict", out, "-", "--out", "-", "--keep", "g")
    assert (status, said) == (0, f"predicting standard input from {out}\n")
    expected = rf.load(out).predict(folder / "rows.csv")
    found = pd.read_csv(io.StringIO(printed))
    assert list(found.columns) == ["g", "mean", "sd", "lower", "upper"]
    np.testing.assert_array_equal(found[["mean", "sd", "lower", "upper"]], expected)
    piped("rows.csv")
    status, printed, error = run(capsys, "fit", "-", "y ~ nope", "--out", out)
    assert (status, printed) == (1, "")
    assert "column 'nope' is not in standard input" in error


def test_population_predictions_need_no_groups(folder, capsys):
    (folder / "bare.csv").write_text("x\n1.0\n2.0\n")
    asked = ["predict", folder / "a.ranef", folder / "bare.csv", "--out", "-"]
    assert run(capsys, *asked)[0] == 1
    status, printed, _ = run(capsys, *asked, "--groups", "none")
    assert status == 0
    found = pd.read_csv(io.StringIO(printed))
    fit = rf.load(folder / "a.ranef")
    np.testing.assert_allclose(found, fit.predict(folder / "bare.csv", groups=None))
    status, _, error = run(capsys, *asked, "--groups", "g,h")
    assert status == 1
    assert "no grouping 'h'" in error
    (folder / "gap.csv").write_text('x\n1.0\n""\n')
    asked[2] = folder / "gap.csv"
    asked += ["--groups", "none", "--quantiles", "0.1, 0.5"]
    assert run(capsys, *asked)[0] == 1
    status, printed, _ = run(capsys, *asked, "--missing", "keep")
    assert status == 0
    found = pd.read_csv(io.StringIO(printed))
    expected = fit.predict(folder / "bare.csv", groups=None, quantiles=[0.1, 0.5])
    assert list(found.columns) == ["mean", "sd", "lower", "upper", "q[0.1]", "q[0.5]"]
    np.testing.assert_allclose(found.iloc[0], expected.iloc[0])
    assert found.iloc[1].isna().all()


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
