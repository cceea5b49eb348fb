"""Effects of R's own tables against emmeans, and the delta method for marginaleffects' examples.

R's estimates and standard errors are those of ``benchmarks/effects_peers.py`` with R 4.5, lme4 and
emmeans. The average slopes of mtcars are also those that marginaleffects' documentation shows.
"""

import numpy as np
import pandas as pd
import pytest

import ranef as rf
from ranef import effects
from ranef.effects import posterior_draws

pytestmark = pytest.mark.long

DRAWS = 4000
FLAT = {"Intercept": rf.Flat(), "common": rf.Flat()}
# A median of 4,000 draws has a Monte Carlo error of .02 posterior sds, of which this allows three;
# posteriors of counts are skewed beside.
CLOSE = 0.05 + 3 * 0.02


def _agree(tables, estimates, errors):
    """Whether medians are close to R's, and posterior sds to its standard errors."""
    each = [posterior_draws(table).to_numpy().reshape(DRAWS, -1) for table in tables]
    draws = np.concatenate(each, axis=1)
    sd = draws.std(axis=0)
    np.testing.assert_array_less(np.abs(np.median(draws, axis=0) - estimates) / sd, CLOSE)
    np.testing.assert_allclose(sd, errors, rtol=0.15)


def _fit(table, formula, family="gaussian", **priors):
    return rf.Model(formula, family, {**FLAT, **priors}).fit(table, draws=DRAWS, progress=False)


def test_average_slopes_of_three_way_interactions():
    mpg = [
        *(
            21,
            21,
            22.8,
            21.4,
            18.7,
            18.1,
            14.3,
            24.4,
            22.8,
            19.2,
            17.8,
            16.4,
            17.3,
            15.2,
            10.4,
            10.4,
        ),
        *(
            14.7,
            32.4,
            30.4,
            33.9,
            21.5,
            15.5,
            15.2,
            13.3,
            19.2,
            27.3,
            26,
            30.4,
            15.8,
            19.7,
            15,
            21.4,
        ),
    ]
    hp = [
        *(110, 110, 93, 110, 175, 105, 245, 62, 95, 123, 123, 180, 180, 180, 205, 215, 230, 66, 52),
        *(65, 97, 150, 150, 245, 175, 66, 91, 113, 264, 175, 335, 109),
    ]
    wt = [
        *(
            2.62,
            2.875,
            2.32,
            3.215,
            3.44,
            3.46,
            3.57,
            3.19,
            3.15,
            3.44,
            3.44,
            4.07,
            3.73,
            3.78,
            5.25,
        ),
        *(
            5.424,
            5.345,
            2.2,
            1.615,
            1.835,
            2.465,
            3.52,
            3.435,
            3.84,
            3.845,
            1.935,
            2.14,
            1.513,
            3.17,
        ),
        *(2.77, 3.57, 2.78),
    ]
    am = [1] * 3 + [0] * 14 + [1] * 3 + [0] * 5 + [1] * 7
    table = pd.DataFrame({"mpg": mpg, "hp": hp, "wt": wt, "am": am})
    fit = _fit(table, "mpg ~ hp * wt * am")
    _agree(
        [
            effects.avg_slopes(fit, ["hp", "wt"]),
            effects.avg_comparisons(fit, {"am": (0, 1)}),
            effects.slopes(fit, "wt", newdata="mean"),
            effects.avg_slopes(fit, "hp", by="am"),
        ],
        [-0.038073, -3.9391, -0.048109, -3.7959, -0.034264, -0.04364],
        [0.01279, 1.086, 1.853, 1.214, 0.01586, 0.02129],
    )


@pytest.fixture(scope="module")
def warpbreaks():
    breaks = [
        *(26, 30, 54, 25, 70, 52, 51, 26, 67, 18, 21, 29, 17, 12, 18, 35, 30, 36),
        *(36, 21, 24, 18, 10, 43, 28, 15, 26, 27, 14, 29, 19, 29, 31, 41, 20, 44),
        *(42, 26, 19, 16, 39, 28, 21, 39, 29, 20, 21, 24, 17, 13, 15, 15, 16, 28),
    ]
    tension = pd.Categorical(
        np.tile(np.repeat(["L", "M", "H"], 9), 2), ["L", "M", "H"], ordered=True
    )
    return pd.DataFrame({"breaks": breaks, "wool": np.repeat(["A", "B"], 27), "tension": tension})


def test_marginal_means_of_a_linear_model(warpbreaks):
    fit = _fit(warpbreaks, "breaks ~ wool * tension")
    pairs = effects.marginal_means(fit, "tension", by="wool", hypothesis="pairwise")
    assert pairs["hypothesis"].tolist() == ["L - M", "L - H", "M - H"] * 2
    means = [44.556, 24.0, 24.556, 28.222, 28.778, 18.778]
    _agree(
        [effects.marginal_means(fit, ["wool", "tension"]), pairs],
        [*means, 20.556, 20.0, -0.556, -0.556, 9.444, 10.0],
        [3.65] * 6 + [5.16] * 6,
    )


def test_marginal_means_of_counts(warpbreaks):
    fit = _fit(warpbreaks, "breaks ~ wool * tension", "poisson")
    _agree(
        [
            effects.marginal_means(fit, "tension", type="invlink(link)"),
            effects.marginal_means(fit, "tension", by="wool", hypothesis="pairwise", type="link"),
        ],
        [35.461, 26.281, 21.473, 0.61868, 0.5958, -0.022884, -0.019494, 0.40744, 0.42693],
        [1.422, 1.211, 1.097, 0.0844, 0.08378, 0.09568, 0.08831, 0.09927, 0.09888],
    )


def test_marginal_risks_of_admissions():
    admitted = [512, 89, 353, 17, 120, 202, 138, 131, 53, 94, 22, 24]
    rejected = [313, 19, 207, 8, 205, 391, 279, 244, 138, 299, 351, 317]
    table = pd.DataFrame({"admitted": admitted, "n": np.add(admitted, rejected)})
    table["Gender"], table["Dept"] = ["Male", "Female"] * 6, np.repeat(list("ABCDEF"), 2)
    fit = _fit(table, "admitted / n ~ Gender + Dept", "binomial")
    _agree(
        [
            effects.avg_comparisons(fit, "Gender", newdata=table, weights="n", comparison=name)
            for name in ("difference", "ratio", "lnor")
        ],
        [-0.019497, 0.95122, -0.081972],
        [0.01567, 0.03805, 0.06578],
    )


def test_population_means_and_trends_of_mixed_models(reference_data):
    mixed = reference_data / "mixed"
    sleep = _fit(mixed / "sleepstudy.csv", "Reaction ~ Days + (Days | Subject)")
    grid = effects.datagrid(sleep, Days=[0, 5, 9])
    _agree(
        [effects.predictions(sleep, newdata=grid), effects.slopes(sleep, "Days", newdata="mean")],
        [251.41, 303.74, 345.61, 10.467],
        [6.825, 9.581, 14.63, 1.546],
    )
    formula = "incidence / size ~ C(period) + (1 | herd)"
    herds = _fit(mixed / "cbpp.csv", formula, "binomial", **{"1|herd_sigma": 0.64207})
    _agree(
        [
            effects.marginal_means(herds, "period", type="link"),
            effects.marginal_means(herds, "period", type="link", hypothesis="b1 = b2"),
        ],
        [-1.3983, -2.3903, -2.5266, -2.9781, 0.99192],
        [0.2312, 0.3074, 0.3271, 0.4252, 0.3032],
    )
