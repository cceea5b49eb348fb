"""One contract for every registered family: run by ``tests/families/test_contract.py``.

To put a new family under it, add an example to `EXAMPLES`: parameters and scipy's law. A family
that is made of others has one under each of some names.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats as st

from ranef import registry
from ranef.data.moments import Scale
from ranef.families.base import Family
from ranef.families.cumulative import Cumulative
from ranef.families.response_design import ResponseDesign
from ranef.families.state import FamilyState
from ranef.formula.equation import plain
from ranef.formula.formula import Formula


@dataclass(frozen=True)
class Example:
    """Parameters on their own scale, scipy's law of them, and how a response is written."""

    values: dict[str, Any]
    law: Any
    left: str = "y"
    companion: float | None = None
    state: FamilyState = FamilyState({}, Scale(0.0, 1.0))

    @property
    def discrete(self) -> bool:
        return hasattr(getattr(self.law, "dist", self.law), "pmf")

    def quantiles(self, n: int) -> np.ndarray:
        return np.asarray(self.law.ppf(np.linspace(0.001, 0.999, n)), float)

    def response(self, y: Any) -> ResponseDesign:
        form = Formula.parse(f"{self.left} ~ 1").response.form
        n = 1 if y is None else len(y)
        beside = None if self.companion is None else jnp.full(n, self.companion)
        return ResponseDesign(None if y is None else jnp.asarray(y), beside, form)


def numbered(shares: Any) -> Any:
    """Scipy's law of categories 1, 2, ..."""
    return st.rv_discrete(values=(np.arange(1, len(shares) + 1), shares))


def inflated(counts: Any, psi: float) -> Any:
    """Scipy's law of a count with probability psi, else of zero; it ends where nothing is left."""
    support = np.arange(400)
    mass = psi * counts.pmf(support)
    mass[0] += 1 - psi
    return st.rv_discrete(values=(support, mass / mass.sum()))


def counted(laws: list[Any], shares: list[float]) -> Any:
    """Scipy's law of a count of one of several kinds; it ends where nothing is left."""
    support = np.arange(400)
    mass = sum(w * law.pmf(support) for w, law in zip(shares, laws, strict=True)) / sum(shares)
    return st.rv_discrete(values=(support, mass / mass.sum()))


class Mixed(st.rv_continuous):
    """Scipy's law of one of several, the shares proportional to these numbers."""

    def __init__(self, laws: list[Any], shares: list[float]) -> None:
        super().__init__()
        self.laws, self.shares = laws, np.array(shares) / sum(shares)

    def _pdf(self, x: Any) -> Any:
        return sum(w * law.pdf(x) for w, law in zip(self.shares, self.laws, strict=True))

    def _cdf(self, x: Any) -> Any:
        return sum(w * law.cdf(x) for w, law in zip(self.shares, self.laws, strict=True))

    def _stats(self) -> Any:
        means = np.array([law.mean() for law in self.laws])
        squares = np.array([law.var() + law.mean() ** 2 for law in self.laws])
        mean = self.shares @ means
        return mean, self.shares @ squares - mean**2, None, None


EXAMPLES = {
    "gaussian": Example({"mu": 0.7, "sigma": 1.3}, st.norm(0.7, 1.3)),
    "student": Example({"mu": -0.4, "sigma": 0.6, "nu": 4.5}, st.t(4.5, -0.4, 0.6)),
    "bernoulli": Example({"p": 0.3}, st.bernoulli(0.3)),
    "binomial": Example({"p": 0.3}, st.binom(12, 0.3), "y / n", 12.0),
    "poisson": Example({"mu": 3.2}, st.poisson(3.2)),
    "negative_binomial": Example({"mu": 3.2, "alpha": 1.7}, st.nbinom(1.7, 1.7 / 4.9)),
    "gamma": Example({"mu": 2.5, "alpha": 1.7}, st.gamma(1.7, scale=2.5 / 1.7)),
    "beta": Example({"mu": 0.3, "kappa": 8.0}, st.beta(2.4, 5.6)),
    "lognormal": Example({"mu": 0.4, "sigma": 0.7}, st.lognorm(0.7, scale=np.exp(0.4))),
    "exponential": Example({"mu": 2.5}, st.expon(scale=2.5)),
    "ordinal": Example(
        {"mu": 0.4, "threshold": [-1.0, 0.2, 1.5]},
        numbered(np.diff(st.logistic.cdf([-np.inf, -1.4, -0.2, 1.1, np.inf]))),
        state=FamilyState({}, Scale(0.0, 1.0), ("1", "2", "3", "4")),
    ),
    "categorical": Example(
        {"mub": 0.4, "muc": -0.7},
        numbered(np.exp([0.0, 0.4, -0.7]) / np.exp([0.0, 0.4, -0.7]).sum()),
        state=FamilyState({}, Scale(0.0, 1.0), ("a", "b", "c")),
    ),
    "zero_inflated_poisson": Example({"mu": 3.2, "psi": 0.7}, inflated(st.poisson(3.2), 0.7)),
    "zero_inflated_negative_binomial": Example(
        {"mu": 3.2, "alpha": 1.7, "psi": 0.7}, inflated(st.nbinom(1.7, 1.7 / 4.9), 0.7)
    ),
    "mixture(gaussian, student, gaussian)": Example(
        {
            **{"mu1": -0.7, "mu2": 1.9, "mu3": 0.3, "sigma1": 0.6, "sigma2": 1.3, "sigma3": 2.0},
            **{"nu2": 4.5, "mix2": 0.4, "mix3": -0.8},
        },
        Mixed(
            [st.norm(-0.7, 0.6), st.t(4.5, 1.9, 1.3), st.norm(0.3, 2.0)],
            [1.0, np.exp(0.4), np.exp(-0.8)],
        ),
    ),
    "mixture(poisson, negative_binomial)": Example(
        {"mu1": 1.2, "mu2": 7.0, "alpha2": 1.7, "mix2": -0.4},
        counted([st.poisson(1.2), st.nbinom(1.7, 1.7 / 8.7)], [1.0, np.exp(-0.4)]),
    ),
}


def family(name: str, left: str = "") -> Family:
    example = EXAMPLES[name]
    law = registry.load("family", name)(Formula.parse(f"{left or example.left} ~ 1").response)
    return law.bind(example.state)


def arrays(values: dict, n: int) -> dict:
    """Each parameter on n rows; a vector is the same for all."""
    return {
        name: jnp.asarray(value) if np.ndim(value) else jnp.full(n, value)
        for name, value in values.items()
    }


def check_density_is_scipys(name: str) -> None:
    example = EXAMPLES[name]
    y = example.quantiles(51)
    got = (
        family(name)
        .distribution(example.response(y), **arrays(example.values, 51))
        .log_prob(jnp.asarray(y))
    )
    expected = np.log(example.law.pmf(y)) if example.discrete else example.law.logpdf(y)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def check_given_is_the_distribution_of_inverse_linked_parameters(name: str) -> None:
    example, law = EXAMPLES[name], family(name)
    with jax.enable_x64(True):
        y = example.quantiles(51)
        response, values = example.response(y), arrays(example.values, 51)
        predictors = law.on_link_scale(**values)
        back = law.on_own_scale(**predictors)
        for parameter, value in values.items():
            np.testing.assert_allclose(back[parameter], value, rtol=1e-9)
        got = law.log_density(response, **predictors)
        assert got.shape == (51,)
        expected = law.distribution(response, **values).log_prob(jnp.asarray(y))
        # NumPyro's beta function is good to six digits.
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
        scipys = np.log(example.law.pmf(y)) if example.discrete else example.law.logpdf(y)
        np.testing.assert_allclose(got, scipys, rtol=1e-9, atol=1e-9)


def check_density_is_smooth_far_out(name: str) -> None:
    """Finite, and three times differentiable, wherever a search may go."""
    example, law = EXAMPLES[name], family(name)
    for double in (True, False):
        with jax.enable_x64(double):
            y = example.quantiles(5)
            response, values = example.response(y), arrays(example.values, 5)
            predictors = law.on_link_scale(**values)
            for parameter in law.parameters:
                if parameter.labels:
                    continue

                def total(eta, own=parameter.name, known=predictors, response=response):
                    return law.log_density(response, **{**known, own: eta}).sum()

                # The sd of a normal response at e^-30 is none that single precision squares.
                far = 30.0 if double or parameter is law.parameters[0] else 8.0

                @jax.jit
                def orders(eta, derivative=total):
                    found = []
                    for _ in range(4):
                        found.append(derivative(eta))
                        derivative = jax.grad(lambda e, f=derivative: f(e).sum())
                    return found

                for at in (-far, -1.0, 0.0, 1.0, far):
                    for order, found in enumerate(orders(jnp.full(5, at))):
                        assert np.isfinite(found).all(), (parameter.name, order, at, double)


def check_working_steps_climb(name: str) -> None:
    """Weights are non-negative and finite, and a damped step never leads down."""
    example, law = EXAMPLES[name], family(name)
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        y = example.law.rvs(size=200, random_state=rng).astype(float)
        response = example.response(y)
        predictors = law.on_link_scale(**arrays(example.values, 200))
        for parameter in law.parameters:
            own = parameter.name
            if parameter.labels:
                continue
            eta = predictors[own] + jnp.asarray(rng.normal(0.0, 2.0, 200))
            here = {**predictors, own: eta}
            weights = law.working_weights(response, own, **here)
            assert weights.shape == (200,)
            assert np.isfinite(weights).all()
            assert (np.asarray(weights) >= 0).all()
            slope, second = law.derivatives(response, own, **here)
            if law.curvature == "observed" and parameter is law.parameters[0]:
                np.testing.assert_allclose(weights, -second, rtol=1e-6, atol=1e-9)
            # All rows move together, as they do where they share an intercept.
            step = float(slope.sum() / weights.sum())
            before = float(law.log_density(response, **here).sum())
            after = [
                float(law.log_density(response, **{**here, own: eta + step * 0.5**k}).sum())
                for k in range(12)
            ]
            assert max(after) > before


def check_a_natural_parameter_is_the_automatic_one(name: str) -> None:
    """Value and three derivatives, by NumPy and by JAX, as automatic differentiation has them."""
    example, law = EXAMPLES[name], family(name)
    with jax.enable_x64(True):
        y = example.quantiles(5)
        response = example.response(y)
        natural = law.natural(response)
        if natural is None:
            return
        (parameter,) = law.parameters

        def density(eta):
            return law.log_density(response, **{parameter.name: eta}).sum()

        derivatives = [density]
        for _ in range(3):
            derivatives.append(jax.grad(lambda eta, f=derivatives[-1]: f(eta).sum()))
        for at in (-30.0, -2.0, 0.0, 0.7, 5.0):
            eta = jnp.full(5, at)
            value, *slopes = (np.asarray(each(eta)) for each in derivatives)
            for xp in (np, jnp):
                a, *beyond = (np.asarray(c) for c in natural.cumulants(xp, xp.asarray(eta), 3))
                own = (natural.value * at - natural.size * a).sum() + natural.constant
                np.testing.assert_allclose(own, value, rtol=1e-12)
                expected = [natural.value - natural.size * beyond[0]]
                expected += [-natural.size * each for each in beyond[1:]]
                for found, right in zip(slopes, expected, strict=True):
                    np.testing.assert_allclose(right, found, rtol=1e-9, atol=1e-12)


def check_cumulative_probabilities_are_scipys(name: str) -> None:
    example, law = EXAMPLES[name], family(name)
    with jax.enable_x64(True):
        y = np.concatenate([example.quantiles(21), [-1.0, 0.0, 0.4, 1.0, 1e3]])
        response, values = example.response(y), arrays(example.values, len(y))
        found = Cumulative.of(law.distribution(response, **values))
        np.testing.assert_allclose(found(y), example.law.cdf(y), rtol=1e-8, atol=1e-12)
        part = found.part(slice(None), slice(3, 5))
        np.testing.assert_allclose(part(y[3:5]), found(y)[3:5], rtol=1e-12)


def check_mean_and_variance_are_scipys(name: str) -> None:
    example = EXAMPLES[name]
    one, response = arrays(example.values, 1), example.response(None)
    np.testing.assert_allclose(family(name).mean(response, **one), [example.law.mean()], rtol=1e-5)
    np.testing.assert_allclose(
        family(name).variance(response, **one), [example.law.var()], rtol=1e-5
    )


def check_samples_follow_the_distribution(name: str) -> None:
    example, n = EXAMPLES[name], 20_000
    response = example.response(np.zeros(n))
    drawn = family(name).sample(np.random.default_rng(0), response, **arrays(example.values, n))
    assert drawn.shape == (n,)
    if not example.discrete:
        assert st.kstest(drawn, example.law.cdf).pvalue > 0.01
        return
    values, counts = np.unique(drawn, return_counts=True)
    expected = n * example.law.pmf(values)
    common = expected > 5
    assert counts[common].sum() > 0.99 * n
    chance = st.chi2.sf(
        ((counts - expected) ** 2 / expected)[common].sum(), max(common.sum() - 1, 1)
    )
    assert chance > 0.01


def check_parameters_are_declared(name: str) -> None:
    law = family(name)
    assert [p.name for p in law.parameters] == list(EXAMPLES[name].values)
    assert law.curvature in ("observed", "expected", "em")
    for parameter in law.parameters:
        predicted = parameter.predicted or parameter.implied or parameter is law.parameters[0]
        assert predicted or parameter.default is not None


def check_the_law_can_be_read(name: str) -> None:
    law = family(name)
    symbols = {p.name: (p.symbol,) for p in law.free_parameters()}
    text = plain(law.distribution_equation(symbols))
    assert text.endswith(")")
    assert all(symbol in text for (symbol,) in symbols.values())


def check_weights_scale_the_precision(name: str) -> None:
    """A row of weight 4 is as certain as one with half the scale."""
    if "weights" not in family(name).forms:
        return
    values, law = EXAMPLES[name].values, family(name)
    y = jnp.linspace(-1.0, 1.0, 5)
    weighted = family(name, "weights(y, w)").distribution(
        ResponseDesign(y, jnp.full(5, 4.0), "weights"), **arrays(values, 5)
    )
    scales = [p.name for p in law.parameters if (p.stem or p.name) == "sigma"]
    halved = {**values, **{scale: values[scale] / 2 for scale in scales}}
    plain_ = law.distribution(ResponseDesign(y), **arrays(halved, 5))
    np.testing.assert_allclose(weighted.log_prob(y), plain_.log_prob(y), rtol=1e-5)


def check_shifts_maximise_each_levels_likelihood(name: str) -> None:
    """All at once, they are what a search in each level by itself finds."""
    example, law = EXAMPLES[name], family(name)
    rng = np.random.default_rng(2)
    codes = np.repeat(np.arange(3, dtype=np.int32), [4, 20, 60])
    y = example.law.rvs(size=84, random_state=rng).astype(float)
    if not example.discrete:
        y = y + np.array([1.0, -2.0, 0.3])[codes] * (example.law.support()[0] < 0)
    location = law.parameters[0].name
    with jax.enable_x64(True):
        predictors = law.on_link_scale(**arrays(example.values, 84))
        known = {n: np.asarray(v) for n, v in predictors.items()}
        known[location] = known[location] + rng.normal(size=84)
        response = example.response(y)
        shifts = law.shifts(response, codes, 3, **known)
        if shifts is None:
            return
        tried = np.linspace(-8.0, 8.0, 641)

        @jax.jit
        def density(shift: Any) -> Any:
            here = {own: jnp.asarray(value) for own, value in known.items()}
            return law.log_density(response, **{**here, location: here[location] + shift})

        def by_level(shift: Any) -> np.ndarray:
            return np.bincount(codes, np.asarray(density(shift)), 3)

        best = np.max([by_level(shift) for shift in tried], axis=0)
        found = by_level(np.nan_to_num(np.asarray(shifts))[codes])
    assert np.isfinite(shifts[1:]).all()
    assert (np.isnan(shifts) | (found >= best - 1e-4)).all()


CHECKS = [
    check_density_is_scipys,
    check_cumulative_probabilities_are_scipys,
    check_given_is_the_distribution_of_inverse_linked_parameters,
    check_density_is_smooth_far_out,
    check_working_steps_climb,
    check_a_natural_parameter_is_the_automatic_one,
    check_mean_and_variance_are_scipys,
    check_samples_follow_the_distribution,
    check_parameters_are_declared,
    check_the_law_can_be_read,
    check_weights_scale_the_precision,
    check_shifts_maximise_each_levels_likelihood,
]
