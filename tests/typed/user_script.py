"""A user's first lines, as a strict type checker reads them: `make lint` runs mypy on this file."""

from typing import assert_type

import numpy as np

import ranef as rf

x = np.linspace(0.0, 1.0, 60)
fit = rf.Model("y ~ x + (1 | g)").fit({"y": x**2, "x": x, "g": [str(i % 6) for i in range(60)]})
assert_type(fit, rf.Fit)
print(fit.summary())
