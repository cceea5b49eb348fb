"""The distribution of a finite mixture for NumPyro, from those of its components."""

from ranef.lazy import Array, ArrayLike, constraints, dist, jax, jnp
from ranef.numerics.shapes import Float


class MixtureDistribution(dist.Distribution):
    """The mixture sum_k w_k p_k(y) as a NumPyro distribution.

    Args:
        each: the distributions p_k, K of them.
        log_shares: log w of each component.
    """

    pytree_data_fields = ("each", "log_shares")

    def __init__(
        self, each: tuple[dist.Distribution, ...], log_shares: Float[Array, "k *n"]
    ) -> None:
        self.each, self.log_shares = each, log_shares
        shapes = [component.batch_shape for component in each]
        super().__init__(jnp.broadcast_shapes(*shapes, jnp.shape(log_shares)[1:]))

    @property
    def support(self) -> constraints.Constraint | None:
        return self.each[0].support

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        assert key is not None
        chosen, *keys = jax.random.split(key, 1 + len(self.each))
        shape = (*sample_shape, *self.batch_shape)
        number = jax.random.categorical(chosen, self.log_shares, axis=0, shape=shape)
        out = jnp.zeros(shape)
        for k, (component, own) in enumerate(zip(self.each, keys, strict=True)):
            whole = component.expand(self.batch_shape)
            out = jnp.where(number == k, whole.sample(own, sample_shape), out)
        return out

    def log_prob(self, value: ArrayLike, intermediates: object = None) -> Array:
        each = [component.log_prob(value) for component in self.each]
        weighted = [one + share for one, share in zip(each, self.log_shares, strict=True)]
        return jax.nn.logsumexp(jnp.stack(jnp.broadcast_arrays(*weighted)), axis=0)
