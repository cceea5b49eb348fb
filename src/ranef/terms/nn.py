"""A Keras network in the predictor: eta_i = f(x_i; w), w estimated as a point.

The only module that imports Keras, and only when a formula has a network.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpy.typing import NDArray
from numpyro.primitives import mutable

from ranef import transforms
from ranef.equation import Line, Sub, Summand, joined
from ranef.errors import BackendError, DataError, FormulaError, OptionError
from ranef.frame import Frame
from ranef.moments import Measures, Scale
from ranef.priors import Prior
from ranef.registry import suggestion
from ranef.terms.base import Design, LinearBlock, Replay, Term

_OPTIONS = {"net": None, "hidden": None, "activation": "tanh", "weights": "point", "l2": 0.001}

# Weights are of order one over the square root of a layer's width, and move in such steps.
_WEIGHT_UNIT = 0.2


def keras_on_jax() -> Any:
    """Keras on JAX.

    Raises:
        BackendError: where it runs, or is told to run, on something else.
    """
    chosen = os.environ.get("KERAS_BACKEND", "jax")
    if "keras" not in sys.modules and chosen != "jax":
        raise BackendError(
            f"KERAS_BACKEND is {chosen!r} and nn() needs 'jax'; set KERAS_BACKEND=jax before Keras "
            "is first imported"
        )
    import keras

    if keras.backend.backend() != "jax":
        raise BackendError(
            f"Keras was already imported with the backend {keras.backend.backend()!r} and nn() "
            "needs 'jax'; set KERAS_BACKEND=jax, or import ranef, before Keras is first imported"
        )
    return keras


@dataclass(frozen=True)
class State:
    """What the inputs were, and the network.

    Attributes:
        learned: numbers of the inputs' transforms.
        width: number of input columns.
        mean, sd: (width,) of the inputs over the training rows; 0 and 1 for a user's network,
            which gets its inputs as they are.
        model: the Keras model.
    """

    learned: transforms.Learned
    width: int
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    model: Any


class Network(Term):
    """nn(x1, x2, ..., net=name) for a Keras model, nn(..., hidden=[8, 4]) for an MLP.

    An MLP gets standardized inputs and its output is multiplied by the spread of the
    predictor, so that the same settings serve data of any unit. Regularization losses count
    as in Keras, where the loss is a mean over rows: n times the penalty is subtracted from
    the log density of n rows, so l2 sum w^2 amounts to the prior w ~ N(0, 1 / (2 n l2)).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = dict(self.call.options)
        unknown = [name for name in options if name not in _OPTIONS]
        if unknown:
            hint = suggestion(unknown[0], _OPTIONS)
            raise FormulaError(f"nn() has no option {unknown[0]!r}; {hint}")
        if not self.call.arguments:
            raise FormulaError("nn() needs at least one column, as in nn(x1, x2, hidden=[8])")
        self.options = {**_OPTIONS, **options}
        if self.options["weights"] != "point":
            raise OptionError(
                f"nn(weights={self.options['weights']!r}) is not built yet; use weights='point'"
            )
        if (self.options["net"] is None) == (self.options["hidden"] is None):
            raise FormulaError("nn() needs either net=name or hidden=[widths], as in hidden=[8]")
        name = self.options["net"]
        if name is not None and not isinstance(name, str):
            raise FormulaError(f"nn(net={name!r}): write the name of one network")
        if name is not None and name not in self.networks:
            given = suggestion(str(name), self.networks) if self.networks else "none was given"
            raise OptionError(
                f"nn(net={name}) names no network of Model(..., networks={{...}}); {given}"
            )
        if name is None:
            self._check_hidden()

    def _check_hidden(self) -> None:
        hidden, l2 = self.options["hidden"], self.options["l2"]
        widths = hidden if isinstance(hidden, list) else [hidden]
        if not widths or not all(type(w) is int and 1 <= w <= 100_000 for w in widths):
            raise FormulaError(f"nn(hidden={hidden}) must list whole numbers above zero, as [8, 4]")
        if not isinstance(l2, (int, float)) or l2 < 0:
            raise FormulaError(f"nn(l2={l2!r}) must be a number of at least zero")

    def needs(self) -> dict[str, str]:
        names = (name for e in self.call.arguments for name in e.columns())
        return dict.fromkeys(names, "number")

    def scan(self, accumulator: Any, frame: Frame) -> Any:
        triangle = accumulator[0] if accumulator else None
        calls = transforms.stateful_calls(self.call.arguments)
        learned = transforms.accumulate(triangle, calls, frame)
        width = sum(self._argument_width(e, frame) for e in self.call.arguments)
        return learned, width

    def _argument_width(self, expression: Any, frame: Frame) -> int:
        if getattr(expression, "name", "") == "poly":
            return transforms.degree(expression)
        shapes = [frame.numbers(name).shape[1:] for name in expression.columns()]
        return max((int(np.prod(shape, dtype=int)) for shape in shapes), default=1)

    def finish(self, accumulator: Any) -> State:
        triangle, width = accumulator
        learned = transforms.finish(triangle, transforms.stateful_calls(self.call.arguments))
        model = self._model(width)
        return State(learned, width, np.zeros(width), np.ones(width), model)

    def _model(self, width: int) -> Any:
        keras = keras_on_jax()
        name = self.options["net"]
        if name is None:
            return self._mlp(keras, width)
        model = self.networks[name]
        if not isinstance(model, keras.Model):
            raise OptionError(
                f"the network {name!r} must be a Keras model, not {type(model).__name__}"
            )
        if not model.built and isinstance(model, keras.Sequential) and model.layers:
            model.build((None, width))
        if not getattr(model, "inputs", None):
            raise OptionError(
                f"the network {name!r} must be a Sequential or functional Keras model with layers"
            )
        if len(model.inputs) != 1:
            raise OptionError(
                f"the network {name!r} has {len(model.inputs)} inputs; nn() feeds one so far"
            )
        if not isinstance(model.output_shape, tuple) or len(model.outputs) != 1:
            raise OptionError(f"the network {name!r} has several outputs; nn() takes one")
        expected = model.input_shape[-1]
        if len(model.input_shape) != 2 or expected not in (None, width):
            raise DataError(
                f"the network {name!r} expects input of shape {model.input_shape} and "
                f"{self.call.label} gives {width} columns; change its Input or the columns"
            )
        if tuple(model.output_shape[1:]) not in ((), (1,)):
            raise DataError(
                f"the network {name!r} gives output of shape {model.output_shape}; end it with "
                "Dense(1)"
            )
        return model

    def _mlp(self, keras: Any, width: int) -> Any:
        hidden = self.options["hidden"]
        widths = hidden if isinstance(hidden, list) else [hidden]
        penalty = keras.regularizers.L2(self.options["l2"]) if self.options["l2"] else None
        try:
            layers = [
                keras.layers.Dense(
                    w,
                    activation=self.options["activation"],
                    kernel_regularizer=penalty,
                    name=f"dense_{i}",
                )
                for i, w in enumerate(widths)
            ]
        except ValueError:
            raise FormulaError(
                f"nn(activation={self.options['activation']!r}) is no activation Keras knows, such "
                "as 'tanh', 'relu' or 'silu'"
            ) from None
        last = keras.layers.Dense(1, kernel_regularizer=penalty, name="output")
        return keras.Sequential([keras.layers.Input((width,)), *layers, last], name="nn")

    def design(self, state: State, frame: Frame) -> Design:
        columns = [
            transforms.evaluate(e, frame, state.learned).reshape(frame.n, -1)
            for e in self.call.arguments
        ]
        return Design({"columns": (np.concatenate(columns, axis=1) - state.mean) / state.sd})

    def columns(self, state: State, frame: Frame) -> NDArray[np.float64]:
        return self.design(state, frame).arrays["columns"]

    def measured(self, state: State, measures: Measures) -> State:
        if self.options["net"] is not None:
            return state
        constant = measures.sd <= 1e-12 * np.maximum(np.abs(measures.mean), 1e-300)
        return replace(state, mean=measures.mean, sd=np.where(constant, 1.0, measures.sd))

    def equation(self, state: State) -> Summand:
        inputs: list[Line] = [(str(argument), Sub("i")) for argument in self.call.arguments]
        widths = " → ".join(str(w) for w in [state.width, *_widths(state.model)])
        law: Line = (
            f"f: a network of {widths} units and {state.model.count_params():,} weights w, "
            "a point estimate",
        )
        return Summand(("f(", *joined(inputs, ", "), "; w)"), (law,))

    def sample(
        self,
        state: State,
        design: Design,
        priors_: Mapping[str, Prior],
        scale: Scale,
        replay: Replay,
    ) -> Array:
        return self.basis(state, design, scale, replay)[:, 0]

    def structure(
        self, state: State, design: Design, priors_: Mapping[str, Prior], basis: Any = None
    ) -> LinearBlock | None:
        return None if basis is None else LinearBlock(basis, None, 1, np.ones(1), np.zeros(1))

    def basis(self, state: State, design: Design, scale: Scale, replay: Replay) -> Array:
        """The output as a column whose coefficient is one."""
        model, own = state.model, self.options["net"] is None
        weights = [
            numpyro.param(
                f"{self.label}/{v.path}",
                _glorot(v.shape) if own else jnp.asarray(v.value),
                unit=_WEIGHT_UNIT,
            )
            for v in model.trainable_variables
        ]
        start = {v.path: jnp.asarray(v.value) for v in model.non_trainable_variables}
        carried: Any = mutable(f"{self.label}/state", cast(Any, start))
        output, updated, losses = model.stateless_call(
            weights,
            [carried[v.path] for v in model.non_trainable_variables],
            jnp.asarray(design.arrays["columns"], dtype="float32"),
            training=replay.training,
            return_losses=True,
        )
        paths = (v.path for v in model.non_trainable_variables)
        carried.update(zip(paths, updated, strict=True))
        if losses:
            numpyro.factor(f"{self.label}/penalty", -replay.rows * sum(losses))
        return output.reshape(-1, 1) * (scale.spread if own else 1.0)


def _glorot(shape: tuple[int, ...]) -> Any:
    """Initial weights from a PRNG key: Glorot's uniform for a kernel, zeros for a bias."""
    if len(shape) < 2:
        return jnp.zeros(shape)
    return lambda key: jax.nn.initializers.glorot_uniform()(key, shape)


def _widths(model: Any) -> list[int]:
    """Units of each layer that has weights."""
    return [int(layer.output.shape[-1]) for layer in model.layers if layer.trainable_variables]
