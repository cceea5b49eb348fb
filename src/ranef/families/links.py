"""Links: a parameter of the distribution to its predictor eta, and back.

    eta = link(parameter)

A predictor may be any real number, a parameter only what its support holds.
"""

from collections.abc import Callable
from typing import Any

from ranef.lazy import jax, jnp, jsp

LINKS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda value: value,
    "log": lambda value: jnp.log(value),
    "logit": lambda value: jnp.log(value) - jnp.log1p(-value),
    "probit": lambda value: jsp.ndtri(value),
    "cloglog": lambda value: jnp.log(-jnp.log1p(-value)),
}

# Link to its inverse: the predictor eta to the parameter.
INVERSE_LINKS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda eta: eta,
    "log": lambda eta: jnp.exp(eta),
    "logit": lambda eta: jax.nn.sigmoid(eta),
    "probit": lambda eta: jsp.ndtr(eta),
    "cloglog": lambda eta: -jnp.expm1(-jnp.exp(eta)),
}
