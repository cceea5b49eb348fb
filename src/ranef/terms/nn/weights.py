"""Treatments of the weights of a network: `PointWeights`, `LastLayerWeights` and `FullWeights`.

- `point`: all weights are point estimates.
- `last`: the weights w before the last layer are point estimates, and the last layer has a
  posterior. With the features h(x; w) that enter it, the network is

      f(x) = c' (h(x; w), 1),   c ~ N(0, tau^2 I),

  which is linear in c, so that c is integrated out in closed form like common (fixed) effects.
- `full`: every weight has a prior, w ~ N(0, tau^2 D); ``linearized_laplace`` integrates them out.
"""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.moments import Scale
from ranef.lazy import Array, ArrayLike, dist, jax, jnp, numpyro
from ranef.numerics.shapes import Float
from ranef.priors import Prior, handlers, sites
from ranef.terms.base import Design, Parameter, Run, Variable
from ranef.terms.blocks import AnyArray, LinearBlock
from ranef.terms.capabilities import FittedDraws, MutableState
from ranef.terms.nn import graph, linearized_laplace, variables
from ranef.terms.nn.keras_types import Dense, Model
from ranef.terms.nn.state import NetworkState


@runtime_checkable
class NetworkTerm(Protocol):
    """The interface of a network term that the treatments of its weights use."""

    label: str

    def column(self, run: Run[NetworkState]) -> Float[Array, "n 1"]:
        """The term's contribution to eta; terms that share a network run it once."""
        ...

    def frozen(self, state: NetworkState, scale: Scale) -> linearized_laplace.Output:
        """The contribution to eta in inference mode, as a function of weights and inputs."""
        ...

    def kept(self) -> MutableState:
        """State that the program carries, by site, where the network is not left out.

        Networks whose weights have a prior are never left out, because the posterior of their
        scale can approach zero instead.
        """
        ...

    @property
    def keras(self) -> ModuleType:
        """The module Keras."""
        ...

    def output(self, run: Run[NetworkState], model: Model, weights: list[Array]) -> Array:
        """Output of `model`, the network or a part of it, within a NumPyro program."""
        ...

    def output_shift(self, state: NetworkState, scale: Scale) -> float:
        """The output at which the network adds zero to the predictor."""
        ...

    def points(self, state: NetworkState, model: Model) -> list[Array]:
        """Point estimates of the trainable weights of `model`, within a NumPyro program."""
        ...

    def rows(self, design: Design) -> list[Array]:
        """The rows as arrays, one for each input of the network."""
        ...

    @property
    def short(self) -> str:
        """The term with its columns alone, such as nn(x, z), which names its variables."""
        ...

    def starts(self, state: NetworkState, model: Model) -> Sequence[tuple[str, object]]:
        """Site and starting value of each trainable weight of `model`."""
        ...

    def unit(self, state: NetworkState, scale: Scale) -> float:
        """Change of the predictor when the output of the network increases by one."""
        ...


class Weights(ABC):
    """How the weights of a network enter the model.

    Args:
        network: the term.

    Attributes:
        about: the treatment in words, as equations show it.
        shifts: whether `output_shift` may differ from zero.
    """

    about: str
    shifts = True

    def __init__(self, network: NetworkTerm) -> None:
        self.network = network

    def check(self, state: NetworkState) -> None:  # noqa: B027 most take any network
        """Refuse a network that does not suit this treatment.

        Raises:
            OptionError: naming what the network lacks.
        """

    def parameters(self, state: NetworkState, scale: Scale) -> dict[str, Parameter]:
        """Parameters that take a prior, with the default for a predictor of this scale."""
        return {}

    @abstractmethod
    def basis(self, run: Run[NetworkState]) -> Float[Array, "n k"]:
        """Columns that depend on point estimates, within a NumPyro program."""

    def settled(
        self,
        state: NetworkState,
        design: Design,
        scale: Scale,
        substituted: Callable[[Callable], Callable],
    ) -> dict[str, Mapping[str, ArrayLike]]:
        """State that the program carries once the search has ended, as `HasNetwork.settled`."""
        return {}

    @abstractmethod
    def structure(self, state: NetworkState, basis: Float[AnyArray, "n k"]) -> LinearBlock:
        """The linear block with the columns of `basis`."""

    @abstractmethod
    def sample(self, run: Run[NetworkState]) -> Float[Array, "n"]:
        """Sample the sites within a NumPyro program and return eta."""

    def variables(self, state: NetworkState) -> dict[str, Variable]:
        """Variables that the weights contribute to the posterior, by name."""
        return {}

    def means(self, state: NetworkState, draws: FittedDraws) -> dict[int, NDArray]:
        """Posterior means of the variables that have a posterior, by the `id` of the variable."""
        return {}


class PointWeights(Weights):
    """All weights are point estimates, and the output is a column with the coefficient one."""

    about = "a point estimate"

    def basis(self, run: Run[NetworkState]) -> Float[Array, "n k"]:
        return self.network.column(run)

    def structure(self, state: NetworkState, basis: Float[AnyArray, "n k"]) -> LinearBlock:
        return LinearBlock(basis, None, 1, np.ones(1), np.zeros(1))

    def sample(self, run: Run[NetworkState]) -> Float[Array, "n"]:
        return self.basis(run)[:, 0]


class _ScaledWeights(PointWeights):
    """Some weights have a prior of scale tau.

    A search uses point estimates of all weights until its end. With the coefficients of the last
    layer at their posterior mean, untrained features would have coefficients near zero, hence no
    gradient, and would never be trained.
    """

    @property
    def scale_site(self) -> str:
        """The site of tau."""
        return f"{self.network.short}_sigma"

    def parameters(self, state: NetworkState, scale: Scale) -> dict[str, Parameter]:
        # Features are of the order of one, so coefficients are of the order of the predictor's sd.
        return {
            self.scale_site: Parameter(
                priors.HalfNormal(2.0 * self.output_sd(state, scale)), "positive"
            )
        }

    def output_sd(self, state: NetworkState, scale: Scale) -> float:
        """The sd of the predictor, in units of the output of the network."""
        return scale.sd / self.network.unit(state, scale)

    def tau(self, state: NetworkState, priors_: Mapping[str, Prior], scale: Scale) -> Array:
        """Sample tau, the prior scale of the weights, within a NumPyro program."""
        name, start = self.scale_site, self.output_sd(state, scale)
        return sites.parameter(name, priors_[name], support="positive", start=start)

    def variables(self, state: NetworkState) -> dict[str, Variable]:
        return {self.scale_site: Variable("scale")}


class LastLayerWeights(_ScaledWeights):
    """The last layer has a posterior, and the weights before it are point estimates."""

    about = "a point estimate but for the last layer"
    # No shift, because the prior of the bias has the mean zero.
    shifts = False

    @property
    def site(self) -> str:
        """The site of the coefficients c of the last layer."""
        return f"{self.network.short}_last"

    def check(self, state: NetworkState) -> None:
        self._split(state)

    def _split(self, state: NetworkState) -> tuple[Model, Dense]:
        """The network before its last layer, and that layer."""
        return graph.before_last(self.network.keras.Model, state.model)

    def _units(self, state: NetworkState) -> tuple[str, ...]:
        """Labels of the coefficients: units of the layer before the last, and the bias."""
        layer = self._split(state)[1]
        named = (f"unit {i + 1}" for i in range(int(layer.kernel.shape[0])))
        return (*named, "bias") if layer.use_bias else tuple(named)

    def settled(
        self,
        state: NetworkState,
        design: Design,
        scale: Scale,
        substituted: Callable[[Callable], Callable],
    ) -> dict[str, Mapping[str, ArrayLike]]:
        return {self._settled: {"last": np.ones(())}, **self.network.kept()}

    @property
    def _settled(self) -> str:
        """Site that is present once the search for point estimates has ended."""
        return f"{self.network.label}/settled"

    def basis(self, run: Run[NetworkState]) -> Float[Array, "n k"]:
        if not variables.mutable_state(self._settled, {}):
            return super().basis(run)
        return self._features(run)

    def _features(self, run: Run[NetworkState]) -> Float[Array, "n k"]:
        """The columns (h(x; w), 1), in units of the predictor."""
        features, layer = self._split(run.state)
        weights = self.network.points(run.state, features)
        columns = self.network.output(run, features, weights)
        if layer.use_bias:
            columns = jnp.concatenate([columns, jnp.ones((len(columns), 1), columns.dtype)], axis=1)
        return columns * self.network.unit(run.state, run.scale)

    def structure(self, state: NetworkState, basis: Float[AnyArray, "n k"]) -> LinearBlock:
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

    def sample(self, run: Run[NetworkState]) -> Float[Array, "n"]:
        state, scale = run.state, run.scale
        zeros = jnp.zeros(len(self._units(state)))
        infer = {"start": zeros, "unit": jnp.full_like(zeros, self.output_sd(state, scale))}
        normal = dist.Normal(zeros, self.tau(state, run.priors, scale)).to_event(1)
        coefficients = jnp.asarray(numpyro.sample(self.site, normal, infer=infer))
        return self._features(run) @ coefficients

    def variables(self, state: NetworkState) -> dict[str, Variable]:
        units = self._units(state)
        return {
            **super().variables(state),
            self.site: Variable("weight", (f"{self.network.short}_unit",), (units,)),
        }

    def means(self, state: NetworkState, draws: FittedDraws) -> dict[int, NDArray]:
        layer = self._split(state)[1]
        mean = np.asarray(draws.sites[self.site]).mean(axis=(0, 1)).reshape(-1)
        out = {id(layer.kernel): mean[: layer.kernel.shape[0], None]}
        return {**out, id(layer.bias): mean[-1:]} if layer.use_bias else out


class FullWeights(_ScaledWeights):
    """Every weight has a posterior, by the linearized Laplace approximation."""

    about = "each with a prior, integrated where the network is linear in them"

    @property
    def _directions(self) -> str:
        """The site of the coordinates a of the weights."""
        return f"{self.network.label}/directions"

    def _linear(self) -> dict[str, Array]:
        """The directions of the linear model; empty until the search has ended."""
        linear = variables.mutable_state(f"{self.network.label}/linear", {})
        return {name: jnp.asarray(value) for name, value in linear.items()}

    def settled(
        self,
        state: NetworkState,
        design: Design,
        scale: Scale,
        substituted: Callable[[Callable], Callable],
    ) -> dict[str, Mapping[str, ArrayLike]]:
        """The directions of the linear model at the point estimates."""
        network = self.network

        def program() -> dict[str, NDArray[np.float32]]:
            output, weights = network.frozen(state, scale), network.points(state, state.model)
            return linearized_laplace.directions(output, weights, network.rows(design))

        found = handlers.seeded(substituted(program), 0)()
        return {f"{network.label}/linear": found, **network.kept()}

    def basis(self, run: Run[NetworkState]) -> Float[Array, "n k"]:
        linear = self._linear()
        if not linear:
            return super().basis(run)
        output = self.network.frozen(run.state, run.scale)
        weights = self.network.points(run.state, run.state.model)
        return linearized_laplace.columns(output, weights, self.network.rows(run.design), linear)

    def structure(self, state: NetworkState, basis: Float[AnyArray, "n k"]) -> LinearBlock:
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

    def sample(self, run: Run[NetworkState]) -> Float[Array, "n"]:
        state, scale = run.state, run.scale
        network, linear = self.network, self._linear()
        tau = self.tau(state, run.priors, scale)
        if not linear:
            return self._sampled(run, tau)
        p, k = linear["directions"].shape
        normal = dist.Normal(jnp.zeros(k), tau).to_event(1)
        infer = {"start": linear["mean"], "unit": jnp.ones(k)}
        a = jnp.asarray(numpyro.sample(self._directions, normal, infer=infer))
        u = jnp.zeros(p)
        if k < p and not run.options.training:
            # Directions that are not integrated keep their prior and are drawn in predictions.
            rest = dist.Normal(u, tau).to_event(1)
            u = jnp.asarray(numpyro.sample(f"{network.label}/rest", rest))
        output, weights = network.frozen(state, scale), network.points(state, state.model)
        return linearized_laplace.moved(output, weights, network.rows(run.design), linear, a, u)

    def _sampled(self, run: Run[NetworkState], tau: Array) -> Float[Array, "n"]:
        """Sample all weights from their prior; eta of the network without linearization."""
        state, scale = run.state, run.scale
        network, weights = self.network, []
        for site, variable in zip(
            (site for site, _ in network.starts(state, state.model)),
            state.model.trainable_variables,
            strict=True,
        ):
            shape = tuple(variable.shape)
            own = linearized_laplace.scales([shape]).reshape(shape)
            normal = dist.Normal(jnp.zeros(shape), tau * own).to_event(len(shape))
            start = jax.random.normal(jax.random.key(zlib.crc32(site.encode())), shape) * own
            infer = {"start": start, "unit": jnp.asarray(own)}
            weights.append(jnp.asarray(numpyro.sample(site, normal, infer=infer)))
        output = network.output(run, state.model, weights)
        return (output.reshape(-1) - network.output_shift(state, scale)) * network.unit(
            state, scale
        )


KINDS: dict[str, type[Weights]] = {
    "point": PointWeights,
    "last": LastLayerWeights,
    "full": FullWeights,
}
