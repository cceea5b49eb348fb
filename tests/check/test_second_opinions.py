"""Nothing is trusted without a look: which second opinion every kind of fit gets."""

from dataclasses import replace

import numpy as np
import pytest

import ranef as rf
from ranef.check import check
from ranef.check.approximation import _compared, second_opinion
from ranef.check.deadline import Deadline, OutOfTimeError
from ranef.check.networks import gain, means, networks
from ranef.check.reference import Reference
from ranef.check.reference_chains import short_chains
from ranef.check.reference_importance import sampled
from ranef.check.symptom import Check, Symptom
from ranef.inference.base import Draws
from ranef.posterior.posterior import Posterior
from ranef.program.problem_builder import build_problem

N = 200
RNG = np.random.default_rng(5)
G, H, X = RNG.integers(0, 12, N), RNG.integers(0, 10, N), RNG.normal(size=N)
EFFECTS = RNG.normal(size=12)[G] + RNG.normal(size=10)[H]
TABLE = {
    "x": X,
    "g": np.array([f"g{i}" for i in G]),
    "h": np.array([f"h{i}" for i in H]),
    "gap": np.where(RNG.random(N) < 0.1, np.nan, X),
    "y": X + EFFECTS + np.exp(0.3 * X) * RNG.normal(size=N),
    "yes": (RNG.random(N) < 1 / (1 + np.exp(-X - EFFECTS))).astype(float),
    "wave": np.sin(2 * X) + EFFECTS + 0.5 * RNG.normal(size=N),
}
EXACT = "exact density"
THROUGH = "importance draws through the program"
CHAINS = "short chains of all parameters"
NETWORK = "rows held out"
NUTS = {"tune": 100, "draws": 100}
# Formula, family, method and its options, and what each second opinion says, () for none.
FITS = {
    "exact, nested": ("y ~ x + (1 | g)", "gaussian", "exact", {}, [EXACT]),
    "exact, slopes": ("y ~ x + (1 + x | g)", "gaussian", "exact", {}, [EXACT]),
    "exact, crossed": ("y ~ x + (1 | g) + (1 | h)", "gaussian", "exact", {}, [EXACT]),
    "exact, no scales": ("y ~ x", "gaussian", "exact", {}, [EXACT]),
    "exact, process": ("y ~ gp(x) + (1 | g)", "gaussian", "exact", {}, [EXACT]),
    "laplace, gaussian": ("y ~ x + (1 | g)", "gaussian", "laplace", {}, [EXACT]),
    "laplace, sigma": ("y ~ x + (1 | g); sigma ~ x", "gaussian", "laplace", {}, [THROUGH]),
    "laplace, nested": ("yes ~ x + (1 | g)", "bernoulli", "laplace", {}, [THROUGH]),
    "laplace, crossed": ("yes ~ x + (1 | g) + (1 | h)", "bernoulli", "laplace", {}, [CHAINS]),
    "meanfield, nested": (
        "y ~ x + (1 | g)",
        "gaussian",
        "svi",
        {"guide": "meanfield", "steps": 500},
        [EXACT],
    ),
    "svi, factors": ("y ~ x + mf(g, h, rank=2)", "gaussian", "svi", {}, []),
    "svi, network": ("wave ~ nn(x, hidden=[5]) + (1 | g)", "gaussian", "svi", {}, [EXACT, NETWORK]),
    "nuts, nested": ("y ~ x + (1 | g)", "gaussian", "nuts", NUTS, ["chains that began apart"]),
}


def fitted(formula, family, method, options):
    model = rf.Model(formula, family=family)
    return model.fit(TABLE, method=method, progress=False, **options)


@pytest.mark.parametrize("name", FITS)
def test_a_look_is_named_or_the_fit_is_unchecked(name):
    *how, expected = FITS[name]
    fit = fitted(*how)
    found = check(fit._known, seconds=60.0)
    assert len(found.looked) == len(expected)
    for phrase, part in zip(found.looked, expected, strict=True):
        assert part in phrase
    assert (found.verdict == "trust") <= bool(found.looked)
    assert bool(found.looked) != any(s.weight == "unchecked" for s in found.symptoms)
    assert str(found).splitlines()[-3].startswith("second opinion: ")
    if not expected:
        assert "no second opinion could be had" in str(found)


@pytest.mark.parametrize("hidden", [3, 90])
def test_networks_with_a_posterior_of_all_weights_are_looked_at(hidden):
    """Their program runs at given directions; of 271 weights it draws the rest to predict alone."""
    formula = f"yes ~ nn(x, hidden=[{hidden}], weights='full') + (1 | g)"
    fit = fitted(formula, "bernoulli", "svi", {"steps": 100, "draws": 100})
    looked = check(fit._known, seconds=60.0).looked
    assert any(CHAINS in phrase or THROUGH in phrase for phrase in looked)


def test_trust_takes_a_look():
    known = Symptom("seen", "it is so", "read it", "trust")
    assert Check((), ()).verdict == "unchecked"
    assert Check((known,), ()).verdict == "unchecked"
    assert Check((known,), ("chains",)).verdict == "trust"
    grave = Symptom("seen", "it is so", "read it", "caution")
    assert Check((grave,), ()).verdict == "caution"


@pytest.fixture(scope="module")
def answers():
    return fitted("yes ~ x + (1 | g)", "bernoulli", "laplace", {})


def test_without_time_nothing_is_trusted(answers):
    found = check(answers._known, seconds=0.0)
    assert found.verdict == "unchecked"
    assert "not complete within 0 seconds" in found.reasons[0]
    with pytest.raises(OutOfTimeError):
        Deadline(0.0).tick()


def test_the_summary_says_that_nothing_was_checked():
    fit = fitted("yes ~ x + (1 | g)", "bernoulli", "laplace", {})
    assert "verdict: unchecked" in str(fit.summary())
    assert fit.check().verdict == "trust"
    assert "verdict: trust" in str(fit.summary())


def test_short_chains_find_what_importance_sampling_does(answers):
    """Two references that share the program alone agree on moments, and both see what is wrong."""
    known = answers._known
    problem = build_problem(known.program, known.training)
    one, other = (look(known, problem, Deadline(60)) for look in (sampled, short_chains))
    assert isinstance(one, Reference)
    assert isinstance(other, Reference)
    assert one.labels == other.labels
    sd = np.sqrt(np.diag(one.covariance))
    np.testing.assert_allclose((other.mean - one.mean) / sd, 0, atol=0.25)
    np.testing.assert_allclose(np.sqrt(np.diag(other.covariance)) / sd, 1, atol=0.2)
    for name, (_, _, mean, spread) in one.levels.items():
        np.testing.assert_allclose((other.levels[name][2] - mean) / spread, 0, atol=0.35)


def test_short_chains_look_at_weights_beside_a_smooth_function():
    """The scales of a network's weights stand in no block of the program, unlike those of gp()."""
    x = RNG.normal(size=60)
    table = {"x": x, "y": np.sin(x) + RNG.normal(0, 0.3, 60)}
    model = rf.Model("y ~ gp(x, m=4) + nn(x, hidden=[2], weights='full')")
    known = model.fit(table, method="svi", steps=50, draws=50, progress=False)._known
    problem = build_problem(known.program, known.training)
    problem = problem.conditioned_on(known.draws.points, known.draws.carried)
    assert isinstance(short_chains(known, problem, Deadline(60)), Reference)


@pytest.mark.parametrize(("factor", "shift"), [(0.5, 0.0), (1.0, 0.8)])
def test_short_chains_leave_draws_that_are_wrong(factor, shift, monkeypatch):
    monkeypatch.setattr("ranef.check.reference_importance._COST", 0)
    fit = fitted("yes ~ x + (1 | g)", "bernoulli", "laplace", {})
    sites = {name: np.array(fit.draws.sites[name]) for name in fit.draws.sites}
    scale = np.log(sites["1|g_sigma"])
    wrong = scale.mean() + factor * (scale - scale.mean()) + shift * scale.std()
    draws = Draws(lambda: {**sites, "1|g_sigma": np.exp(wrong)}, {}, {}, True, "m")
    opinion = second_opinion(Posterior(fit.program, fit.training, draws), Deadline(60))
    assert CHAINS in opinion.looked[0]
    assert any("1|g_sigma" in s.sign and s.weight == "distrust" for s in opinion.symptoms)


def test_the_sd_of_a_scale_near_zero_under_a_uniform_prior_is_not_cried_over():
    """Of the logit of a scale that may be zero most of the sd is that of values near zero."""
    rng = np.random.default_rng(1)
    year = np.arange(1, 41)
    eta = 3.5576 - 0.0912 * year + 0.0091 * year**2 - 0.00014 * year**3
    y = rng.poisson(np.exp(eta + 0.05 * rng.normal(size=40)))
    table = {"y": y, "t": (year - 20.5) / 20, "id": year.astype(str)}
    flat = {"common": rf.Flat(), "Intercept": rf.Flat(), "1|id_sigma": rf.Uniform(0.0, 5.0)}
    model = rf.Model("y ~ t + I(t**2) + I(t**3) + (1 | id)", family="poisson", priors=flat)
    fit = model.fit(table, method="laplace", progress=False)
    problem = build_problem(fit.program, fit.training)
    found = sampled(fit._known, problem, Deadline(60))
    assert isinstance(found, Reference)
    # 20,000 draws of nuts with target_accept=0.99 have the mean .0736 and the sd .0267.
    _, values, weights = found.scales["1|id_sigma"]
    mean = weights @ values
    assert mean == pytest.approx(0.0736, abs=0.003)
    assert np.sqrt(weights @ (values - mean) ** 2) == pytest.approx(0.0267, abs=0.002)
    symptoms = _compared(found, fit.draws)
    assert not any(s.sign.startswith("the sd of 1|id_sigma") for s in symptoms)


def test_a_network_that_has_learned_something_predicts_rows_held_out():
    formula = "wave ~ nn(x, hidden=[5]) + (1 | g)"
    fit = fitted(formula, "gaussian", "svi", {})
    known, label = fit._known, "nn(x, hidden=[5])"
    difference, phrase = gain(known, [label], Deadline(60))
    assert len(difference) == N // 10
    assert difference.mean() > 2 * difference.std() / np.sqrt(len(difference))
    assert "20 rows held out" in phrase
    # Of a network whose output is turned round the rows held out say so.
    last = max(name for name in fit.draws.points if name.endswith("kernel"))
    points = {**fit.draws.points, last: -3 * np.asarray(fit.draws.points[last])}
    turned = Posterior(fit.program, fit.training, replace(fit.draws, points=points))
    symptoms, looked = networks(turned, Deadline(60))
    assert NETWORK in looked[0]
    assert [s.weight for s in symptoms if "rows held out have a lower density" in s.sign] == [
        "caution"
    ]


def test_effects_that_carry_a_level_are_named():
    fit = fitted("y ~ x + (1 | g)", "gaussian", "exact", {})
    assert list(means(fit._known)) == []
    far = {**TABLE, "y": TABLE["y"] + 50.0}
    model = rf.Model("y ~ 0 + x + (1 | g)", priors={"1|g_sigma": 5.0})
    [symptom] = means(model.fit(far, method="exact", progress=False)._known)
    assert symptom.weight == "caution"
    assert symptom.sign.startswith("the effects 1|g have the mean")


def test_sds_of_many_levels_are_not_widened_by_the_noise_of_their_means():
    """Of 100 levels at once, sixteen draws have weights so uneven that few count for all."""
    rng = np.random.default_rng(0)
    g, x = np.arange(400) % 100, rng.normal(size=400)
    eta = -0.5 + x + 1.5 * rng.normal(size=100)[g]
    table = {"y": (rng.random(400) < 1 / (1 + np.exp(-eta))).astype(int), "x": x, "g": g}
    fit = rf.Model("y ~ x + (1 | g)", family="bernoulli").fit(table, progress=False)
    problem = build_problem(fit.program, fit.training)
    found = sampled(fit._known, problem, Deadline(60))
    assert isinstance(found, Reference)
    sds = found.levels["1|g"][3]
    np.testing.assert_allclose(np.median(sds / fit.ranef("g")["sd"].to_numpy()), 1.0, atol=0.05)
