"""The values at which a figure shows a predictor."""

import numpy as np
import pandas as pd

import ranef as rf


def test_a_picture_has_the_levels_of_factors_in_their_order_and_true_and_false_as_two():
    rng = np.random.default_rng(6)
    f = pd.Categorical(rng.choice(["low", "mid", "high"], 90), ["low", "mid", "high", "none"])
    table = pd.DataFrame({"f": f, "b": rng.random(90) < 0.5, "x": rng.normal(size=90)})
    table["y"] = table["b"] + rng.normal(size=90)
    model = rf.Model("y ~ f + b + I(b * x) + x")
    effects = model.fit(table, progress=False, draws=50).extend("partial_effects")
    assert effects["partial_effects"]["f_point"].to_numpy().tolist() == ["low", "mid", "high"]
    assert effects["partial_effects"]["b_point"].to_numpy().tolist() == ["False", "True"]
