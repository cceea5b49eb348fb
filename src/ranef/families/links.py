"""Links: a parameter of the distribution to its predictor eta, and back.

    eta = link(parameter)

A predictor may be any real number, a parameter only what its support holds.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

LINKS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda value: value,
    "log": jnp.log,
    "logit": lambda value: jnp.log(value) - jnp.log1p(-value),
    "probit": jax.scipy.special.ndtri,
    "cloglog": lambda value: jnp.log(-jnp.log1p(-value)),
}

# Link to its inverse: the predictor eta to the parameter.
INVERSE_LINKS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda eta: eta,
    "log": jnp.exp,
    "logit": jax.nn.sigmoid,
    "probit": jax.scipy.special.ndtr,
    "cloglog": lambda eta: -jnp.expm1(-jnp.exp(eta)),
}
