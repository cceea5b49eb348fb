"""`ranef zillow` on the real files, and as posted: each fits five models."""

import json

from ranef.cli.main import main

POSTED = ("linear", "random_intercepts", "network")


def test_the_models_beat_the_constants_on_the_real_files(reference_data, tmp_path, capsys):
    folder = reference_data / "zillow"
    arguments = [
        *("zillow", "--properties", str(folder / "properties_2016.csv")),
        *("--transactions", str(folder / "train_2016_v2.csv")),
        *("--out", str(tmp_path), "--json"),
    ]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["data"]["rows"] == 8_116
    for model in result["models"]:
        assert model["converged"]
        assert 0.86 < model["coverage_90"] < 0.92
        if model["name"] in POSTED:
            assert model["mae"] < result["constants"]["median"]["mae"]
            assert model["log_score"] > result["constants"]["student"]["log_score"] + 0.002


def test_as_posted_fixes_the_noise_and_marks_the_point_estimate(tmp_path, capsys):
    arguments = ["zillow", "--as-posted", "--rows", "1500", "--out", str(tmp_path)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for word in ("constant: median", "linear", "random_intercepts", "network", "known truth"):
        assert word in text
    assert text.splitlines()[-1] == f"report: {tmp_path / 'report.html'}"
    page = (tmp_path / "report.html").read_text()
    assert "point estimate" in page
    assert "fixed" in page
