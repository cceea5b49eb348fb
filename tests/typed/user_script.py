"""A user's first lines, as a strict type checker reads them: `make lint` runs mypy on this file."""

import logging
import pickle
from typing import assert_type

import numpy as np

import ranef as rf
from ranef.sklearn import MixedRegressor

logging.basicConfig(level=logging.INFO)
x = np.linspace(0.0, 1.0, 60)
table = {"y": x**2, "x": x, "g": [str(i % 6) for i in range(60)]}
fit = rf.Model("y ~ x + (1 | g)", family="student").fit(table, method="nuts", chains=2, tune=100)
assert_type(fit, rf.Fit)
print(fit.summary())
print(fit.predict({"x": [0.5], "g": ["7"]}, kind="response", new_levels="zero"))
print(fit.equations())
for name, prior in fit.priors.items():
    assert_type(name, str)
    print(name, prior)
restored: rf.Fit = pickle.loads(pickle.dumps(fit))

rf.Model("y ~ x", family="negbinomial")  # type: ignore[arg-type]
rf.Model("y ~ x").fit(table, method="mcmc")  # type: ignore[arg-type]
rf.Model("y ~ x").fit(table, random_seed=1)  # type: ignore[call-arg]

estimator = MixedRegressor("~ x", draws=100).fit(x[:, None], x**2)
assert_type(estimator, MixedRegressor)
