"""Encodes Python values as JSON with separate arrays, and decodes them.

Numbers, texts, Booleans and null stand for themselves. Every other value is a JSON object whose
first key names its kind: a tuple, list or mapping, an array or list of texts among the arrays, a
registered dataclass with its fields by name, an expression of the formula, a table, a pandas index,
or a network. No other kinds are written or read, so reading a file never runs code from it.
"""

import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef import registry
from ranef.data.frame import Frame
from ranef.errors import OptionError
from ranef.files import archive
from ranef.formula.expression import Expression
from ranef.storage import frame_encoding

if TYPE_CHECKING:
    import keras

# Floats that JSON lacks, as they are written.
_FRACTIONS = ("nan", "inf", "-inf")
# Smallest length of a tuple of texts that is stored with the arrays and not in the JSON.
_MANY = 8

# The dataclasses that a file may hold: their name in files to their current place. The names
# never change, since saved files use them; to move or rename a class, change its place alone.
CLASSES = {
    "matrix.Matrix": "ranef.formula.model_matrix:ModelMatrix",
    "matrix.Coding": "ranef.formula.model_matrix:Coding",
    "matrix.Part": "ranef.formula.model_matrix:CodedExpression",
    "moments.Scale": "ranef.data.moments:Scale",
    "training.State": "ranef.program.training:TrainingState",
    "terms.base.Design": "ranef.terms.base:Design",
    "families.base.ResponseDesign": "ranef.families.response_design:ResponseDesign",
    "families.base.State": "ranef.families.state:FamilyState",
    "complete.Rows": "ranef.data.complete_cases:CompleteCases",
    "labels.Labels": "ranef.data.row_labels:Labels",
    "terms.inputs.Argument": "ranef.terms.nn.inputs:Argument",
    "terms.inputs.Feed": "ranef.terms.nn.inputs:Feed",
    "terms.orthogonal.Coordinates": "ranef.terms.orthogonal:OrthogonalCoordinates",
    "inference.effects.Effects": "ranef.inference.pwls.effect_draws:EffectSampler",
    "inference.effects.Cell": "ranef.inference.pwls.effect_draws:SharedFactorization",
    "inference.effects.Drift": "ranef.inference.pwls.effect_draws:EffectDrift",
    "inference.effects.Place": "ranef.inference.pwls.effect_draws:SitePlacement",
    "inference.elimination.Given": "ranef.inference.pwls.nested_elimination:EffectConditionals",
    "inference.elimination.Chain": "ranef.inference.pwls.nested_elimination:NestedElimination",
    "inference.elimination.Stage": "ranef.inference.pwls.nested_elimination:EliminationStage",
    "inference.crossed.Crossed": "ranef.inference.pwls.crossed_elimination:CrossedElimination",
    "inference.meetings.Meetings": "ranef.inference.pwls.sparse_cross_blocks:SparseCrossBlocks",
    "inference.remainder.Remainder": "ranef.inference.pwls.schur_complement:SchurLayout",
    "inference.remainder.Part": "ranef.inference.pwls.schur_complement:FactorSlice",
    "inference.factorization.Beside": (
        "ranef.inference.block_ascent.matrix_factorization:CombinedDraws"
    ),
    "inference.factors.FactorDraws": "ranef.inference.block_ascent.factor_draws:FactorDraws",
    "priors.Prior": "ranef.priors.kinds:Prior",
    "priors.Flat": "ranef.priors.kinds:Flat",
    "priors.Normal": "ranef.priors.kinds:Normal",
    "priors.StudentT": "ranef.priors.kinds:StudentT",
    "priors.Cauchy": "ranef.priors.kinds:Cauchy",
    "priors.HalfNormal": "ranef.priors.kinds:HalfNormal",
    "priors.HalfStudentT": "ranef.priors.kinds:HalfStudentT",
    "priors.HalfCauchy": "ranef.priors.kinds:HalfCauchy",
    "priors.Exponential": "ranef.priors.kinds:Exponential",
    "priors.Gamma": "ranef.priors.kinds:Gamma",
    "priors.InverseGamma": "ranef.priors.kinds:InverseGamma",
    "priors.LogNormal": "ranef.priors.kinds:LogNormal",
    "priors.Uniform": "ranef.priors.kinds:Uniform",
    "priors.Beta": "ranef.priors.kinds:Beta",
    "priors.OfPower": "ranef.priors.kinds:PowerPrior",
    "priors.Variance": "ranef.priors.kinds:Variance",
    "priors.Precision": "ranef.priors.kinds:Precision",
    "priors.LogOdds": "ranef.priors.kinds:LogOdds",
    "priors.Stated": "ranef.priors.kinds:RescaledDefault",
    "priors.LKJ": "ranef.priors.kinds:LKJ",
    "priors.Fixed": "ranef.priors.kinds:Fixed",
    "priors.PointEstimate": "ranef.priors.kinds:PointEstimate",
    "terms.common.State": "ranef.terms.common:CommonState",
    "terms.group.State": "ranef.terms.group:GroupState",
    "terms.nn.State": "ranef.terms.nn.state:NetworkState",
    "terms.gp.State": "ranef.terms.smooth.gp:ProcessState",
    "terms.spline.State": "ranef.terms.smooth.spline:SplineState",
    "terms.mi.State": "ranef.terms.mi:MissingState",
    "terms.mf.State": "ranef.terms.mf:FactorizationState",
    "families.mixture.State": "ranef.families.mixture:MixtureState",
}

# Fields of these classes that have another name in files: name in files to current name.
FIELDS = {
    "moments.Scale": {"spread": "sd"},
    "inference.crossed.Crossed": {"meetings": "cross_blocks"},
    "inference.effects.Cell": {"given": "conditionals"},
    "inference.remainder.Remainder": {"parts": "slices"},
}


@cache
def register() -> dict[str, type]:
    """The dataclasses that a file may hold, by their name in files.

    These are `CLASSES`, and the class `State` of the module of each registered term and family, if
    there is one and it is not among `CLASSES`.
    """
    known = {}
    for name, place in CLASSES.items():
        module, _, own = place.partition(":")
        known[name] = getattr(import_module(module), own)
    for place in (*registry.TERMS.values(), *registry.FAMILIES.values()):
        state = getattr(import_module(place.partition(":")[0]), "State", None)
        if state is not None and state not in known.values():
            known[f"{state.__module__.removeprefix('ranef.')}.{state.__name__}"] = state
    return known


class Writer:
    """Encodes values as JSON.

    Attributes:
        arrays: name to array, for all arrays and long lists of texts encoded so far.
        networks: the networks encountered so far; the JSON holds their position in this list.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray] = {}
        self.networks: list[keras.Model] = []
        self._names = {c: name for name, c in register().items()}
        self._places: dict[int, str] = {}

    def value(self, value: object) -> object:
        """The JSON of a value.

        Raises:
            OptionError: for a value of a kind that cannot be saved.
        """
        if isinstance(value, np.generic):
            return {"scalar": [value.dtype.str, self.value(value.item())]}
        if isinstance(value, float) and not np.isfinite(value):
            return {"float": str(value)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Expression):
            return {"expression": str(value)}
        if isinstance(value, Frame):
            return {"table": self.value(frame_encoding.plain(value))}
        if isinstance(value, pd.Index):
            return {"index": self.value(frame_encoding.plain_index(value))}
        if type(value) in self._names and is_dataclass(value):
            name = self._names[type(value)]
            in_file = {now: kept for kept, now in FIELDS.get(name, {}).items()}
            return {
                "of": name,
                "fields": {
                    in_file.get(f.name, f.name): self.value(getattr(value, f.name))
                    for f in fields(value)
                },
            }
        if isinstance(value, Mapping):
            return {"map": {_key(key): self.value(item) for key, item in value.items()}}
        if isinstance(value, tuple):
            if len(value) >= _MANY and all(isinstance(v, str) for v in value):
                return {"texts": self._texts(value), "tuple": True}
            return {"tuple": [self.value(item) for item in value]}
        if isinstance(value, list):
            return {"list": [self.value(item) for item in value]}
        if hasattr(value, "__array__"):
            return self._array(np.asarray(value))
        if _is_network(value):
            return {"network": self._network(value)}
        raise OptionError(f"a {type(value).__name__} cannot be saved with a fit")

    def _array(self, array: NDArray) -> dict[str, object]:
        if array.dtype == object:
            return {"texts": self._texts(array), "tuple": False}
        stored, axes = archive.ordered(array)
        out: dict[str, object] = {"array": self._add(stored)}
        return out if axes == list(range(array.ndim)) else {**out, "axes": axes}

    def _texts(self, texts: Iterable[object]) -> str:
        """Add texts to the arrays, as their lengths in bytes and their joined UTF-8 bytes.

        Returns:
            The name of the array of lengths; the bytes have this name with ".texts" appended.
        """
        encoded = [str(text).encode("utf-8", "surrogatepass") for text in texts]
        lengths = self._add(np.array([len(text) for text in encoded], np.int64))
        self.arrays[f"{lengths}.texts"] = np.frombuffer(b"".join(encoded), np.uint8)
        return lengths

    def _add(self, array: NDArray) -> str:
        """Add an array and return its name; an array that occurs several times is stored once."""
        if id(array) in self._places:
            return self._places[id(array)]
        name = str(len(self.arrays))
        self.arrays[name] = array
        self._places[id(array)] = name
        return name

    def _network(self, network: "keras.Model") -> int:
        for place, known in enumerate(self.networks):
            if known is network:
                return place
        self.networks.append(network)
        return len(self.networks) - 1


def _is_network(value: object) -> "TypeGuard[keras.Model]":
    """Whether a value is a Keras model, found without importing Keras."""
    return hasattr(value, "get_config") and hasattr(value, "layers")


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise OptionError(f"a mapping with the key {key!r:.40} cannot be saved with a fit")
    return key


class Reader:
    """Decodes values from JSON.

    Args:
        arrays: name to array, as in `Writer.arrays`.
        expressions: the expressions of the formula by their text.
        network: returns the network at a position in `Writer.networks`.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray],
        expressions: Mapping[str, Expression],
        network: "Callable[[int], keras.Model]",
    ) -> None:
        self.arrays, self.expressions, self.network = arrays, expressions, network

    def value(self, kept: object) -> Any:
        """The value that `Writer.value` has encoded as `kept`.

        Raises:
            ValueError, TypeError, KeyError: for JSON that `Writer.value` does not produce.
        """
        if not isinstance(kept, dict):
            if kept is None or isinstance(kept, (bool, int, float, str)):
                return kept
            raise ValueError(f"{kept!r:.60} is no value")
        kind = next(iter(kept), None)
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if read is None:
            raise ValueError(f"{kind!r:.60} is no kind of value")
        return read(self, kept)

    def _scalar(self, kept: dict) -> np.generic:
        dtype, value = kept["scalar"]
        kind = np.dtype(dtype)
        if kind.kind not in "biuf":
            raise ValueError(f"{dtype!r:.20} is no kind of number")
        return kind.type(self.value(value))

    def _float(self, kept: dict) -> float:
        if kept["float"] not in _FRACTIONS:
            raise ValueError(f"{kept['float']!r:.20} is no number")
        return float(kept["float"])

    def _dataclass(self, kept: dict) -> object:
        known = register().get(kept["of"])
        if known is None:
            raise ValueError(f"{kept['of']!r:.60} is none of the classes a saved fit holds")
        hints, now = typing.get_type_hints(known), FIELDS.get(str(kept["of"]), {})
        stored: dict[str, object] = kept["fields"]
        held = {now.get(name, name): self.value(item) for name, item in stored.items()}
        for name, item in held.items():
            if not _fits(item, hints[name]):
                raise ValueError(f"{kept['of']} has the {name} {item!r:.60}")
        return known(**held)

    def _texts(self, kept: dict) -> tuple[str, ...] | NDArray[np.object_]:
        lengths = self.arrays[kept["texts"]]
        joined = self.arrays[f"{kept['texts']}.texts"].tobytes()
        ends = np.cumsum(lengths)
        if len(lengths) and (lengths.min() < 0 or ends[-1] != len(joined)):
            raise ValueError("texts do not have the length they claim")
        texts = [
            joined[end - length : end].decode("utf-8", "surrogatepass")
            for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)
        ]
        if kept["tuple"]:
            return tuple(texts)
        out = np.empty(len(texts), dtype=object)
        out[:] = texts
        return out

    def _array(self, kept: dict) -> NDArray:
        array = self.arrays[kept["array"]]
        return array.transpose(np.argsort(kept["axes"])) if "axes" in kept else array

    def _expression(self, kept: dict) -> Expression:
        return self.expressions[kept["expression"]]

    def _table(self, kept: dict) -> Frame:
        return frame_encoding.restored(self.value(kept["table"]))

    def _index(self, kept: dict) -> pd.Index:
        return frame_encoding.restored_index(self.value(kept["index"]))

    def _network(self, kept: dict) -> "keras.Model":
        return self.network(kept["network"])

    def _tuple(self, kept: dict) -> tuple:
        return tuple(self._list({"list": kept["tuple"]}))

    def _list(self, kept: dict) -> list:
        return [self.value(item) for item in kept["list"]]

    def _map(self, kept: dict) -> dict:
        return {key: self.value(item) for key, item in kept["map"].items()}


_READERS: dict[str, Callable[[Reader, dict], object]] = {
    "scalar": Reader._scalar,
    "float": Reader._float,
    "of": Reader._dataclass,
    "texts": Reader._texts,
    "array": Reader._array,
    "expression": Reader._expression,
    "table": Reader._table,
    "index": Reader._index,
    "network": Reader._network,
    "tuple": Reader._tuple,
    "list": Reader._list,
    "map": Reader._map,
}


def _fits(value: object, hint: Any) -> bool:
    """Whether a value has the annotated type of its field; element types are not all checked."""
    # From NumPy 2.5 on, NDArray is an alias made by a `type` statement: it stands for its value.
    hint = getattr(hint, "__value__", hint)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is tuple:
        listed = (
            inner[:1] * len(value) if isinstance(value, tuple) and inner[1:] == (...,) else inner
        )
        return (
            isinstance(value, tuple)
            and len(value) == len(listed)
            and all(_fits(item, option) for item, option in zip(value, listed, strict=True))
        )
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(v, inner[1]) for v in value.values())
    if hint is float:
        return isinstance(value, (float, int, np.floating)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return isinstance(value, origin or hint)
