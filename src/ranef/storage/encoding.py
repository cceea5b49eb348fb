"""Values as JSON, arrays beside it: explicit kinds in, the same kinds out, nothing else.

A number, a text, true, false and null stand for themselves. Everything else is an object with
one key that says what it is: a tuple, a mapping, an array or list of texts among the arrays, a
dataclass from the register with its fields by name, an expression of the formula, a table, a
pandas index, a network. What is not on this list is neither written nor read.
"""

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ranef import registry
from ranef.data.frame import Frame
from ranef.errors import OptionError
from ranef.files import archive
from ranef.formula.expression import Expression
from ranef.storage import frame_encoding

_FRACTIONS = ("nan", "inf", "-inf")
# Texts in a tuple from which on they lie with the arrays.
_MANY = 8

# The dataclasses that may stand in a file, by the name that they have there for ever, and where
# they are now. Who moves or renames one changes its place and never its name, which files have.
CLASSES = {
    "matrix.Matrix": "ranef.formula.model_matrix:ModelMatrix",
    "matrix.Coding": "ranef.formula.model_matrix:Coding",
    "matrix.Part": "ranef.formula.model_matrix:CodedExpression",
    "moments.Scale": "ranef.data.moments:Scale",
    "training.State": "ranef.program.training:TrainingState",
    "terms.base.Design": "ranef.terms.base:Design",
    "families.base.ResponseDesign": "ranef.families.base:ResponseDesign",
    "families.base.State": "ranef.families.base:FamilyState",
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
    "inference.factors.FactorDraws": "ranef.inference.block_ascent.factor_posterior:FactorDraws",
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

# Fields of these whose name in a file is another than theirs.
FIELDS = {"moments.Scale": {"spread": "sd"}}


@cache
def register() -> dict[str, type]:
    """The dataclasses that may stand in a file, by the name that they have there.

    Beside `CLASSES`, the `State` of each registered term and family that is not among them.
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
    """Values to JSON; `arrays` and `networks` gather what lies beside it."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray] = {}
        self.networks: list[Any] = []
        self._names = {c: name for name, c in register().items()}
        self._places: dict[int, str] = {}

    def value(self, value: Any) -> Any:
        """The JSON of a value.

        Raises:
            OptionError: for one of a kind that no file holds.
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
        if type(value) in self._names:
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
        if hasattr(value, "get_config") and hasattr(value, "layers"):
            return {"network": self._network(value)}
        raise OptionError(f"a {type(value).__name__} cannot be saved with a fit")

    def _array(self, array: NDArray) -> Any:
        if array.dtype == object:
            return {"texts": self._texts(array), "tuple": False}
        stored, axes = archive.ordered(array)
        out: dict[str, Any] = {"array": self._add(stored)}
        return out if axes == list(range(array.ndim)) else {**out, "axes": axes}

    def _texts(self, texts: Any) -> str:
        """One after the other in UTF-8, and how many bytes each has."""
        encoded = [str(text).encode("utf-8", "surrogatepass") for text in texts]
        lengths = self._add(np.array([len(text) for text in encoded], np.int64))
        self.arrays[f"{lengths}.texts"] = np.frombuffer(b"".join(encoded), np.uint8)
        return lengths

    def _add(self, array: NDArray) -> str:
        """One array that stands in several places is kept once."""
        if id(array) in self._places:
            return self._places[id(array)]
        name = str(len(self.arrays))
        self.arrays[name] = array
        self._places[id(array)] = name
        return name

    def _network(self, network: Any) -> int:
        for place, known in enumerate(self.networks):
            if known is network:
                return place
        self.networks.append(network)
        return len(self.networks) - 1


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise OptionError(f"a mapping with the key {key!r:.40} cannot be saved with a fit")
    return key


class Reader:
    """JSON to values.

    Args:
        arrays: beside it.
        expressions: of the formula, by their text.
        network: the network of a number.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray],
        expressions: Mapping[str, Expression],
        network: Callable[[int], Any],
    ) -> None:
        self.arrays, self.expressions, self.network = arrays, expressions, network

    def value(self, kept: Any) -> Any:
        """The value that `Writer.value` was given.

        Raises:
            ValueError, TypeError, KeyError: for what it never gives.
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

    def _scalar(self, kept: dict) -> Any:
        dtype, value = kept["scalar"]
        kind = np.dtype(dtype)
        if kind.kind not in "biuf":
            raise ValueError(f"{dtype!r:.20} is no kind of number")
        return kind.type(self.value(value))

    def _float(self, kept: dict) -> float:
        if kept["float"] not in _FRACTIONS:
            raise ValueError(f"{kept['float']!r:.20} is no number")
        return float(kept["float"])

    def _dataclass(self, kept: dict) -> Any:
        known = register().get(kept["of"])
        if known is None:
            raise ValueError(f"{kept['of']!r:.60} is none of the classes a saved fit holds")
        hints, now = typing.get_type_hints(known), FIELDS.get(str(kept["of"]), {})
        stored: dict[str, Any] = kept["fields"]
        given = {now.get(name, name): self.value(item) for name, item in stored.items()}
        for name, item in given.items():
            if not _fits(item, hints[name]):
                raise ValueError(f"{kept['of']} has the {name} {item!r:.60}")
        return known(**given)

    def _texts(self, kept: dict) -> Any:
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

    def _network(self, kept: dict) -> Any:
        return self.network(kept["network"])

    def _tuple(self, kept: dict) -> tuple:
        return tuple(self._list({"list": kept["tuple"]}))

    def _list(self, kept: dict) -> list:
        return [self.value(item) for item in kept["list"]]

    def _map(self, kept: dict) -> dict:
        return {key: self.value(item) for key, item in kept["map"].items()}


_READERS: dict[str, Callable[[Reader, dict], Any]] = {
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


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is what the annotation of its field says, as far as that goes."""
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
