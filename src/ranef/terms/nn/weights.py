"""What is believed about the weights of a network: `Point`, `LastLayerWeights`, `FullWeights`.

`point`: all are point estimates. `last`: the features h(x; w) before the last layer are, and

    f(x) = c' (h(x; w), 1),   c ~ N(0, tau^2 I)

is linear in what has a posterior, so that c integrates out in closed form like any common effect.
`full`: every weight has the prior N(0, tau^2 D); ``linearized_laplace`` says how it is integrated.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from ranef import priors
from ranef.data.moments import Scale
from ranef.lazy import Array, dist, jax, jnp, mutable, numpyro
from ranef.priors import Prior, sites
from ranef.terms.base import Design, Parameter, RunOptions, Variable
from ranef.terms.blocks import LinearBlock
from ranef.terms.nn import graph, linearized_laplace
from ranef.terms.nn.state import NetworkState


@runtime_checkable
class NetworkTerm(Protocol):
    """What the weights of a network know of its term."""

    label: str

    def column(
        self, state: NetworkState, design: Design, scale: Scale, replay: RunOptions
    ) -> Array:
        """(n, 1) its output of the network, which runs once for all terms that share it."""
        ...

    def frozen(self, state: NetworkState, scale: Scale) -> Any:
        """The network in inference mode as a function of weights and inputs, to (n,)."""
        ...

    def kept(self) -> dict[str, dict[str, Any]]:
        """What the program carries where the network is not left out.

        Weights with a prior are never: the posterior of their scale reaches zero.
        """
        ...

    @property
    def keras(self) -> Any: ...

    def output(
        self,
        state: NetworkState,
        design: Design,
        replay: RunOptions,
        model: Any,
        weights: list[Array],
    ) -> Array:
        """Of the network, or of `model`, a part of it, within a NumPyro program."""
        ...

    def output_shift(self, state: NetworkState, scale: Scale) -> float:
        """The output that adds nothing to the predictor."""
        ...

    def points(self, state: NetworkState, model: Any) -> list[Array]:
        """The trainable weights of a part of the network, as point estimates."""
        ...

    def rows(self, design: Design) -> list[Array]:
        """What the inputs get, an array for each."""
        ...

    @property
    def short(self) -> str:
        """The term by its columns alone, such as nn(x, z)."""
        ...

    def starts(self, state: NetworkState, model: Any) -> list[tuple[str, Any]]:
        """The site of each weight, and where its search begins."""
        ...

    def unit(self, state: NetworkState, scale: Scale) -> float:
        """What an output of one adds to the predictor."""
        ...


class Weights(ABC):
    """How the weights of a network enter the model.

    Args:
        network: the term.
    """

    about: str
    # Whether an output that adds nothing to the predictor may be another than zero.
    shifts = True

    def __init__(self, network: NetworkTerm) -> None:
        self.network = network

    def check(self, state: NetworkState) -> None:  # noqa: B027 most take any network
        """Refuse a network that cannot be treated so.

        Raises:
            OptionError: saying what it lacks.
        """

    def parameters(self, state: NetworkState, scale: Scale) -> dict[str, Parameter]:
        """Names that take a prior, with the default for this scale."""
        return {}

    @abstractmethod
    def basis(self, state: NetworkState, design: Design, scale: Scale, replay: RunOptions) -> Array:
        """(n, k) columns that point estimates shape, within a NumPyro program."""

    def settled(
        self,
        state: NetworkState,
        design: Design,
        scale: Scale,
        given: Callable[[Callable], Callable],
    ) -> dict[str, Any]:
        """What is carried from the end of a search on, as `Term.settled`."""
        return {}

    @abstractmethod
    def structure(self, state: NetworkState, basis: Any) -> LinearBlock:
        """The block that these columns make."""

    @abstractmethod
    def sample(
        self,
        state: NetworkState,
        design: Design,
        priors_: Mapping[str, Prior],
        scale: Scale,
        replay: RunOptions,
    ) -> Array:
        """Eta (n,), within a NumPyro program."""

    def variables(self, state: NetworkState) -> dict[str, Variable]:
        return {}

    def means(self, state: NetworkState, draws: Any) -> dict[int, Any]:
        """Posterior means of the network's variables, by their `id`, where they have one."""
        return {}


class PointWeights(Weights):
    """All weights are point estimates: the output is a column whose coefficient is one."""

    about = "a point estimate"

    def basis(self, state: NetworkState, design: Design, scale: Scale, replay: RunOptions) -> Array:
        return self.network.column(state, design, scale, replay)

    def structure(self, state: NetworkState, basis: Any) -> LinearBlock:
        return LinearBlock(basis, None, 1, np.ones(1), np.zeros(1))

    def sample(
        self,
        state: NetworkState,
        design: Design,
        priors_: Mapping[str, Prior],
        scale: Scale,
        replay: RunOptions,
    ) -> Array:
        return self.basis(state, design, scale, replay)[:, 0]


class _ScaledWeights(PointWeights):
    """Some weights have a prior of scale tau.

    A search goes on point estimates of all weights until its end: coefficients at their
    posterior mean would be zero where features have learned nothing yet, and these then never
    would.
    """

    @property
    def scale_site(self) -> str:
        return f"{self.network.short}_sigma"

    def parameters(self, state: NetworkState, scale: Scale) -> dict[str, Parameter]:
        # Features are of order one, and so are their coefficients in units of the predictor.
        return {
            self.scale_site: Parameter(
                priors.HalfNormal(2.0 * self.spread(state, scale)), "positive"
            )
        }

    def spread(self, state: NetworkState, scale: Scale) -> float:
        """Of the predictor, in units of the network's output."""
        return scale.sd / self.network.unit(state, scale)

    def tau(self, state: NetworkState, priors_: Mapping[str, Prior], scale: Scale) -> Array:
        name, start = self.scale_site, self.spread(state, scale)
        return sites.parameter(name, priors_[name], support="positive", start=start)

    def variables(self, state: NetworkState) -> dict[str, Variable]:
        return {self.scale_site: Variable("scale")}


class LastLayerWeights(_ScaledWeights):
    """The last layer has a posterior, what is before it is a point estimate."""

    about = "a point estimate but for the last layer"
    # The bias has a prior about zero.
    shifts = False

    @property
    def site(self) -> str:
        return f"{self.network.short}_last"

    def check(self, state: NetworkState) -> None:
        self._parts(state)

    def _parts(self, state: NetworkState) -> tuple[Any, Any]:
        return graph.before_last(self.network.keras.Model, state.model)

    def _units(self, state: NetworkState) -> tuple[str, ...]:
        layer = self._parts(state)[1]
        named = (f"unit {i + 1}" for i in range(int(layer.kernel.shape[0])))
        return (*named, "bias") if layer.use_bias else tuple(named)

    def settled(
        self,
        state: NetworkState,
        design: Design,
        scale: Scale,
        given: Callable[[Callable], Callable],
    ) -> dict[str, Any]:
        return {self._settled: {"last": np.ones(())}, **self.network.kept()}

    @property
    def _settled(self) -> str:
        return f"{self.network.label}/settled"

    def basis(self, state: NetworkState, design: Design, scale: Scale, replay: RunOptions) -> Array:
        if not mutable(self._settled, cast(Any, {})):
            return super().basis(state, design, scale, replay)
        return self._features(state, design, scale, replay)

    def _features(
        self, state: NetworkState, design: Design, scale: Scale, replay: RunOptions
    ) -> Array:
        """(h, 1), (n, k)."""
        features, layer = self._parts(state)
        weights = self.network.points(state, features)
        columns = self.network.output(state, design, replay, features, weights)
        if layer.use_bias:
            columns = jnp.concatenate([columns, jnp.ones((len(columns), 1), columns.dtype)], axis=1)
        return columns * self.network.unit(state, scale)

    def structure(self, state: NetworkState, basis: Any) -> LinearBlock:
        k = len(self._units(state))
        if basis.shape[1] != k:
            return super().structure(state, basis)
        return LinearBlock(
            basis,
            None,
            1,
            np.zeros(k),
            np.ones(k),
            sites=((self.site, k),),
            shapes=((k,),),
            scales=(self.scale_site,) * k,
        )

    def sample(
        self,
        state: NetworkState,
        design: Design,
        priors_: Mapping[str, Prior],
        scale: Scale,
        replay: RunOptions,
    ) -> Array:
        zeros = jnp.zeros(len(self._units(state)))
        infer = {"start": zeros, "unit": jnp.full_like(zeros, self.spread(state, scale))}
        law = dist.Normal(zeros, self.tau(state, priors_, scale)).to_event(1)
        coefficients = jnp.asarray(numpyro.sample(self.site, law, infer=infer))
        return self._features(state, design, scale, replay) @ coefficients

    def variables(self, state: NetworkState) -> dict[str, Variable]:
        units = self._units(state)
        return {
            **super().variables(state),
            self.site: Variable("weight", (f"{self.network.short}_unit",), (units,)),
        }

    def means(self, state: NetworkState, draws: Any) -> dict[int, Any]:
        layer = self._parts(state)[1]
        mean = np.asarray(draws.sites[self.site]).mean(axis=(0, 1)).reshape(-1)
        out = {id(layer.kernel): mean[: layer.kernel.shape[0], None]}
        return {**out, id(layer.bias): mean[-1:]} if layer.use_bias else out


class FullWeights(_ScaledWeights):
    """Every weight has a posterior."""

    about = "each with a prior, integrated where the network is linear in them"

    @property
    def _directions(self) -> str:
        return f"{self.network.label}/directions"

    def _linear(self) -> dict[str, Any]:
        """The linear model, empty while it is not settled."""
        return dict(cast(Any, mutable(f"{self.network.label}/linear", cast(Any, {}))))

    def settled(
        self,
        state: NetworkState,
        design: Design,
        scale: Scale,
        given: Callable[[Callable], Callable],
    ) -> dict[str, Any]:
        network = self.network

        def program() -> dict[str, Any]:
            output, weights = network.frozen(state, scale), network.points(state, state.model)
            return linearized_laplace.directions(output, weights, network.rows(design))

        found = numpyro.handlers.seed(given(program), 0)()
        return {f"{network.label}/linear": found, **network.kept()}

    def basis(self, state: NetworkState, design: Design, scale: Scale, replay: RunOptions) -> Array:
        linear = self._linear()
        if not linear:
            return super().basis(state, design, scale, replay)
        output = self.network.frozen(state, scale)
        weights = self.network.points(state, state.model)
        return linearized_laplace.columns(output, weights, self.network.rows(design), linear)

    def structure(self, state: NetworkState, basis: Any) -> LinearBlock:
        k = basis.shape[1] - 1
        if k == 0:
            return super().structure(state, basis)
        return LinearBlock(
            basis[:, 1:],
            None,
            1,
            np.zeros(k),
            np.ones(k),
            sites=((self._directions, k),),
            shapes=((k,),),
            scales=(self.scale_site,) * k,
            known=basis[:, 0],
        )

    def sample(
        self,
        state: NetworkState,
        design: Design,
        priors_: Mapping[str, Prior],
        scale: Scale,
        replay: RunOptions,
    ) -> Array:
        network, linear = self.network, self._linear()
        tau = self.tau(state, priors_, scale)
        if not linear:
            return self._sampled(state, design, tau, scale, replay)
        p, k = linear["directions"].shape
        law = dist.Normal(jnp.zeros(k), tau).to_event(1)
        infer = {"start": jnp.asarray(linear["mean"]), "unit": jnp.ones(k)}
        a = jnp.asarray(numpyro.sample(self._directions, law, infer=infer))
        u = jnp.zeros(p)
        if k < p and not replay.training:
            # Drawn with each prediction: of these the data say nothing.
            rest = dist.Normal(u, tau).to_event(1)
            u = jnp.asarray(numpyro.sample(f"{network.label}/rest", rest))
        output, weights = network.frozen(state, scale), network.points(state, state.model)
        return linearized_laplace.moved(output, weights, network.rows(design), linear, a, u)

    def _sampled(
        self, state: NetworkState, design: Design, tau: Array, scale: Scale, replay: RunOptions
    ) -> Array:
        """The network itself at weights drawn from their prior."""
        network, weights = self.network, []
        for site, variable in zip(
            (site for site, _ in network.starts(state, state.model)),
            state.model.trainable_variables,
            strict=True,
        ):
            shape = tuple(variable.shape)
            own = linearized_laplace.scales([shape]).reshape(shape)
            law = dist.Normal(jnp.zeros(shape), tau * own).to_event(len(shape))
            start = jax.random.normal(jax.random.key(zlib.crc32(site.encode())), shape) * own
            infer = {"start": start, "unit": jnp.asarray(own)}
            weights.append(jnp.asarray(numpyro.sample(site, law, infer=infer)))
        output = network.output(state, design, replay, state.model, weights)
        return (output.reshape(-1) - network.output_shift(state, scale)) * network.unit(
            state, scale
        )


KINDS: dict[str, type[Weights]] = {
    "point": PointWeights,
    "last": LastLayerWeights,
    "full": FullWeights,
}
