"""A page about a table that would break a careless one."""

from pathlib import Path

import numpy as np
import pytest

import ranef as rf


@pytest.fixture(scope="session")
def hostile_page(tmp_path_factory) -> tuple[rf.Fit, Path]:
    """A fit of 60 rows in six levels, whose names are markup, and its page."""
    rng = np.random.default_rng(0)
    levels = [f"<script>alert({i})</script>\n\"q' $x^{i}$ & \U0001f600" for i in range(6)]
    codes = np.repeat(np.arange(6), [2, 18, 10, 10, 10, 10])
    x = rng.normal(size=60)
    y = 1 + x + rng.normal(0, 1, 6)[codes] + rng.normal(0, 0.5, 60)
    x[[7, 40]] = np.nan
    response, predictor, group = 'y "<b>', "<img src=x onerror=alert(1)>", "</script>g\n'"
    model = rf.Model(
        f"`{response}` ~ `{predictor}` + (1 | `{group}`)", priors={"Intercept": rf.PointEstimate()}
    )
    table = {response: y, predictor: x, group: np.array(levels, dtype=object)[codes]}
    fit = model.fit(table, steps=200, progress=False)
    return fit, fit.report(tmp_path_factory.mktemp("page") / "report.html")
