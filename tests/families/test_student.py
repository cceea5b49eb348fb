"""What is special about heavy tails."""

import jax.numpy as jnp
import numpy as np

from contract_family import family
from ranef.families.response_design import ResponseDesign


def test_the_variance_is_infinite_where_it_is():
    nu = jnp.array([0.5, 1.5, 2.0, 2.5, 100.0])
    got = family("student").variance(ResponseDesign(None), mu=nu, sigma=jnp.full(5, 2.0), nu=nu)
    expected = [np.inf, np.inf, np.inf, 4 * 2.5 / 0.5, 4 * 100 / 98]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_scale_is_learned_from_the_middle_not_the_tails():
    law = family("student")
    y = np.r_[np.linspace(-1, 1, 999), 1e6]
    location, scale = law.location_and_sd(law.measure(None, ResponseDesign(y)))
    assert abs(location) < 0.01
    assert 0.5 < scale < 1.0


def test_very_many_responses_are_thinned_evenly():
    law = family("student")
    seen = None
    for start in range(0, 5_000_000, 1_000_000):
        batch = np.arange(start, start + 1_000_000, dtype=float)
        seen = law.measure(seen, ResponseDesign(batch))
    assert len(seen.rows) <= 2_000_000
    assert abs(law.location_and_sd(seen)[0] / 2_500_000 - 1) < 0.01
