"""Log densities in the predictors themselves, where the parameters have lost the digits.

A probability within 1e-16 of one is one, and the log of what is left of it minus infinity; its
logit is any number. Each function takes a response and predictors of one shape and returns log
p(y); all are smooth, so that JAX may take three derivatives of them anywhere.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ranef.lazy import Array, dist, jax, jnp, jsp


class RowDistribution(dist.Distribution):
    """A distribution whose log density is computed from predictors.

    Args:
        law: the same distribution, from which samples, mean and variance come.
        density: ``density(value, **arguments)``, one of the functions below.
        arguments: predictors, and what is known of the rows.
    """

    pytree_data_fields = ("law", "arguments")
    pytree_aux_fields = ("density",)

    def __init__(
        self,
        law: dist.Distribution,
        density: Callable[..., Any],
        arguments: Mapping[str, Any],
    ) -> None:
        self.distribution, self.density, self.arguments = law, density, dict(arguments)
        super().__init__(law.batch_shape, law.event_shape)

    @property
    def support(self) -> Any:
        return self.distribution.support

    @property
    def mean(self) -> Any:
        return self.distribution.mean

    @property
    def variance(self) -> Any:
        return self.distribution.variance

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        return self.distribution.sample(key, sample_shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Any:
        return self.density(value, **self.arguments)


def bernoulli(value: Any, logit: Any) -> Array:
    """Log p: -y log(1 + e^-eta) - (1 - y) log(1 + e^eta)."""
    return -value * jax.nn.softplus(-logit) - (1.0 - value) * jax.nn.softplus(logit)


def binomial(value: Any, logit: Any, trials: Any) -> Array:
    """Log p: log C(n, y) - y log(1 + e^-eta) - (n - y) log(1 + e^eta)."""
    failures = (trials - value) * jax.nn.softplus(logit)
    return log_choose(trials, value) - value * jax.nn.softplus(-logit) - failures


def poisson(value: Any, log_mean: Any) -> Array:
    """Density y eta - e^eta - log y!, of eta = log mu."""
    return value * log_mean - jnp.exp(log_mean) - jsp.gammaln(value + 1.0)


def student(value: Any, location: Any, log_scale: Any, log_nu: Any) -> Array:
    """Log t_nu((y - mu) / sigma) - log sigma."""
    nu = jnp.exp(log_nu)
    squared = (value - location) ** 2 * jnp.exp(-2 * log_scale - log_nu)
    tail = -0.5 * (nu + 1) * jnp.log1p(squared) - log_scale
    return tail + jsp.gammaln((nu + 1) / 2) - jsp.gammaln(nu / 2) - 0.5 * (log_nu + jnp.log(jnp.pi))


def log_choose(n: Any, k: Any) -> Array:
    """Log of the binomial coefficient."""
    return jsp.gammaln(n + 1.0) - jsp.gammaln(k + 1.0) - jsp.gammaln(n - k + 1.0)


# Above this shape the difference of two log gammas is taken from Stirling's series.
LARGE_SHAPE = 1e5


def log_rising(shape: Any, log_shape: Any, count: Any) -> Array:
    """Log Gamma(a + y) - log Gamma(a), without cancellation where a is large."""
    small = jnp.minimum(shape, LARGE_SHAPE)
    exact = jsp.gammaln(small + count) - jsp.gammaln(small)
    large = jnp.maximum(shape, LARGE_SHAPE)
    series = (
        (large + count - 0.5) * jnp.log1p(count / large)
        + count * (log_shape - 1.0)
        - count / (12.0 * large * (large + count))
    )
    return jnp.where(shape < LARGE_SHAPE, exact, series)


def negative_binomial(value: Any, log_mean: Any, log_shape: Any) -> Array:
    """Log Gamma(y + a) / (Gamma(a) y!) + a log(a / (a + mu)) + y log(mu / (a + mu))."""
    shape, above = jnp.exp(log_shape), log_mean - log_shape
    rising = log_rising(shape, log_shape, value) - jsp.gammaln(value + 1.0)
    return rising - shape * jax.nn.softplus(above) - value * jax.nn.softplus(-above)


def gamma(value: Any, log_mean: Any, log_shape: Any) -> Array:
    """A log(a / mu) - log Gamma(a) + (a - 1) log y - a y / mu."""
    shape, log_rate = jnp.exp(log_shape), log_shape - log_mean
    return (
        shape * log_rate
        - jsp.gammaln(shape)
        + (shape - 1.0) * jnp.log(value)
        - value * jnp.exp(log_rate)
    )


def exponential(value: Any, log_mean: Any) -> Array:
    """-log mu - y / mu."""
    return -log_mean - value * jnp.exp(-log_mean)


def beta(value: Any, logit_mean: Any, log_precision: Any) -> Array:
    """Log Beta(y; mu kappa, (1 - mu) kappa)."""
    log_a = jax.nn.log_sigmoid(logit_mean) + log_precision
    log_b = jax.nn.log_sigmoid(-logit_mean) + log_precision
    a, b = jnp.exp(log_a), jnp.exp(log_b)
    # Gamma(a) = Gamma(1 + a) / a, whose log is smooth down to a = 0.
    return (
        jsp.gammaln(jnp.exp(log_precision))
        - (jsp.gammaln(1.0 + a) - log_a)
        - (jsp.gammaln(1.0 + b) - log_b)
        + (a - 1.0) * jnp.log(value)
        + (b - 1.0) * jnp.log1p(-value)
    )


def zero_inflated(value: Any, log_density: Any, log_zero: Any, logit: Any) -> Array:
    """Of a count with probability psi, else of zero.

    Args:
        value: the response.
        log_density: of the count at the response.
        log_zero: of the count at zero.
        logit: of psi.
    """
    zero = jnp.logaddexp(jax.nn.log_sigmoid(-logit), jax.nn.log_sigmoid(logit) + log_zero)
    return jnp.where(value == 0, zero, jax.nn.log_sigmoid(logit) + log_density)


def zero_inflated_poisson(value: Any, log_mean: Any, logit: Any) -> Array:
    return zero_inflated(value, poisson(value, log_mean), -jnp.exp(log_mean), logit)


def zero_inflated_negative_binomial(value: Any, log_mean: Any, log_shape: Any, logit: Any) -> Array:
    count = negative_binomial(value, log_mean, log_shape)
    zero = -jnp.exp(log_shape) * jax.nn.softplus(log_mean - log_shape)
    return zero_inflated(value, count, zero, logit)


def from_count(value: Any, log_zero: Any, logit: Any) -> Array:
    """The probability that a response of `zero_inflated` is of the count, given the response."""
    return jnp.where(value == 0, jax.nn.sigmoid(logit + log_zero), 1.0)


class NumberedCategories(dist.Distribution):
    """Categories 1, ..., K with these probabilities, (..., K)."""

    pytree_data_fields = ("shares",)

    def __init__(self, shares: Any) -> None:
        self.shares: Any = shares
        super().__init__(jnp.shape(shares)[:-1])

    @property
    def support(self) -> Any:
        return dist.constraints.integer_interval(1, self.shares.shape[-1])

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        shape = (*sample_shape, *self.batch_shape)
        return 1 + jax.random.categorical(key, jnp.log(self.shares), shape=shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        place = jnp.asarray(value, int)[..., None] - 1
        shape = jnp.broadcast_shapes(place.shape[:-1], self.shares.shape[:-1])
        logs = jnp.broadcast_to(jnp.log(self.shares), (*shape, self.shares.shape[-1]))
        place = jnp.broadcast_to(place, (*shape, 1))
        return jnp.take_along_axis(logs, place, axis=-1)[..., 0]


def ordinal(value: Any, location: Any, thresholds: Any) -> Array:
    """log(F(t_k - eta) - F(t_{k-1} - eta)), F the logistic function, t_0 and t_K infinite.

    With a = t_k - eta and b = eta - t_{k-1} the difference of two thresholds is
    F(a) F(b) (1 - exp(t_{k-1} - t_k)), every factor of which keeps its digits.
    """
    count = jnp.shape(thresholds)[-1]
    k = jnp.asarray(value, int)
    shape = jnp.broadcast_shapes(jnp.shape(k), jnp.shape(location), jnp.shape(thresholds)[:-1])
    each = jnp.broadcast_to(thresholds, (*shape, count))
    k = jnp.broadcast_to(k, shape)
    upper = jnp.take_along_axis(each, jnp.clip(k - 1, 0, count - 1)[..., None], axis=-1)[..., 0]
    lower = jnp.take_along_axis(each, jnp.clip(k - 2, 0, count - 1)[..., None], axis=-1)[..., 0]
    first, last = k == 1, k == count + 1
    below = jnp.where(last, 0.0, jax.nn.log_sigmoid(upper - location))
    above = jnp.where(first, 0.0, jax.nn.log_sigmoid(location - lower))
    inner = ~(first | last)
    gap = jnp.where(inner, upper - lower, 1.0)
    # Draws of thresholds may be equal to the last digit.
    width = jnp.log(-jnp.expm1(-jnp.maximum(gap, jnp.finfo(gap.dtype).tiny)))
    return below + above + jnp.where(inner, width, 0.0)


def categorical(value: Any, **etas: Any) -> Array:
    """eta_k - log(1 + sum_j e^eta_j), eta_1 = 0; the others in the order of their names."""
    k = jnp.asarray(value, int)
    listed = [etas[f"eta{i}"] for i in range(len(etas))]
    own = sum(jnp.where(k == i + 2, eta, 0.0) for i, eta in enumerate(listed))
    total = jnp.zeros_like(jnp.asarray(listed[0]))
    for eta in listed:
        total = jnp.logaddexp(total, eta)
    return own - total
