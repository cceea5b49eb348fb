"""Parameters and their priors as NumPyro sites.

A prior becomes a sample site, a fixed number a constant, and a point estimate a param site. Each
site carries `start`, the starting value of a search, and `unit`, a natural step size. Every
inference method may read them.
"""

import math
from typing import Any, ClassVar

from ranef import priors
from ranef.lazy import Array, ArrayLike, constraints, dist, jax, jnp, jsp, numpyro
from ranef.numerics.jax_cholesky import solve
from ranef.priors import Prior

# NumPyro constraint of each support of a parameter.
CONSTRAINTS = {
    "real": constraints.real,
    "positive": constraints.positive,
    "unit": constraints.unit_interval,
    "ordered": constraints.ordered_vector,
}


# Number of Gibbs sweeps over all elements in `OrderedVector.sample`, after which the starting point
# no longer matters.
_GIBBS = 60


class OrderedVector(dist.Distribution):
    """Independent elements conditioned to be in increasing order.

    p(x) = k! p_1(x_1) ... p_k(x_k) on x_1 < ... < x_k. This is normalised if the elements have
    one distribution, and otherwise holds up to a constant.

    Args:
        each: distribution of the vector of independent elements.
    """

    pytree_data_fields = ("each",)

    def __init__(self, each: dist.Distribution) -> None:
        self.each = each
        super().__init__(each.batch_shape, each.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.ordered_vector

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Sorted independent draws, followed by Gibbs sweeps for normals of different means.

        Sorting is exact if the elements have one distribution. A Gibbs sweep draws the elements of
        even index, then those of odd index, from their normal distributions truncated to the
        interval between their neighbours.
        """
        assert key is not None
        first, *keys = jax.random.split(key, _GIBBS + 1)
        x = jnp.sort(jnp.asarray(self.each.sample(first, sample_shape)), axis=-1)
        normal: Any = getattr(self.each, "base_dist", self.each)
        normal = getattr(normal, "base_dist", normal)
        if not issubclass(type(normal), dist.Normal) or jnp.ndim(normal.loc) == 0:
            return x
        loc, scale = (jnp.broadcast_to(v, x.shape) for v in (normal.loc, normal.scale))

        def turn(x: Array, key: Array) -> tuple[Array, None]:
            ends = jnp.full_like(x[..., :1], jnp.inf)
            for parity, own in enumerate(jax.random.split(key)):
                low = jnp.concatenate([-ends, x[..., :-1]], axis=-1)
                high = jnp.concatenate([x[..., 1:], ends], axis=-1)
                z = jax.random.truncated_normal(own, (low - loc) / scale, (high - loc) / scale)
                even = jnp.arange(x.shape[-1]) % 2 == parity
                x = jnp.where(even, loc + scale * z, x)
            return x, None

        return jax.lax.scan(turn, x, jnp.stack(keys))[0]

    def log_prob(self, value: ArrayLike, intermediates: object = None) -> Array:
        return jnp.asarray(self.each.log_prob(value)) + jax.scipy.special.gammaln(
            self.event_shape[0] + 1.0
        )


class BatchedNormal(dist.MultivariateNormal):
    """Vectors x ~ N(m, L L') whose log density calls no LAPACK (``numerics.jax_cholesky``)."""

    def log_prob(self, value: ArrayLike) -> Array:
        root = jnp.asarray(self.scale_tril)
        size = root.shape[-1]
        away = solve(root, jnp.asarray(value) - jnp.asarray(self.loc))
        log_det = jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(axis=-1)
        return -0.5 * (jnp.sum(away**2, axis=-1) + size * math.log(2 * math.pi)) - log_det


class PowerDistribution(dist.Distribution):
    """Distribution of x > 0 whose power x^k follows `base`: p(x) = p_base(x^k) |k| x^(k - 1).

    Args:
        base: distribution of x^k.
        power: the exponent k.
        ends: ends of the support of x; the upper one may be infinite.
    """

    arg_constraints: ClassVar[dict] = {}  # pyright: ignore[reportIncompatibleVariableOverride]
    pytree_data_fields = ("base",)
    pytree_aux_fields = ("power", "ends")

    def __init__(self, base: dist.Distribution, power: int, ends: tuple[float, float]) -> None:
        self.base, self.power, self.ends = base, power, ends
        super().__init__(base.batch_shape, base.event_shape)

    @property
    def support(self) -> constraints.Constraint:
        low, high = self.ends
        if high < math.inf:
            return constraints.interval(low, high)
        return constraints.greater_than(low) if low else constraints.positive

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        return jnp.asarray(self.base.sample(key, sample_shape)) ** (1 / self.power)

    def log_prob(self, value: ArrayLike, intermediates: object = None) -> Array:
        k = self.power
        inner = jnp.asarray(self.base.log_prob(value**k))
        return inner + math.log(abs(k)) + (k - 1) * jnp.log(value)


class LogOddsDistribution(dist.Distribution):
    """Distribution of log odds x for which 1 / (1 + exp(-x)) is Beta(alpha, beta)."""

    arg_constraints: ClassVar[dict] = {}  # pyright: ignore[reportIncompatibleVariableOverride]
    pytree_aux_fields = ("alpha", "beta")

    def __init__(self, alpha: float, beta: float) -> None:
        self.alpha, self.beta = alpha, beta
        super().__init__()

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        assert key is not None
        first, second = jax.random.split(key)
        above = jax.random.loggamma(first, self.alpha, sample_shape)
        return above - jax.random.loggamma(second, self.beta, sample_shape)

    def log_prob(self, value: ArrayLike, intermediates: object = None) -> Array:
        yes, no = jax.nn.log_sigmoid(value), jax.nn.log_sigmoid(-jnp.asarray(value))
        return self.alpha * yes + self.beta * no - jsp.betaln(self.alpha, self.beta)


def parameter(
    name: str,
    prior: Prior,
    *,
    shape: tuple[int, ...] = (),
    support: str = "real",
    start: ArrayLike | None = None,
    unit: ArrayLike = 1.0,
) -> Array:
    """Value of a parameter in the running NumPyro program, for which it makes a site.

    Args:
        name: name of the site.
        prior: prior of each element.
        shape: shape of the value; elements are independent.
        support: "real", "positive", "unit" (between 0 and 1) or "ordered" (increasing).
        start: starting value of a search, broadcast to `shape`; None for 1 if `support` is
            "positive", 0.5 if it is "unit", and 0 otherwise. Where the support of the prior is
            narrower than `support`, the starting value is moved inside.
        unit: natural step of each element, in the units of the parameter.

    Returns:
        the value, of shape `shape`.
    """
    default = {"positive": 1.0, "unit": 0.5}.get(support, 0.0)
    if isinstance(prior, (priors.Uniform, priors.Beta)):
        start = distribution(prior).mean  # the caller's start may be outside the support
    elif isinstance(prior, priors.PowerPrior):
        start = _inside(prior, default if start is None else start)
    elif prior.support == "positive" and support == "real":
        start = jnp.maximum(0.0 if start is None else start, jnp.asarray(unit))
    begin = jnp.broadcast_to(jnp.asarray(default if start is None else start, float), shape)
    if isinstance(prior, priors.Fixed):
        return jnp.full(shape, prior.value)
    if isinstance(prior, priors.PointEstimate):
        if prior.start is not None:
            begin = jnp.full(shape, prior.start)
        value = numpyro.param(name, begin, constraint=CONSTRAINTS[support], unit=unit)
        return jnp.asarray(value)
    density = _batched(distribution(prior, support), shape)
    if support == "ordered" and not isinstance(prior, priors.Flat):
        density = OrderedVector(density)
    return jnp.asarray(numpyro.sample(name, density, infer={"start": begin, "unit": unit}))


def _inside(prior: priors.PowerPrior, start: ArrayLike) -> ArrayLike:
    """A starting value of positive density: the midpoint of a bounded support, else `start`.

    `start` is added to the lower end of the support.
    """
    if prior.upper < math.inf:
        return (prior.lower + prior.upper) / 2
    return prior.lower + jnp.asarray(start)


def _batched(density: dist.Distribution, shape: tuple[int, ...]) -> dist.Distribution:
    """The distribution of an array of independent elements, as a single event."""
    if isinstance(density, dist.ImproperUniform):
        return dist.ImproperUniform(density.support, (), event_shape=shape)
    return density.expand(shape).to_event(len(shape))


def distribution(prior: Prior, support: str = "real") -> dist.Distribution:
    """The prior as a NumPyro distribution; tuple arguments make it a vector.

    Args:
        prior: the prior.
        support: support of the parameter, which only `Flat` uses.

    Raises:
        TypeError: for kinds that are not priors of numbers, such as `LKJ`.
    """
    number = jnp.asarray
    match prior:
        case priors.Flat():
            return dist.ImproperUniform(CONSTRAINTS[support], (), ())
        case priors.Normal():
            return dist.Normal(number(prior.mu), number(prior.sigma))
        case priors.StudentT():
            return dist.StudentT(prior.nu, number(prior.mu), number(prior.sigma))
        case priors.Cauchy():
            return dist.Cauchy(number(prior.mu), number(prior.sigma))
        case priors.HalfNormal():
            return dist.HalfNormal(prior.sigma)
        case priors.HalfStudentT():
            return dist.FoldedDistribution(dist.StudentT(prior.nu, 0.0, prior.sigma))
        case priors.HalfCauchy():
            return dist.HalfCauchy(prior.sigma)
        case priors.Exponential():
            return dist.Exponential(prior.rate)
        case priors.Gamma():
            return dist.Gamma(prior.alpha, prior.beta)
        case priors.InverseGamma():
            return dist.InverseGamma(prior.alpha, prior.beta)
        case priors.LogNormal():
            return dist.LogNormal(prior.mu, prior.sigma)
        case priors.Uniform():
            return dist.Uniform(prior.lower, prior.upper)
        case priors.Beta():
            return dist.Beta(prior.alpha, prior.beta)
        case priors.LogOdds():
            return LogOddsDistribution(float(prior.prior.alpha), float(prior.prior.beta))
        case priors.PowerPrior():
            return PowerDistribution(
                distribution(prior.prior), prior.power, (prior.lower, prior.upper)
            )
    raise TypeError(f"{prior} is not the prior of a number")
