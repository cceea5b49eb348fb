"""The command line's own words: options in messages, priors as texts, what help lists first."""

import argparse
import sys

import pytest

import ranef as rf
from ranef.cli.main import _parser, main
from ranef.cli.prior_texts import assignment
from ranef.cli.words import in_words


@pytest.fixture(scope="module")
def commands():
    return _parser()[1]


@pytest.mark.parametrize(
    ("command", "message", "said"),
    [
        (
            "predict",
            "use new_levels='sample' or new_levels='zero'",
            "use --new-levels sample or --new-levels zero",
        ),
        ("predict", "interval must be a probability", "--interval must be a probability"),
        ("predict", "groups=None, or groups=['g', 'h']", "--groups none, or --groups g,h"),
        ("predict", "compare with method='nuts'", "compare with ranef fit --method nuts"),
        ("compare", "by group= or on data=, not both", "by --group or on --data, not both"),
        (
            "fit",
            "as in priors={'sigma': 1.0, '1|g_sigma': 2.0}",
            "as in --prior sigma=1.0 --prior '1|g_sigma=2.0'",
        ),
        ("fit", "with draws=1,200 or fewer", "with --draws 1200 or fewer"),
        ("fit", "write missing=('NA',) for it", "write --missing NA for it"),
        (
            "fit",
            "write family=rf.Mixture('gaussian', k=2), or",
            "write --family 'mixture(gaussian, gaussian)', or",
        ),
        ("fit", "method 'exact' has no option 'chains'", "method 'exact' has no option --chains"),
        # What formulas say stays: arguments of calls, and the lines with the caret.
        ("fit", "mi(x, family=poisson) is refused", "mi(x, family=poisson) is refused"),
        ("fit", "wrong\n  y ~ family=x\n    ^", "wrong\n  y ~ family=x\n    ^"),
        ("fit", "rows of x == 3 and family == 'a'", "rows of x == 3 and family == 'a'"),
    ],
)
def test_messages_name_options(commands, command, message, said):
    assert in_words(message, command, commands) == said


@pytest.mark.parametrize(
    ("text", "name", "prior"),
    [
        ("x=normal(0, 1)", "x", rf.Normal(0, 1)),
        ("x=Normal(mu=-1, sigma=.5)", "x", rf.Normal(-1, 0.5)),
        ("sigma = 2.5", "sigma", 2.5),
        ("I(x == 3)=student_t(3,0,1)", "I(x == 3)", rf.StudentT(3, 0, 1)),
        ("1|g_sigma=half_normal(1e-1)", "1|g_sigma", rf.HalfNormal(0.1)),
        ("sigma=variance(inverse_gamma(2, 1))", "sigma", rf.Variance(rf.InverseGamma(2, 1))),
        ("f=normal([0, 1], [2, 3])", "f", rf.Normal((0, 1), (2, 3))),
        ("common=flat()", "common", rf.Flat()),
        ("g_corr=LKJ(2)", "g_corr", rf.LKJ(2)),
    ],
)
def test_priors_are_read(text, name, prior):
    assert assignment(text) == (name, prior)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "must be NAME=PRIOR"),
        ("=2", "must be NAME=PRIOR"),
        ("x=normal(0, 1", "must be NAME=PRIOR"),
        ("x=__import__('os')", "must be NAME=PRIOR"),
        ("x=norml(0, 1)", "did you mean 'Normal'?"),
        ("x=normal(0, -1)", "x: Normal: sigma must be above zero, not -1.0"),
        ("x=normal(0, 1, 2)", "Normal takes mu and sigma, each once"),
        ("x=normal(0, mu=1)", "Normal takes mu and sigma, each once"),
        ("x=fixed(1)", "there is no prior 'fixed'"),
        ("s=variance()", "Variance needs prior"),
        ("s=variance(2)", "as in Variance(InverseGamma(2, 1)), not 2"),
    ],
)
def test_what_is_no_prior_is_refused(text, said):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        assignment(text)
    assert said in str(caught.value)


def test_help_begins_with_what_all_need(commands, capsys):
    general = ["fit", "predict", "show", "report", "compare", "completion"]
    assert list(commands) == [*general, "zillow"]
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert printed.index("completion") < printed.index("zillow")
    assert "exit status: 0 done; 1" in printed
    assert "3 with --strict" in printed


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"ranef {rf.__version__}\n")


def test_completion_without_its_extra_says_which(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert "install it with pip install 'ranef[completion]'" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command_and_option(shell, commands, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*commands, "new-levels", "prior", "strict"):
        assert word in script
