"""Link functions and their inverses.

    eta = link(parameter)

A link maps the support of a parameter to the real line, on which the linear predictor eta lies.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Link functions by name: parameter to predictor eta.
LINKS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda value: value,
    "log": jnp.log,
    "logit": lambda value: jnp.log(value) - jnp.log1p(-value),
    "probit": jax.scipy.special.ndtri,
    "cloglog": lambda value: jnp.log(-jnp.log1p(-value)),
}

# Inverse link functions by name: predictor eta to parameter.
INVERSE_LINKS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda eta: eta,
    "log": jnp.exp,
    "logit": jax.nn.sigmoid,
    "probit": jax.scipy.special.ndtr,
    "cloglog": lambda eta: -jnp.expm1(-jnp.exp(eta)),
}
