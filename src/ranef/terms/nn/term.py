"""A Keras network as a term of the predictor: eta_i = f(x_i; w).

The weights w are point estimates by default; ``weights`` has the other choices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import ColumnMoments, Scale
from ranef.errors import FormulaError, OptionError, suggestion
from ranef.extras import require
from ranef.formula import model_matrix, transforms
from ranef.formula.equation import Line, Sub, Summand, joined
from ranef.formula.term_call import TermCall
from ranef.lazy import Array, ArrayLike, jnp, mutable, numpyro
from ranef.numerics.shapes import Float, Shaped
from ranef.terms.base import Design, Parameter, Run, Term, Variable
from ranef.terms.blocks import LinearBlock
from ranef.terms.capabilities import (
    Columns,
    FittedDraws,
    HasNetwork,
    Measured,
    MutableState,
    SpansConstant,
    Substitution,
)
from ranef.terms.nn import (
    graph,
    inputs,
    linearized_laplace,
    output_scale,
    perceptron,
    user_network,
    variables,
)
from ranef.terms.nn.keras_backend import keras_on_jax
from ranef.terms.nn.state import NetworkState
from ranef.terms.nn.weights import KINDS

if TYPE_CHECKING:
    import keras

# Default widths of the hidden layers.
_HIDDEN = [32, 16]

_OPTIONS = {"net": None, "hidden": None, "activation": "tanh", "weights": "point", "l2": 0.001}

# Unit of the steps of a search in a weight. Weights are of the order of one over the square root of
# the width of a layer.
_WEIGHT_UNIT = 0.2

# Largest number of training rows from which the outputs of a user's network are standardized.
_ROWS = 2_000

# Starting value of a weight, or a function that draws it with a key.
Start = Array | Callable[[Array], Array]


@dataclass(frozen=True)
class NetworkScan:
    """What has been learned from the batches so far.

    Attributes:
        inputs: levels, transforms and shapes of the arguments.
        some: evenly spaced rows of the first batch.
    """

    inputs: inputs.InputScan
    some: Frame


class Network(
    Term[NetworkScan, NetworkState],
    Measured[NetworkState],
    SpansConstant[NetworkState],
    HasNetwork[NetworkState],
):
    """The term nn(x1, x2, ..., net=name) for a Keras model, or nn(..., hidden=[8, 4]) for an MLP.

    Without `net` and `hidden` it is an MLP with hidden layers of 32 and 16 units.

    An MLP takes standardized inputs, and its output is multiplied by the sd of the predictor, so
    that the same settings serve data in any unit. A user's network takes its inputs as they are.
    Its outputs are used as they are if, at the initial weights, they are on the scale of the
    predictor, as those of a pretrained network. Otherwise they are standardized by their initial
    mean and sd and multiplied by the sd of the predictor.

    Regularization losses have the meaning that they have in Keras, where the loss is a mean over
    rows: n times the penalty is subtracted from the log density of n rows, so that a penalty
    l2 sum w^2 amounts to the prior w ~ N(0, 1 / (2 n l2)), the second argument being the variance.

    Attributes:
        options: the options of the term, with defaults filled in.
        weights: how the weights enter the model, by the option `weights`.
        initial: values of the variables of a user's network from which every fit starts, by name.
        users: labels of the terms that share the network, in the order of its outputs.
    """

    takes_factors = True

    def __init__(
        self,
        call: TermCall,
        prefix: str = "",
        networks: Mapping[str, object] | None = None,
        *,
        main: bool = True,
    ) -> None:
        super().__init__(call, prefix, networks, main=main)
        # Said when the model is made, before its rows are read.
        require("nn()", "keras")
        options = dict(self.call.options)
        unknown = [name for name in options if name not in _OPTIONS]
        if unknown:
            hint = suggestion(unknown[0], _OPTIONS)
            raise FormulaError(f"nn() has no option {unknown[0]!r}; {hint}")
        if not self.call.arguments:
            raise FormulaError("nn() needs at least one column, as in nn(x1, x2)")
        self.options = {**_OPTIONS, **options}
        if self.options["weights"] not in KINDS:
            known = ", ".join(map(repr, KINDS))
            raise OptionError(f"nn(weights={self.options['weights']!r}) must be one of {known}")
        self.weights = KINDS[self.options["weights"]](self)
        if self.options["net"] is not None and self.options["hidden"] is not None:
            raise FormulaError("nn() takes net=name or hidden=[widths], as in hidden=[8], not both")
        if self.options["net"] is None and self.options["hidden"] is None:
            self.options["hidden"] = _HIDDEN
        name = self.options["net"]
        if name is not None and not isinstance(name, str):
            raise FormulaError(f"nn(net={name!r}): write the name of one network")
        if name is not None and name not in self.networks:
            hint = suggestion(str(name), self.networks) if self.networks else "none was given"
            raise OptionError(
                f"nn(net={name}) names no network of Model(..., networks={{...}}); {hint}"
            )
        # A fit assigns its weights to the network; the next fit must start from the initial ones.
        self.initial = variables.values(self.networks[name]) if name is not None else {}
        self.users: tuple[str, ...] = (self.label,)
        if name is None:
            self._check_hidden()

    @property
    def has_point_weights(self) -> bool:
        return self.options["weights"] == "point"

    def shared(self, users: tuple[str, ...]) -> None:
        self.users = users
        if len(users) > 1 and self.options["weights"] != "point":
            raise OptionError(
                f"{users[0]} and {users[1]} have one network, whose weights are point estimates; "
                f"leave out weights={self.options['weights']!r}"
            )

    @property
    def site(self) -> str:
        """Prefix of the sites of the weights, the same for all terms that share the network."""
        return self.label if len(self.users) == 1 else self.call.label

    def _check_hidden(self) -> None:
        """Raise FormulaError for invalid options of an MLP."""
        hidden, l2 = self.options["hidden"], self.options["l2"]
        widths = hidden if isinstance(hidden, list) else [hidden]
        if not widths or not all(type(w) is int and 1 <= w <= 100_000 for w in widths):
            raise FormulaError(f"nn(hidden={hidden}) must list whole numbers above zero, as [8, 4]")
        if not isinstance(l2, (int, float)) or l2 < 0:
            raise FormulaError(f"nn(l2={l2!r}) must be a number of at least zero")

    def needs(self) -> dict[str, str]:
        return model_matrix.needs([self.call.arguments])

    def free_function_of(self) -> frozenset[str]:
        return frozenset(self.needs())

    def without(self) -> dict[str, dict[str, ArrayLike]]:
        return {self._kept: {"kept": np.zeros((), np.int32)}}

    def kept(self) -> dict[str, dict[str, ArrayLike]]:
        """State that the program carries, by site, where the network is not left out.

        Networks whose weights have a prior are never left out, because the posterior of their
        scale can approach zero instead.
        """
        return {self._kept: {"kept": np.ones((), np.int32)}}

    @property
    def _kept(self) -> str:
        """The site of the switch of the network: one, or zero if it is left out."""
        return f"{self.site}/kept"

    def scan(self, accumulator: NetworkScan | None, frame: Frame) -> NetworkScan:
        seen = accumulator.inputs if accumulator else None
        found = inputs.scan(seen, self.call.arguments, frame)
        if accumulator:
            return NetworkScan(found, accumulator.some)
        some = np.unique(np.linspace(0, frame.n - 1, min(frame.n, _ROWS)).astype(np.int64))
        return NetworkScan(found, frame.take(some))

    def finish(self, accumulator: NetworkScan) -> NetworkState:
        some, seen = accumulator.some, accumulator.inputs
        learned = transforms.finish(
            seen.matrix.triangles, transforms.stateful_calls(self.call.arguments)
        )
        arguments = inputs.finish(seen, self.call.arguments)
        if self.options["net"] is None:
            model, feeds = self._perceptron(arguments)
            width = feeds[0].shape[0] if perceptron.takes_numbers(arguments) else 0
        else:
            model, feeds = self._users(arguments)
            width = 0
        state = NetworkState(
            learned, arguments, feeds, np.zeros(width), np.ones(width), model, self.initial
        )
        self.weights.check(state)
        if self.options["net"] is None:
            return state
        rows = self.rows(self.design(state, some))
        return output_scale.with_initial_moments(state, rows, len(self.users))

    def _perceptron(
        self, arguments: tuple[inputs.Argument, ...]
    ) -> "tuple[keras.Model, tuple[inputs.Feed, ...]]":
        """The MLP, and what each of its inputs is fed.

        Raises:
            FormulaError: for an activation that Keras does not know.
        """
        hidden, l2 = self.options["hidden"], self.options["l2"]
        widths = hidden if isinstance(hidden, list) else [hidden]
        feeds = perceptron.feeds(arguments)
        try:
            model = perceptron.build(
                keras_on_jax(), arguments, feeds, widths, self.options["activation"], float(l2)
            )
        except perceptron.UnknownActivation:
            raise FormulaError(
                f"nn(activation={self.options['activation']!r}) is no activation Keras knows, such "
                "as 'tanh', 'relu' or 'silu'"
            ) from None
        return model, feeds

    def _users(
        self, arguments: tuple[inputs.Argument, ...]
    ) -> "tuple[keras.Model, tuple[inputs.Feed, ...]]":
        """The user's network, and what each of its inputs is fed.

        Raises:
            OptionError: for a model that is no usable Keras model, or does not fit the arguments.
        """
        name = self.options["net"]
        model, anew = user_network.built(name, self.networks[name], arguments)
        if anew:
            self.initial = variables.values(model)
        user_network.refuse_unusable(name, model, self.initial, self.users)
        return model, user_network.feeds(name, model, arguments, self.call.label)

    def design(self, state: NetworkState, frame: Frame) -> Design:
        values, new = [], {}
        for argument, expression in zip(state.arguments, self.call.arguments, strict=True):
            rows, unseen = inputs.values(argument, expression, frame, state.learned)
            values.append(rows)
            new.update(dict.fromkeys(unseen))
        arrays = inputs.filled(state.feeds, state.arguments, values, frame.n)
        if state.mean.size:
            arrays["0"] = (arrays["0"] - state.mean) / state.sd
        return Design(arrays, (tuple(new),))

    def columns(self, state: NetworkState, frame: Frame) -> Columns:
        """The numeric inputs of an MLP, which are standardized."""
        return self.design(state, frame).arrays["0"] if state.mean.size else np.zeros((0, 0))

    def carries_constant(self, state: NetworkState) -> bool:
        return True

    def measured(self, state: NetworkState, measures: ColumnMoments) -> NetworkState:
        constant = measures.sd <= 1e-12 * np.maximum(np.abs(measures.mean), 1e-300)
        return replace(state, mean=measures.mean, sd=np.where(constant, 1.0, measures.sd))

    def equation(self, state: NetworkState) -> Summand:
        listed: list[Line] = [(str(argument), Sub("i")) for argument in self.call.arguments]
        weights = f"{state.model.count_params():,} weights w, {self.weights.about}"
        prior: Line = (f"f: a network of {_shown(state)}, {weights}",)
        place = self.users.index(self.label)
        numbered: Line = (Sub(str(place + 1)),) if len(self.users) > 1 else ()
        priors_of = (prior,) if place == 0 else ()
        return Summand(("f", *numbered, "(", *joined(listed, ", "), "; w)"), priors_of)

    def trained(
        self, state: NetworkState, draws: FittedDraws, scales: Mapping[str, Scale]
    ) -> "tuple[keras.Model, dict[str, NDArray]]":
        known, carried = variables.names(state.model), draws.carried[f"{self.site}/state"]
        means = self.weights.means(state, draws)
        held = {name: np.asarray(value) for name, value in carried.items()}
        for variable in state.model.trainable_variables:
            name = known[id(variable)]
            site = f"{self.site}/{name}"
            if id(variable) in means:
                value = means[id(variable)]
            elif site in draws.points:
                value = draws.points[site]
            else:
                value = draws.sites[site].mean(axis=(0, 1))
            held[name] = np.asarray(value, variable.dtype)
        if state.began is None:
            return state.model, held
        kept = int(np.asarray(draws.carried.get(self._kept, {"kept": 1})["kept"]))
        placed = [self._placed(state, scales[user], i) for i, user in enumerate(self.users)]
        return state.model, output_scale.in_last_layer(
            state, held, placed, kept, shifts=self.weights.shifts
        )

    def parameters(self, state: NetworkState, scale: Scale) -> dict[str, Parameter]:
        return self.weights.parameters(state, scale)

    def variables(self, state: NetworkState) -> dict[str, Variable]:
        return self.weights.variables(state)

    def eta(self, run: Run[NetworkState]) -> Float[Array, "n"]:
        return self.weights.sample(run)

    def basis(self, run: Run[NetworkState]) -> Float[Array, "n k"]:
        return self.weights.basis(run)

    def settled(
        self,
        state: NetworkState,
        design: Design,
        scale: Scale,
        given: Substitution,
    ) -> MutableState:
        return self.weights.settled(state, design, scale, given)

    def structure_given(
        self, state: NetworkState, basis: Float[NDArray[np.float64], "n k"]
    ) -> LinearBlock:
        return self.weights.structure(state, basis)

    @property
    def keras(self) -> ModuleType:
        """The module Keras."""
        return keras_on_jax()

    @property
    def short(self) -> str:
        """The term with its columns alone, such as nn(x, z), which names its variables."""
        return f"{self.prefix}nn({', '.join(map(str, self.call.arguments))})"

    def unit(self, state: NetworkState, scale: Scale) -> float:
        """Change of the predictor when the output of the network increases by one."""
        return self._placed(state, scale, self._place)[1]

    def output_shift(self, state: NetworkState, scale: Scale) -> float:
        """The output at which the network adds zero to the predictor."""
        return self._placed(state, scale, self._place)[0]

    def _placed(self, state: NetworkState, scale: Scale, place: int) -> tuple[float, float]:
        """`output_shift` and `unit` of the output at `place`."""
        if self.options["net"] is None:
            return 0.0, scale.sd
        return output_scale.shift_and_unit(state, scale, place)

    @property
    def _place(self) -> int:
        """Place of the term's output among those of the network."""
        return self.users.index(self.label)

    def points(self, state: NetworkState, model: "keras.Model") -> list[Array]:
        """Point estimates of the trainable weights of `model`, within a NumPyro program."""
        return [
            jnp.asarray(numpyro.param(site, start, unit=_WEIGHT_UNIT))
            for site, start in self.starts(state, model)
        ]

    def starts(self, state: NetworkState, model: "keras.Model") -> list[tuple[str, Start]]:
        """Site and starting value of each trainable weight of `model`."""
        own, known = self.options["net"] is None, variables.names(state.model)
        return [
            (
                f"{self.site}/{known[id(v)]}",
                perceptron.start(v.path, v.shape)
                if own
                else jnp.asarray(state.initial[known[id(v)]]),
            )
            for v in model.trainable_variables
        ]

    def column(self, run: Run[NetworkState]) -> Float[Array, "n 1"]:
        """The term's contribution to eta; terms that share a network run it once."""
        state, scale, made = run.state, run.scale, run.options.made
        if self.site not in made:
            weights = self.points(state, state.model)
            output = self.output(run, state.model, weights)
            made[self.site] = output.reshape(-1, len(self.users))
        place = self._place
        carried = _carried(self._kept, {"kept": np.ones((), np.int32)})
        kept = jnp.asarray(carried["kept"])
        output = made[self.site][:, place : place + 1]
        # The switch has the dtype of the network, so that the precision is not raised.
        unit = self.unit(state, scale) * kept.astype(output.dtype)
        return (output - self.output_shift(state, scale)) * unit

    def features(self, run: Run[NetworkState]) -> Float[Array, "n k"] | None:
        state = run.state
        last = graph.linear_end(state.model)
        if last is None or len(getattr(last.input, "shape", ())) != 2:
            return None
        inner = graph.before_last(self.keras.Model, state.model)[0]
        if not inner.trainable_variables:
            return None
        return self.output(run, inner, self.points(state, inner))

    def moved(
        self,
        state: NetworkState,
        scale: Scale,
        points: Mapping[str, ArrayLike],
        change: tuple[Float[NDArray[np.float64], "k"], float],
    ) -> dict[str, Array]:
        last, known = graph.linear_end(state.model), variables.names(state.model)
        assert last is not None, "a network without a linear end has no features"
        unit, place = self.unit(state, scale), self._place
        (slopes, constant), site = change, f"{self.site}/{known[id(last.kernel)]}"
        kernel = np.array(points[site])
        kernel[:, place] += slopes / unit
        out = {site: jnp.asarray(kernel)}
        if last.use_bias:
            site = f"{self.site}/{known[id(last.bias)]}"
            bias = np.array(points[site])
            bias[place] += constant / unit
            out[site] = jnp.asarray(bias)
        return out

    def output(
        self, run: Run[NetworkState], model: "keras.Model", weights: list[Array]
    ) -> Float[Array, "n *unit"]:
        """Output of `model`, the network or a part of it, within a NumPyro program.

        The state that the network updates is carried on, and its regularization losses are
        subtracted from the log density.
        """
        state, options = run.state, run.options
        carried, others = self._carried(state, model)
        # Seeds of dropout are drawn anew, because those in the carried state would give all samples
        # of one step the same mask.
        seeds = variables.seeds(state.model) if options.training else []
        key = numpyro.prng_key() if seeds else None
        drawn = variables.drawn(seeds, key) if key is not None else {}
        found = model.stateless_call(
            weights,
            [drawn.get(name, carried[name]) for name in others],
            graph.packed(state.model, self.rows(run.design)),
            training=options.training,
            return_losses=True,
        )
        output, updated, losses = cast(tuple[Array, list[Array], list[Array]], found)
        after = zip(others, updated, strict=True)
        carried.update({name: value for name, value in after if name not in drawn})
        if losses:
            numpyro.factor(f"{self.site}/penalty", -options.rows * sum(losses))
        return output

    def _carried(
        self, state: NetworkState, model: "keras.Model"
    ) -> tuple[dict[str, Array | NDArray], list[str]]:
        """State that the network updates as it runs, by name, and the names in its own order.

        JAX sorts the keys of dicts, so the order is kept separately.
        """
        known = variables.names(state.model)
        others = [known[id(v)] for v in model.non_trainable_variables]
        start = {name: jnp.asarray(state.initial[name]) for name in others}
        return _carried(f"{self.site}/state", start), others

    def rows(self, design: Design) -> list[Shaped[Array, "n ..."]]:
        """The rows as arrays, one for each input of the network."""
        return [_on_device(a) for a in inputs.ordered(design.arrays)]

    def frozen(self, state: NetworkState, scale: Scale) -> linearized_laplace.Output:
        """The contribution to eta (n,) in inference mode, as a function of weights and inputs."""
        unit, shift, model = self.unit(state, scale), self.output_shift(state, scale), state.model
        carried, others = self._carried(state, model)
        held = [carried[name] for name in others]

        def output(weights: Sequence[Array], rows: Sequence[Array]) -> Array:
            found, _ = model.stateless_call(
                list(weights), held, graph.packed(model, list(rows)), training=False
            )
            return (found.reshape(-1) - shift) * unit

        return output


def _carried(site: str, start: Mapping[str, ArrayLike]) -> dict[str, Array | NDArray]:
    """State that the program carries at a site; an update of the dict is carried on."""
    # The types of NumPyro say that the state is one array; a dict of arrays is taken as well.
    return cast(dict[str, Array | NDArray], mutable(site, cast(Array, dict(start))))


def _on_device(rows: Shaped[NDArray | Array, "*axes"]) -> Shaped[Array, "*axes"]:
    """Rows as a JAX array: codes of levels as int32, numbers as float32."""
    return jnp.asarray(rows, dtype="int32" if rows.dtype.kind == "i" else "float32")


def _shown(state: NetworkState) -> str:
    """The inputs, or for one vector input the widths of the layers, in words."""
    (first, *others), model = state.feeds, state.model
    if others or len(first.shape) != 1 or first.entries:
        *before, last = (inputs.shown(feed, state.arguments) for feed in state.feeds)
        return f"{', '.join(before)} and {last}" if before else last
    return f"{' → '.join(map(str, [*first.shape, *_widths(model)]))} units"


def _widths(model: "keras.Model") -> list[int]:
    """Number of units of each layer with weights."""
    return [int(layer.output.shape[-1]) for layer in model.layers if layer.trainable_variables]
