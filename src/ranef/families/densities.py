"""Log densities as functions of the linear predictors, for JAX.

Computing a density from inverse-linked parameters loses digits: a probability within 1e-16 of one
rounds to one, and log(1 - p) to minus infinity, although the logit of p is a moderate number. Each
function here takes a response and predictors of a common shape and returns log p(y) of that shape.
All are smooth, so that JAX can take three derivatives at any predictor.
"""

from collections.abc import Callable, Mapping

from ranef.lazy import Array, ArrayLike, constraints, dist, jax, jnp, jsp
from ranef.numerics.shapes import Float, Shaped

# Responses, predictors or known numbers of the rows, which are broadcast, and what is returned.
Response = Shaped[Array, "*#n"]
Values = Float[Array, "*#n"]
Each = Float[Array, "*n"]


class RowDistribution(dist.Distribution):
    """A distribution whose log density is computed from linear predictors.

    Args:
        distribution: the same distribution in its parameters; it gives samples, mean and variance.
        density: the log density, ``density(value, **arguments)``, one of the functions below.
        arguments: the predictors and known numbers of the rows, such as trials.
    """

    pytree_data_fields = ("distribution", "arguments")
    pytree_aux_fields = ("density",)

    def __init__(
        self,
        distribution: dist.Distribution,
        density: Callable[..., Array],
        arguments: Mapping[str, Array | dist.Distribution],
    ) -> None:
        self.distribution, self.density, self.arguments = distribution, density, dict(arguments)
        super().__init__(distribution.batch_shape, distribution.event_shape)

    @property
    def support(self) -> constraints.Constraint | None:
        return self.distribution.support

    @property
    def mean(self) -> Array:
        return self.distribution.mean

    @property
    def variance(self) -> Array:
        return self.distribution.variance

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        return jnp.asarray(self.distribution.sample(key, sample_shape))

    def log_prob(self, value: ArrayLike, intermediates: object = None) -> Array:
        return self.density(jnp.asarray(value), **self.arguments)


class CountDistribution(RowDistribution):
    """A distribution of counts, which also gives its log probability of zero.

    Args:
        distribution: as in `RowDistribution`.
        density: as in `RowDistribution`.
        arguments: as in `RowDistribution`.
        zero: log p(0), a function of `arguments`.
    """

    pytree_aux_fields = ("zero",)

    def __init__(
        self,
        distribution: dist.Distribution,
        density: Callable[..., Array],
        arguments: Mapping[str, Array | dist.Distribution],
        zero: Callable[..., Array],
    ) -> None:
        self.zero = zero
        super().__init__(distribution, density, arguments)

    def log_zero(self) -> Array:
        """Log p(0) of each row."""
        return self.zero(**self.arguments)


def bernoulli(value: Response, logit: Values) -> Each:
    """Log p(y) = -y log(1 + e^-eta) - (1 - y) log(1 + e^eta), with eta = logit p."""
    return -value * jax.nn.softplus(-logit) - (1.0 - value) * jax.nn.softplus(logit)


def binomial(value: Response, logit: Values, trials: Values) -> Each:
    """Log p(y) = log C(n, y) - y log(1 + e^-eta) - (n - y) log(1 + e^eta), eta = logit p."""
    failures = (trials - value) * jax.nn.softplus(logit)
    return log_choose(trials, value) - value * jax.nn.softplus(-logit) - failures


def poisson(value: Response, log_mean: Values) -> Each:
    """Log p(y) = y eta - e^eta - log y!, with eta = log mu."""
    return value * log_mean - jnp.exp(log_mean) - jsp.gammaln(value + 1.0)


def poisson_zero(log_mean: Values) -> Each:
    """Log p(0) = -mu."""
    return -jnp.exp(log_mean)


def student(value: Response, location: Values, log_scale: Values, log_nu: Values) -> Each:
    """Log p(y) = log t_nu((y - mu) / sigma) - log sigma, with t_nu the density of Student's t."""
    nu = jnp.exp(log_nu)
    squared = (value - location) ** 2 * jnp.exp(-2 * log_scale - log_nu)
    tail = -0.5 * (nu + 1) * jnp.log1p(squared) - log_scale
    return tail + jsp.gammaln((nu + 1) / 2) - jsp.gammaln(nu / 2) - 0.5 * (log_nu + jnp.log(jnp.pi))


def log_choose(n: Values, k: Values) -> Each:
    """Logarithm of the binomial coefficient C(n, k)."""
    return jsp.gammaln(n + 1.0) - jsp.gammaln(k + 1.0) - jsp.gammaln(n - k + 1.0)


# Shape a above which log Gamma(a + y) - log Gamma(a) is computed from Stirling's series, since the
# difference of two large log gammas loses digits.
LARGE_SHAPE = 1e5


def log_rising(shape: Values, log_shape: Values, count: Values) -> Each:
    """Log Gamma(a + y) - log Gamma(a), without cancellation for large a.

    Args:
        shape: a.
        log_shape: log a.
        count: y >= 0.
    """
    small = jnp.minimum(shape, LARGE_SHAPE)
    exact = jsp.gammaln(small + count) - jsp.gammaln(small)
    large = jnp.maximum(shape, LARGE_SHAPE)
    series = (
        (large + count - 0.5) * jnp.log1p(count / large)
        + count * (log_shape - 1.0)
        - count / (12.0 * large * (large + count))
    )
    return jnp.where(shape < LARGE_SHAPE, exact, series)


def negative_binomial(value: Response, log_mean: Values, log_shape: Values) -> Each:
    """Log p(y) of a negative binomial count with mean mu and shape a.

    log p(y) = log(Gamma(y + a) / (Gamma(a) y!)) + a log(a / (a + mu)) + y log(mu / (a + mu))
    """
    shape, above = jnp.exp(log_shape), log_mean - log_shape
    rising = log_rising(shape, log_shape, value) - jsp.gammaln(value + 1.0)
    return rising - shape * jax.nn.softplus(above) - value * jax.nn.softplus(-above)


def negative_binomial_zero(log_mean: Values, log_shape: Values) -> Each:
    """Log p(0) = -a log(1 + mu / a)."""
    return -jnp.exp(log_shape) * jax.nn.softplus(log_mean - log_shape)


def gamma(value: Response, log_mean: Values, log_shape: Values) -> Each:
    """Log p(y) = a log(a / mu) - log Gamma(a) + (a - 1) log y - a y / mu, with shape a."""
    shape, log_rate = jnp.exp(log_shape), log_shape - log_mean
    return (
        shape * log_rate
        - jsp.gammaln(shape)
        + (shape - 1.0) * jnp.log(value)
        - value * jnp.exp(log_rate)
    )


def exponential(value: Response, log_mean: Values) -> Each:
    """Log p(y) = -log mu - y / mu."""
    return -log_mean - value * jnp.exp(-log_mean)


def beta(value: Response, logit_mean: Values, log_precision: Values) -> Each:
    """Log density of Beta(a, b) with a = mu kappa and b = (1 - mu) kappa."""
    log_a = jax.nn.log_sigmoid(logit_mean) + log_precision
    log_b = jax.nn.log_sigmoid(-logit_mean) + log_precision
    a, b = jnp.exp(log_a), jnp.exp(log_b)
    # log Gamma(a) = log Gamma(1 + a) - log a keeps its digits down to a = 0, since log a is known.
    return (
        jsp.gammaln(jnp.exp(log_precision))
        - (jsp.gammaln(1.0 + a) - log_a)
        - (jsp.gammaln(1.0 + b) - log_b)
        + (a - 1.0) * jnp.log(value)
        + (b - 1.0) * jnp.log1p(-value)
    )


def zero_inflated(value: Response, counts: CountDistribution, logit: Values) -> Each:
    """Log p(y) = log(psi p_count(y) + (1 - psi) 1(y = 0)), a count with probability psi, else zero.

    Args:
        value: the response y.
        counts: the distribution p_count.
        logit: logit of psi.
    """
    log_density, log_zero = counts.log_prob(value), counts.log_zero()
    zero = jnp.logaddexp(jax.nn.log_sigmoid(-logit), jax.nn.log_sigmoid(logit) + log_zero)
    return jnp.where(value == 0, zero, jax.nn.log_sigmoid(logit) + log_density)


def from_count(value: Response, log_zero: Values, logit: Values) -> Each:
    """P(count | y) under `zero_inflated`: the probability that y was drawn from the counts."""
    return jnp.where(value == 0, jax.nn.sigmoid(logit + log_zero), 1.0)


class NumberedCategories(dist.Distribution):
    """Categorical distribution on 1, ..., K.

    Args:
        shares: the probabilities.
    """

    pytree_data_fields = ("shares",)

    def __init__(self, shares: Float[Array, "*rows k"]) -> None:
        self.shares = shares
        super().__init__(jnp.shape(shares)[:-1])

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(1, self.shares.shape[-1])

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        assert key is not None
        shape = (*sample_shape, *self.batch_shape)
        return 1 + jax.random.categorical(key, jnp.log(self.shares), shape=shape)

    def log_prob(self, value: ArrayLike, intermediates: object = None) -> Array:
        place = jnp.asarray(value, int)[..., None] - 1
        shape = jnp.broadcast_shapes(place.shape[:-1], self.shares.shape[:-1])
        logs = jnp.broadcast_to(jnp.log(self.shares), (*shape, self.shares.shape[-1]))
        place = jnp.broadcast_to(place, (*shape, 1))
        return jnp.take_along_axis(logs, place, axis=-1)[..., 0]


def ordinal(value: Response, location: Values, thresholds: Float[Array, "*#n k"]) -> Each:
    """Log P(y = k) = log(F(t_k - eta) - F(t_{k-1} - eta)), with F the logistic function.

    t_0 = -inf and t_K = inf. With a = t_k - eta and b = eta - t_{k-1} the difference is computed
    as F(a) F(b) (1 - exp(t_{k-1} - t_k)), a product of factors without cancellation.

    Args:
        value: categories k = 1, ..., K.
        location: eta.
        thresholds: t_1 <= ... <= t_{K-1}.
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
    # Thresholds may be equal up to rounding, and the logarithm needs a positive gap.
    width = jnp.log(-jnp.expm1(-jnp.maximum(gap, jnp.finfo(gap.dtype).tiny)))
    return below + above + jnp.where(inner, width, 0.0)


def categorical(value: Response, **etas: Values) -> Each:
    """Log P(y = k) = eta_k - log(1 + sum_{j > 1} e^eta_j), with eta_1 = 0.

    Args:
        value: categories k = 1, ..., K.
        **etas: `eta0`, `eta1`, ..., the predictors of categories 2, 3, ..., K.
    """
    k = jnp.asarray(value, int)
    listed = [etas[f"eta{i}"] for i in range(len(etas))]
    own = total = jnp.zeros_like(listed[0])
    for i, eta in enumerate(listed):
        own = own + jnp.where(k == i + 2, eta, 0.0)
    for eta in listed:
        total = jnp.logaddexp(total, eta)
    return own - total
