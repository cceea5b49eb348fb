"""Rows with a gap on the left side are left out of the fit, counted, and refused in a score."""

import numpy as np
import pandas as pd
import pytest

import ranef as rf

N = 60
RNG = np.random.default_rng(3)
X = RNG.normal(size=N)
Y = X + RNG.normal(size=N)
TABLE = pd.DataFrame(
    {
        "y": Y,
        "up": np.exp(Y),
        "n": RNG.integers(5, 9, N).astype(float),
        "k": RNG.integers(0, 5, N).astype(float),
        "word": np.where(X + RNG.logistic(size=N) > 0, "yes", "no"),
        "grade": RNG.integers(1, 4, N).astype(float),
        "w": RNG.uniform(1, 2, N),
        "x": X,
    }
)
SIDES = [
    ("y", "gaussian", ["y"]),
    ("log(up)", "gaussian", ["up"]),
    ("weights(y, w)", "gaussian", ["y", "w"]),
    ("se(y, w)", "gaussian", ["y", "w"]),
    ("k / n", "binomial", ["k", "n"]),
    ("word", "bernoulli", ["word"]),
    ("grade", "ordinal", ["grade"]),
    ("grade", "categorical", ["grade"]),
    ("k", "poisson", ["k"]),
]


@pytest.mark.parametrize(("left", "family", "columns"), SIDES)
def test_a_gap_on_the_left_drops_the_row(left, family, columns):
    model = rf.Model(f"{left} ~ x", family=family)
    gaps = {name: [4 + 3 * i, 30 + i] for i, name in enumerate(columns)}
    table = TABLE.copy()
    for name, rows in gaps.items():
        table.loc[rows, name] = np.nan
    fit = model.fit(table, draws=50, progress=False, steps=200, method="svi")
    assert fit.rows.dropped == {name: 2 for name in columns}
    assert fit.rows.used == N - 2 * len(columns)
    kept = table.drop(index=sum(gaps.values(), []))
    other = model.fit(kept, draws=50, progress=False, steps=200, method="svi")
    pd.testing.assert_frame_equal(fit.fixef(), other.fixef())
    with pytest.raises(rf.DataError, match=f"'{columns[0]}' is missing in 2 of 60 .* row 5"):
        fit.log_score(table)
    assert np.isfinite(fit.log_score(kept)).all()
    if family != "categorical":
        assert len(fit.predict(table)) == N


def test_rows_without_a_response_are_left_out_beside_imputed_predictors():
    table = TABLE.copy()
    table.loc[[1, 2], "x"] = np.nan
    table.loc[[2, 3], "y"] = np.nan
    fit = rf.Model("y ~ mi(x)").fit(table, draws=50, progress=False, steps=200)
    assert fit.rows.dropped == {"y": 2}
    assert fit.imputed("x")["row"].tolist() == [1]


def test_infinity_is_refused_by_its_row():
    for left, column in (("y", "y"), ("weights(y, w)", "w"), ("se(y, w)", "w")):
        with pytest.raises(rf.DataError, match=f"{column} is not a finite number .* row 7"):
            rf.Model(f"{left} ~ x").fit(
                TABLE.assign(**{column: np.where(TABLE.index == 6, np.inf, TABLE[column])}),
                progress=False,
            )


def test_rows_without_a_response_are_left_out_of_streams(monkeypatch, tmp_path):
    table = TABLE.assign(y=TABLE["y"].where(TABLE.index % 20 != 4))
    table.to_parquet(tmp_path / "t.parquet")
    model = rf.Model("y ~ x")
    whole = model.fit(table, draws=50, progress=False)
    monkeypatch.setattr("ranef.data.parquet._LEAST", 10)
    monkeypatch.setattr("ranef.data.parquet._CELLS", 1)
    streamed = model.fit(tmp_path / "t.parquet", draws=50, progress=False)
    assert streamed.training.stream is not None
    assert streamed.rows == whole.rows
    np.testing.assert_allclose(streamed.fixef(), whole.fixef(), rtol=1e-6)
