"""Link functions and their inverses.

    eta = link(parameter)

A link maps the support of a parameter to the real line, on which the linear predictor eta lies.
"""

from collections.abc import Callable

from ranef.lazy import Array, jax, jnp, jsp

# Link functions by name: parameter to predictor eta.
LINKS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda value: value,
    "log": lambda value: jnp.log(value),
    "logit": lambda value: jnp.log(value) - jnp.log1p(-value),
    "probit": lambda value: jsp.ndtri(value),
    "cloglog": lambda value: jnp.log(-jnp.log1p(-value)),
}

# Inverse link functions by name: predictor eta to parameter.
INVERSE_LINKS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda eta: eta,
    "log": lambda eta: jnp.exp(eta),
    "logit": lambda eta: jax.nn.sigmoid(eta),
    "probit": lambda eta: jsp.ndtr(eta),
    "cloglog": lambda eta: -jnp.expm1(-jnp.exp(eta)),
}
