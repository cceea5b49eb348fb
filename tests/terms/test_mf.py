"""mf(): its updates are the optima they claim to be, and what is asked of a fit."""

import jax
import numpy as np
import numpyro
import pandas as pd
import pytest
import scipy.stats as st
from numpyro.infer.util import log_density

import ranef as rf
from contract_term import learn
from ranef.inference.block_ascent.factor_draws import FactorDraws, LazyFactorDraws
from ranef.inference.block_ascent.factor_posterior import (
    FactorPosterior,
    RatingsTable,
    ScalePosterior,
    TermPosterior,
)
from ranef.inference.block_ascent.matrix_factorization import CombinedDraws
from ranef.inference.mcmc.identified_draws import comparable
from ranef.numerics.chain_diagnostics import convergence
from ranef.numerics.counter_rng import CounterRNG
from ranef.program import posterior_variables
from ranef.storage.effect_checks import refuse_unsound
from ranef.terms.blocks import Bilinear

FORMULA = "y ~ (1 | user) + (1 | item) + mf(user, item, rank=4)"
TAU = np.array([1.2, 0.8])
USERS, ITEMS = 150, 80


def generated(seed: int = 4, share: float = 0.25) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    cells = rng.choice(USERS * ITEMS, int(share * USERS * ITEMS), replace=False)
    user, item = cells // ITEMS, cells % ITEMS
    u, v = rng.normal(size=(USERS, 2)) * TAU, rng.normal(size=(ITEMS, 2))
    a, b = 0.5 * rng.normal(size=USERS), 0.4 * rng.normal(size=ITEMS)
    eta = 3 + a[user] + b[item] + (u[user] * v[item]).sum(axis=1)
    return {
        "user": np.char.add("u", user.astype(str)),
        "item": np.char.add("i", item.astype(str)),
        "y": eta + rng.normal(size=len(eta)),
        "eta": eta,
    }


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    return generated()


@pytest.fixture(scope="module")
def fit(rows) -> rf.Fit:
    train = {name: values[:2400] for name, values in rows.items()}
    return rf.Model(FORMULA).fit(train, progress=False, draws=400)


@pytest.fixture(scope="module")
def table() -> tuple[RatingsTable, np.ndarray, np.ndarray]:
    """Rows of a table with several rows in some cells, their weights, and what is left of y."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 12, 200), rng.integers(0, 9, 200)
    weights = rng.uniform(0.5, 2.0, 200)
    term = Bilinear(codes, (12, 9), 3, ("u", "v"), "tau")
    y = rng.normal(size=(12, 2))[codes[0]] * rng.normal(size=(9, 2))[codes[1]]
    return RatingsTable(term, weights), weights, y.sum(axis=1) + 0.5 * rng.normal(size=200)


def test_a_side_given_the_other_is_its_posterior(table):
    """(diag(E tau^-2) + beta sum w E vv')^-1 and its mean, level by level."""
    table, weights, r = table
    rng = np.random.default_rng(1)
    root = 0.3 * rng.normal(size=(9, 3, 3))
    v = FactorPosterior(rng.normal(size=(9, 3)), root @ root.transpose(0, 2, 1))
    scales = ScalePosterior.of(rf.HalfNormal(1.0), np.array([5.0, 9.0, 20.0]), 12)
    fixed = TermPosterior(
        FactorPosterior(np.zeros((12, 3)), np.zeros((12, 3, 3))), v, scales, rf.priors.Fixed(1.0)
    )
    found = table.sweep(fixed, r, 2.5, held=True)
    for j in range(12):
        own = table.left == j
        m, w = table.right[own], weights[own]
        precision = np.diag(scales.precision) + 2.5 * np.einsum("i,ikl->kl", w, v.second[m])
        mean = np.linalg.solve(precision, 2.5 * (w * r[own]) @ v.mean[m])
        np.testing.assert_allclose(found.u.covariance[j], np.linalg.inv(precision), rtol=1e-9)
        np.testing.assert_allclose(found.u.mean[j], mean, rtol=1e-8)
    mean, variance = table.moments(found)
    i = 17
    u = found.u.mean[table.left[i]], found.u.covariance[table.left[i]]
    v = found.v.mean[table.right[i]], found.v.covariance[table.right[i]]
    np.testing.assert_allclose(mean[i], u[0] @ v[0])
    expected = u[0] @ v[1] @ u[0] + v[0] @ u[1] @ v[0] + np.sum(u[1] * v[1])
    np.testing.assert_allclose(variance[i], expected)


@pytest.mark.parametrize("prior", [rf.Flat(), rf.priors.Fixed(0.7), rf.PointEstimate()])
def test_the_bound_rises_with_every_sweep(prior, table):
    """Each part, the turning of the axes included, is the optimum given the others."""
    table, weights, r = table
    q, before = TermPosterior.begin(table, prior, r, [0]), -np.inf
    for _ in range(40):
        q = table.sweep(q, r, 4.0)
        mean, variance = table.moments(q)
        bound = q.bound - 2.0 * np.sum(weights * ((r - mean) ** 2 + variance))
        assert bound >= before - 1e-7
        before = bound


def test_the_posterior_of_a_scale_is_a_quadrature():
    """Of a flat prior tau^-2 is Gamma((J - 1) / 2, S / 2)."""
    squares, levels = np.array([3.0, 400.0]), 30
    scales = ScalePosterior.of(rf.Flat(), squares, levels)
    law = st.gamma((levels - 1) / 2, scale=2 / squares)
    np.testing.assert_allclose(scales.precision, law.mean(), rtol=1e-4)
    drawn = scales.draw(np.random.default_rng(0), 20_000)
    for column, scale in zip(drawn.T, 2 / squares, strict=True):
        own = st.gamma((levels - 1) / 2, scale=scale)
        assert st.kstest(column**-2.0, own.cdf).pvalue > 1e-3
    narrow = ScalePosterior.of(rf.Uniform(0.1, 0.2), squares, levels)
    assert (narrow.draw(np.random.default_rng(0), 100) < 0.2).all()


def test_the_program_is_the_model(rows):
    program, training = learn(FORMULA, {name: values[:50] for name, values in rows.items()})
    seeded = numpyro.handlers.seed(program, 1)
    args = (training.state, training.designs, training.response)

    def drawn() -> dict:
        trace = numpyro.handlers.trace(seeded).get_trace(*args)
        return {n: site["value"] for n, site in trace.items() if n != "/response"}

    names = ["mf(user, item)_user", "mf(user, item)_item", "mf(user, item)_sigma"]
    with jax.enable_x64(True):
        given = jax.jit(drawn)()
        found = float(jax.jit(lambda values: log_density(seeded, args, {}, values)[0])(given))
    u, v, tau = (np.asarray(given[n], float) for n in names)
    design = training.designs["mf(user, item, rank=4)"].arrays
    given |= posterior_variables.derived(
        program, training.state, {n: np.asarray(v) for n, v in given.items()}
    )
    eta = float(given["Intercept"]) + (u[design["left"]] * v[design["right"]]).sum(axis=1)
    expected = st.norm(0, tau).logpdf(u).sum() + st.norm.logpdf(v).sum()
    for side, code in (("user", "left"), ("item", "right")):
        effects, sd = np.asarray(given[f"1|{side}"]), float(given[f"1|{side}_sigma"])
        eta = eta + effects[design[code]]
        expected += st.norm(0, sd).logpdf(effects).sum()
    expected += st.norm(eta, float(given["sigma"])).logpdf(training.response.value).sum()
    for name, prior in training.state.priors.items():
        law = {"Normal": st.norm, "HalfNormal": st.halfnorm}.get(type(prior).__name__)
        value = np.asarray(given[name], float)
        if law is None:
            own = st.t(prior.nu, 0, prior.sigma).logpdf(value) + np.log(2)
        else:
            own = law(getattr(prior, "mu", 0.0), prior.sigma).logpdf(value)
        expected += np.sum(own)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_held_out_cells_are_predicted_as_an_oracle_does(fit, rows):
    """Within 2% of alternating ridge regression that is told rank and variances."""
    user, item = (np.unique(rows[n], return_inverse=True)[1] for n in ("user", "item"))
    y, eta = rows["y"], rows["eta"]
    rng = np.random.default_rng(0)
    left, right = (
        np.zeros((USERS, 3)),
        np.column_stack([rng.normal(size=(ITEMS, 2)), np.zeros(ITEMS)]),
    )
    for _ in range(25):
        for own, into, other, codes, sds in (
            (user, left, right, item, [*TAU, 0.5]),
            (item, right, left, user, [1.0, 1.0, 0.4]),
        ):
            for j in range(len(into)):
                at = np.flatnonzero(own[:2400] == j)
                x = np.column_stack([other[codes[at], :2], np.ones(len(at))])
                rest = y[at] - 3 - other[codes[at], 2]
                into[j] = np.linalg.solve(x.T @ x + np.diag(np.power(sds, -2.0)), x.T @ rest)
    known = 3 + left[user, 2] + right[item, 2] + (left[user, :2] * right[item, :2]).sum(axis=1)
    test = slice(2400, None)
    new = {name: values[test] for name, values in rows.items()}
    wide = fit.predict(new, kind="response")
    own = np.sqrt(np.mean((wide["mean"] - y[test]) ** 2))
    assert own < 1.02 * np.sqrt(np.mean((known[test] - y[test]) ** 2))
    assert 0.86 < np.mean((wide["lower"] <= y[test]) & (y[test] <= wide["upper"])) < 0.94
    scales = fit.posterior["mf(user, item)_sigma"].mean(("chain", "draw")).to_numpy()
    np.testing.assert_allclose(scales[:2], TAU, rtol=0.2)
    assert (scales[2:] < 0.05 * scales[0]).all()
    assert fit.converged
    assert np.all(np.diff(fit.idata["optimization"]["elbo"].to_numpy())[3:] > -0.1)
    assert len(eta) == len(y)


def test_what_is_reported(fit):
    posterior = fit.posterior
    assert posterior["mf(user, item)_user"].dims == (
        *("chain", "draw", "user__factor_dim", "mf(user, item)_component"),
    )
    assert posterior["mf(user, item)_item"].sizes["item__factor_dim"] == ITEMS
    shown = fit.summary()
    assert "mf(user, item)_sigma[4]" in shown.index
    assert shown.loc["share(mf(user, item))", "mean"] > 0.3
    assert "u_{user[i]} · v_{item[i]}" in fit.equations()[1]


def test_new_levels(fit):
    """A new user's factors have the prior that the rows have informed; all its rows share them."""
    new = {"user": ["none", "none", "other"], "item": ["i3", "i3", "i3"]}
    with pytest.raises(rf.DataError, match="not seen in training"):
        fit.predict(new)
    sampled = fit.predict(new, new_levels="sample")
    assert sampled.iloc[0].equals(sampled.iloc[1])
    assert sampled["sd"][0] != sampled["sd"][2]
    flat = {name: fit.posterior[name].to_numpy()[0] for name in fit.posterior}
    v = flat["mf(user, item)_item"][:, list(fit.posterior["item__factor_dim"]).index("i3")]
    variance = ((flat["mf(user, item)_sigma"] * v) ** 2).sum(axis=1) + flat["1|user_sigma"] ** 2
    np.testing.assert_allclose(sampled["sd"][0], np.sqrt(variance.mean()), rtol=0.15)
    assert fit.predict(new, new_levels="zero")["sd"][0] < 0.2


def test_recommendations_are_the_best_predictions(fit, rows):
    own = fit.recommend("u7", n=4)
    seen = set(rows["item"][:2400][rows["user"][:2400] == "u7"])
    items = [f"i{m}" for m in range(ITEMS)]
    every = fit.predict({"user": ["u7"] * ITEMS, "item": items}).assign(item=items)
    best = every[~every["item"].isin(seen)].nlargest(4, "mean")
    assert list(own["item"]) == list(best["item"])
    np.testing.assert_allclose(own[["mean", "sd"]], best[["mean", "sd"]])
    assert list(own["rank"]) == [1, 2, 3, 4]
    again = fit.recommend(["u7", "u9"], n=2, exclude_seen=False)
    assert list(again["user"]) == ["u7", "u7", "u9", "u9"]
    assert again["item"][0] == every.nlargest(1, "mean")["item"].iloc[0]
    assert len(fit.recommend({"item": ["i3"]}, n=5)) == 5
    few = fit.recommend("u7", candidates={"item": ["i1", "brand new"]}, new_levels="sample",
                        exclude_seen=False)  # fmt: skip
    assert set(few["item"]) == {"i1", "brand new"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda fit: fit.recommend({"x": [1]}), "neither of 'user' and 'item'"),
        (lambda fit: fit.recommend({"user": ["u1"], "item": ["i1"]}), "both of 'user' and 'item'"),
        (lambda fit: fit.recommend("nobody"), "not seen in training"),
        (lambda fit: fit.recommend("u1", n=0), "n must be"),
        (lambda fit: fit.recommend("u1", interval=2), "interval must be"),
        (lambda fit: fit.recommend("u1", candidates={"x": [1]}), "'item' is not in"),
    ],
)
def test_what_cannot_be_recommended(call, message, fit):
    with pytest.raises(rf.RanefError, match=message):
        call(fit)


def test_a_saved_fit_answers_as_it_did(fit, tmp_path):
    fit.save(tmp_path / "fit.ranef")
    new = rf.load(tmp_path / "fit.ranef")
    cells = {"user": ["u1", "none"], "item": ["i1", "unheard"]}
    pd.testing.assert_frame_equal(
        fit.predict(cells, new_levels="sample"), new.predict(cells, new_levels="sample")
    )
    pd.testing.assert_frame_equal(fit.recommend("u1"), new.recommend("u1"))


def test_draws_of_a_level_are_the_same_alone():
    rng = np.random.default_rng(0)
    side = FactorPosterior(rng.normal(size=(7, 3)), np.broadcast_to(np.eye(3), (7, 3, 3)))
    drawn = FactorDraws.of({"u": side, "v": side}, 50, 3)
    whole = drawn.at({"u": np.arange(7), "v": np.arange(7)})
    alone = drawn.at({"u": np.array([5])})
    assert np.array_equal(alone["u"][:, :, 0], whole["u"][:, :, 5])
    assert not np.array_equal(whole["u"], whole["v"])
    chains = FactorDraws.of({"u": side, "v": side}, 50, 3, chains=2).at({"u": np.arange(7)})
    assert np.array_equal(chains["u"].reshape(50, 7, 3), whole["u"][0])
    assert drawn.at({"u": np.zeros(0, int)})["u"].shape == (1, 50, 0, 3)
    z = CounterRNG(3, 1_000_000).of(np.array([5]), 150).reshape(50, 3)
    np.testing.assert_allclose(alone["u"][0, :, 0], side.mean[5] + z, atol=1e-12)


def test_a_weight_of_two_is_a_row_twice():
    rng = np.random.default_rng(3)
    codes, r = (rng.integers(0, 6, 60), rng.integers(0, 5, 60)), rng.normal(size=60)
    twice = tuple(np.tile(c, 2) for c in codes)
    found = []
    for own, weights, y in ((codes, np.full(60, 2.0), r), (twice, None, np.tile(r, 2))):
        table = RatingsTable(Bilinear(own, (6, 5), 2, ("u", "v"), "tau"), weights)
        q = TermPosterior.begin(table, rf.HalfNormal(1.0), y, [0])
        for _ in range(5):
            q = table.sweep(q, y, 1.0)
        found.append(q.u.mean)
    np.testing.assert_allclose(*found, rtol=1e-8)


def test_chains_agree_on_what_signs_and_order_leave_alone():
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(2, 300, 4, 2)), 5.0 + 0.1 * rng.normal(size=(2, 300, 3, 2))
    tau = np.abs([2.0, 1.0] + 0.1 * rng.normal(size=(2, 300, 2)))
    swapped = {"u": u.copy(), "v": v.copy(), "tau": tau.copy()}
    for name, sign in (("u", -1.0), ("v", -1.0), ("tau", 1.0)):
        swapped[name][1] = sign * swapped[name][1, ..., ::-1]
    term = Bilinear((np.arange(4), np.arange(4) % 3), (4, 3), 2, ("u", "v"), "tau")
    assert not convergence(swapped).mixed
    assert convergence(comparable(swapped, {"mf": term})).mixed
    swapped["u"][1] += 1.0
    assert not convergence(comparable(swapped, {"mf": term})).mixed


@pytest.mark.parametrize(
    ("formula", "options", "message"),
    [
        ("y ~ mf(user)", {}, "two different grouping columns"),
        ("y ~ mf(user, user)", {}, "two different grouping columns"),
        ("y ~ mf(C(user), item)", {}, "two different grouping columns"),
        ("y ~ mf(user, item, rank=0)", {}, "rank=0. must be a whole number"),
        ("y ~ mf(user, item, ranks=3)", {}, "did you mean 'rank'"),
        ("y ~ mf(user, item)", {}, "has 5 levels, too few for rank=8; give rank=5 or less"),
        ("y ~ mf(user, item, rank=2)", {"method": "exact"}, "rank=2\\) is not"),
        ("y ~ mf(user, item, rank=2)", {"batch_size": 32}, "nothing for batch_size= to do"),
    ],
)
def test_what_cannot_be(formula, options, message, rows):
    table = {name: values[:300] for name, values in rows.items()}
    table["item"] = np.char.add("i", (np.arange(300) % 5).astype(str))
    with pytest.raises(rf.RanefError, match=message):
        rf.Model(formula).fit(table, progress=False, **options)


def test_beside_other_terms_and_tables(rows):
    """Two factorizations, a smooth function, known standard errors: one solver, one answer."""
    rng = np.random.default_rng(0)
    table = {name: values[:800] for name, values in rows.items()}
    table |= {"x": rng.uniform(0, 3, 800), "shop": rng.choice(list("abcdef"), 800)}
    table["y"] = table["y"] + np.sin(2 * table["x"])
    formula = "y ~ s(x, k=6) + (1 | user) + mf(user, item, rank=3) + mf(shop, user, rank=2)"
    fit = rf.Model(formula).fit(table, progress=False, draws=50)
    assert fit.method == "svi"
    assert "mf(shop, user)_shop" in fit.posterior
    cells = {name: values[:20] for name, values in table.items()}
    assert np.isfinite(fit.predict(cells)).all(axis=None)
    known = rf.Model("se(y, s) ~ 1 + mf(user, item, rank=2)", priors={"mf(user, item)_sigma": 1.0})
    fit = known.fit({**table, "s": np.ones(800)}, progress=False, draws=50)
    assert "mf(user, item)_sigma" not in fit.posterior
    assert "sigma" not in fit.posterior


def test_factors_too_many_to_be_drawn_at_once_are_kept_by_what_draws_them(
    fit, tmp_path, monkeypatch
):
    monkeypatch.setattr("ranef.inference.block_ascent.factor_draws._REALISED", 1_000)
    drawn = fit.draws.sites._drawn
    monkeypatch.setitem(
        fit.draws.__dict__, "sites", LazyFactorDraws(drawn, fit.draws.sites._beside)
    )
    with pytest.raises(rf.OptionError, match="fit with draws=1 or fewer"):
        fit.draws.sites["mf(user, item)_user"]
    fit.save(tmp_path / "fit.ranef")
    new = rf.load(tmp_path / "fit.ranef")
    cells = {"user": ["u1", "u2"], "item": ["i1", "i7"]}
    pd.testing.assert_frame_equal(fit.predict(cells), new.predict(cells))
    wrong = FactorDraws({n: (m[1:], r) for n, (m, r) in drawn.sides.items()}, drawn.draws, 0)
    grouped = fit.program.level_sites(fit.training.state)
    mine = {key: each for key, each in grouped.items() if set(each.sites) <= set(drawn.sides)}
    with pytest.raises(rf.FileError, match="factors are drawn from"):
        refuse_unsound(CombinedDraws(wrong, None), mine, drawn.draws)
