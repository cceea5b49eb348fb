"""The command line: what it prints, where it writes, how it ends."""

import contextlib
import io
import json
import signal
import subprocess
import sys
import time

import pytest

from ranef.cli.main import main

POSTED = ("linear", "random_intercepts", "network")
KEYS = {
    *("name", "formula", "mae", "log_score", "coverage_90"),
    *("method", "elbo", "converged", "steps", "seconds"),
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """What `ranef zillow --json` printed on generated sales, on both streams, and its folder."""
    out = tmp_path_factory.mktemp("zillow") / "o"
    streams = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        arguments = ["zillow", "--rows", "1500", "--family", "gaussian", "--missing", "--json"]
        status = main([*arguments, "--out", str(out)])
    assert status == 0
    return (*(stream.getvalue() for stream in streams), out)


@pytest.mark.long
def test_zillow_prints_one_json_object(generated):
    printed, progress, out = generated
    result = json.loads(printed)
    assert set(result["data"]) == {"source", "rows", "train", "validation", "zips"}
    assert set(result["constants"]) == {"mean", "median", "student"}
    assert [m["name"] for m in result["models"]] == [*POSTED, "several_effects", "varying_slope"]
    assert all(set(m) == KEYS for m in result["models"])
    assert result["out"] == str(out)
    assert json.loads((out / "results.json").read_text()) == result
    assert "fitting network" in progress
    assert result["report"] == str(out / "report.html")
    assert len(result["figures"]) == len(set(result["figures"])) > 25
    others = ("results.json", "generated/properties_2016.csv", "generated/train_2016_v2.csv")
    assert {str(p) for p in out.rglob("*") if p.is_file()} == {
        *(str(out / name) for name in others),
        result["report"],
        *result["figures"],
    }


@pytest.mark.long
def test_the_report_holds_the_results(generated):
    printed, _, out = generated
    result, page = json.loads(printed), (out / "report.html").read_text()
    for model in result["models"]:
        assert f"{model['mae']:.5f}" in page
        assert model["formula"].replace("'", "&#39;") in page
    for scores in result["constants"].values():
        assert f"{scores['mae']:.5f}" in page
    assert "not drawn" not in page
    assert page.count("<img ") == len(result["figures"])
    assert page.count("data-points=") == 8
    assert len(page) < 8e6


@pytest.mark.long
def test_gaussian_models_are_exact_but_for_the_network(generated):
    printed, _, out = generated
    result, page = json.loads(printed), (out / "report.html").read_text()
    methods = {m["name"]: m["method"] for m in result["models"]}
    assert methods.pop("network") == "svi"
    assert set(methods.values()) == {"exact"}
    assert "Method exact: the response is gaussian" in page


@pytest.mark.long
def test_sales_with_gaps_are_kept_beside(generated):
    printed, _, out = generated
    result = json.loads(printed)
    found = result["missing"]
    assert found["kept"] > found["complete"] == result["data"]["train"]
    assert set(found["missing"]) == {"area_live_finished", "build_year"}
    assert [row["fit"] for row in found["scores"]] == ["rows dropped", "rows kept", "rows kept"]
    assert "Missing values" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--properties", "x.csv"], 2, "go together"),
        (["--rows", "3"], 2, "whole number of at least 8"),
        (["--seed", "-1"], 2, "whole number of at least 0"),
        (["--rows", "abc"], 2, "whole number of at least 8, not abc"),
        (["--family", "poisson"], 2, "invalid choice"),
        (["--as-posted", "--family", "student"], 2, "Gaussian noise"),
        (["--properties", "absent.csv", "--transactions", "absent.csv"], 1, "no file or folder"),
    ],
)
def test_wrong_use_is_2_and_bad_data_1(arguments, status, message, tmp_path, capsys):
    try:
        got = main(["zillow", "--out", str(tmp_path), *arguments])
    except SystemExit as stop:
        got = stop.code
    assert got == status
    assert message in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_refused_first(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["zillow", "--out", str(tmp_path / "file" / "o")]) == 1
    assert "cannot be written to" in capsys.readouterr().err


def test_an_interrupt_leaves_no_half_written_file(tmp_path):
    run = subprocess.Popen(
        [sys.executable, "-m", "ranef.cli", "zillow", "--rows", "400000", "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "generated").glob(".*partial")) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert b"Traceback" not in err
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
