"""Fits that the tests of effects share."""

import numpy as np
import pandas as pd
import pytest

import ranef as rf

ROWS = 90


@pytest.fixture(scope="session")
def effects_table() -> pd.DataFrame:
    """Rows with numbers, a factor in a declared order, a logical column and a grouping."""
    rng = np.random.default_rng(8)
    f = pd.Categorical(
        np.resize(["low", "mid", "high"], ROWS), ["low", "mid", "high"], ordered=True
    )
    x, z = rng.normal(5, 2, ROWS), rng.uniform(0.5, 9, ROWS)
    b, g = rng.random(ROWS) < 0.4, rng.integers(0, 6, ROWS)
    mean = 1 + 0.5 * x + f.codes - 0.2 * x * (f.codes == 2) + np.log(z) + 0.5 * b
    y = mean + rng.normal(0, 0.7, 6)[g] + rng.normal(0, 0.8, ROWS)
    level = pd.Categorical(
        np.array(["no", "some", "much"])[np.digitize(y, [4.0, 6.0])],
        ["no", "some", "much"],
        ordered=True,
    )
    w = rng.integers(1, 4, ROWS).astype(float)
    return pd.DataFrame(
        {"y": y, "up": y > 5, "level": level, "x": x, "z": z, "f": f, "b": b, "g": g, "w": w},
        index=[f"row {i}" for i in range(ROWS)],
    )


@pytest.fixture(scope="session")
def linear(effects_table) -> rf.Fit:
    formula = "y ~ x * f + log(z) + b + (1 | g)"
    return rf.Model(formula).fit(effects_table, draws=200, progress=False)


@pytest.fixture(scope="session")
def logit(effects_table) -> rf.Fit:
    return rf.Model("up ~ x + b", "bernoulli").fit(effects_table, draws=200, progress=False)


@pytest.fixture(scope="session")
def ordinal(effects_table) -> rf.Fit:
    return rf.Model("level ~ x", "ordinal").fit(effects_table, draws=200, progress=False)
