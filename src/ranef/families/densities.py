"""Log densities in the predictors themselves, where the parameters have lost the digits.

A probability within 1e-16 of one is one, and the log of what is left of it minus infinity; its
logit is any number. Each function takes a response and predictors of one shape and returns log
p(y); all are smooth, so that JAX may take three derivatives of them anywhere.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import gammaln


class Law(dist.Distribution):
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
        self.law, self.density, self.arguments = law, density, dict(arguments)
        super().__init__(law.batch_shape, law.event_shape)

    @property
    def support(self) -> Any:
        return self.law.support

    @property
    def mean(self) -> Any:
        return self.law.mean

    @property
    def variance(self) -> Any:
        return self.law.variance

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Any:
        return self.law.sample(key, sample_shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Any:
        return self.density(value, **self.arguments)


def bernoulli(value: Any, logit: Any) -> Array:
    """Y eta - log(1 + e^eta)."""
    return value * logit - jax.nn.softplus(logit)


def binomial(value: Any, logit: Any, trials: Any) -> Array:
    """Log C(n, y) + y eta - n log(1 + e^eta)."""
    return log_choose(trials, value) + value * logit - trials * jax.nn.softplus(logit)


def poisson(value: Any, log_mean: Any) -> Array:
    """Y eta - e^eta - log y!."""
    return value * log_mean - jnp.exp(log_mean) - gammaln(value + 1.0)


def student(value: Any, location: Any, log_scale: Any, log_nu: Any) -> Array:
    """Log t_nu((y - mu) / sigma) - log sigma."""
    nu = jnp.exp(log_nu)
    squared = (value - location) ** 2 * jnp.exp(-2 * log_scale - log_nu)
    tail = -0.5 * (nu + 1) * jnp.log1p(squared) - log_scale
    return tail + gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * (log_nu + jnp.log(jnp.pi))


def log_choose(n: Any, k: Any) -> Array:
    """Log of the binomial coefficient."""
    return gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
