"""One contract for every registered family: run by ``tests/families/test_contract.py``.

To put a new family under it, add an example to `EXAMPLES`: parameters and scipy's law.
"""

import jax.numpy as jnp
import numpy as np
import scipy.stats as st

from ranef import registry
from ranef.families.base import ResponseDesign
from ranef.formula import Formula

EXAMPLES = {
    "gaussian": ({"mu": 0.7, "sigma": 1.3}, st.norm(0.7, 1.3)),
    "student": ({"mu": -0.4, "sigma": 0.6, "nu": 4.5}, st.t(4.5, -0.4, 0.6)),
}


def family(name: str, left: str = "y"):
    return registry.load("family", name)(Formula.parse(f"{left} ~ 1").response)


def arrays(values: dict, n: int) -> dict:
    return {name: jnp.full(n, value) for name, value in values.items()}


def check_density_is_scipys(name: str) -> None:
    values, law = EXAMPLES[name]
    y = law.ppf(np.linspace(0.001, 0.999, 51))
    response = ResponseDesign(jnp.asarray(y))
    got = family(name).distribution(response, **arrays(values, 51)).log_prob(jnp.asarray(y))
    expected = law.logpdf(y) if hasattr(law.dist, "logpdf") else law.logpmf(y)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def check_mean_and_variance_are_scipys(name: str) -> None:
    values, law = EXAMPLES[name]
    one, response = arrays(values, 1), ResponseDesign(None)
    np.testing.assert_allclose(family(name).mean(response, **one), [law.mean()], rtol=1e-5)
    np.testing.assert_allclose(family(name).variance(response, **one), [law.var()], rtol=1e-5)


def check_samples_follow_the_distribution(name: str) -> None:
    values, law = EXAMPLES[name]
    n = 20_000
    drawn = family(name).sample(np.random.default_rng(0), ResponseDesign(None), **arrays(values, n))
    assert drawn.shape == (n,)
    assert st.kstest(drawn, law.cdf).pvalue > 0.01


def check_parameters_are_declared(name: str) -> None:
    values, _ = EXAMPLES[name]
    declared = [p.name for p in family(name).parameters]
    assert declared == list(values)
    for parameter in family(name).parameters[1:]:
        assert parameter.default is not None


def check_weights_scale_the_precision(name: str) -> None:
    """A row of weight 4 is as certain as one with half the scale."""
    if "weights" not in family(name).forms:
        return
    values, _ = EXAMPLES[name]
    y = jnp.linspace(-1.0, 1.0, 5)
    weighted = family(name, "weights(y, w)").distribution(
        ResponseDesign(y, jnp.full(5, 4.0), "weights"), **arrays(values, 5)
    )
    halved = {**values, "sigma": values["sigma"] / 2}
    plain = family(name).distribution(ResponseDesign(y), **arrays(halved, 5))
    np.testing.assert_allclose(weighted.log_prob(y), plain.log_prob(y), rtol=1e-5)


def check_shifts_maximise_each_levels_likelihood(name: str) -> None:
    """All at once, they are what a search in each level by itself finds."""
    values, law = EXAMPLES[name]
    rng = np.random.default_rng(2)
    codes = np.repeat(np.arange(3, dtype=np.int32), [2, 20, 60])
    y = law.rvs(size=82, random_state=rng) + np.array([1.0, -2.0, 0.3])[codes]
    location = next(iter(values))
    known = {n: np.full(82, values[n]) for n in values}
    known[location] += rng.normal(size=82)
    shifts = family(name).shifts(ResponseDesign(y), codes, 3, **known)
    if shifts is None:
        return
    for level in range(3):
        rows = codes == level

        def loss(shift: float, rows: np.ndarray = rows) -> float:
            moved = {**known, location: known[location] + shift}
            here = {n: jnp.asarray(v[rows]) for n, v in moved.items()}
            law = family(name).distribution(ResponseDesign(jnp.asarray(y[rows])), **here)
            return -float(law.log_prob(jnp.asarray(y[rows])).sum())

        tried = np.linspace(-8.0, 8.0, 641)
        assert loss(shifts[level]) <= min(loss(shift) for shift in tried) + 1e-4


CHECKS = [
    check_density_is_scipys,
    check_mean_and_variance_are_scipys,
    check_samples_follow_the_distribution,
    check_parameters_are_declared,
    check_weights_scale_the_precision,
    check_shifts_maximise_each_levels_likelihood,
]
