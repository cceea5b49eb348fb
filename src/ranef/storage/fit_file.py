"""Writes a fit to a file and reads it back.

The file holds the formula, family, priors, everything learned from the rows before the fit, the
training rows (of the columns that the model uses), the draws, and the record of the fit. A loaded
fit therefore gives the same results as the saved one, bit for bit. Two things are not stored: rows
that were read in batches, of which the file holds a sample; and draws of group effects that do not
fit into memory, for which the file holds the sampler that draws them level by level.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from ranef.errors import BackendError, FileError, OptionError, PackageError, RanefError
from ranef.files import archive
from ranef.files.archive import PACKED, damaged, versions
from ranef.files.atomic_write import StrPath
from ranef.formula.expression import Expression
from ranef.formula.formula import Formula
from ranef.inference.base import Draws
from ranef.lazy import jax
from ranef.program import posterior_variables
from ranef.program.program import Program
from ranef.program.training import Training, TrainingState
from ranef.storage.effect_checks import refuse_unsound
from ranef.storage.encoding import Reader, Writer
from ranef.terms.nn import serialization, variables

if TYPE_CHECKING:
    import keras

# Fields of `Draws` that are functions; the file holds their results.
_MADE = ("draw", "analytic_moments", "effect_sampler")
# Fields of `Draws` that have another name in the file.
_NAMES_IN_FILE = {"lazy_sites": "later"}
# Exceptions that the content of a damaged or forged file can cause while it is read.
_STUMBLES = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError),
    *(TypeError, ValueError),
)


class _Network(TypedDict):
    """A network in a file: its configuration, and path and value of each variable, encoded."""

    configuration: object
    variables: list[object]


class _Content(TypedDict):
    """The JSON of a saved fit; the values of the last seven are encoded by `Writer`."""

    formula: str
    family: str
    networks: list[_Network]
    priors: object
    missing: object
    named: object
    state: object
    training: object
    draws: object
    record: object


class StoredSites(Mapping[str, NDArray]):
    """Draws by site.

    Args:
        ready: site to draws.
        refused: site whose draws could not be made to the reason, which is raised as an
            `OptionError` when the site is asked for.
    """

    def __init__(self, ready: Mapping[str, NDArray], refused: Mapping[str, str]) -> None:
        self.ready, self.refused = dict(ready), dict(refused)

    def __getitem__(self, name: str) -> NDArray:
        if name in self.refused:
            raise OptionError(self.refused[name])
        return self.ready[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.ready
        yield from self.refused

    def __len__(self) -> int:
        return len(self.ready) + len(self.refused)


def write(
    path: StrPath,
    program: Program,
    training: Training,
    draws: Draws,
    record: Mapping[str, object],
) -> Path:
    """Write a fit to a file.

    Args:
        path: path of the file.
        program: the model.
        training: the training rows, and what was learned from them.
        draws: the result of the method.
        record: the other fields of the fit by name, plain values.

    Returns:
        The path of the file.

    Raises:
        OptionError: for a network with a layer of a kind that cannot be saved, naming the layer.
        FileError: if the file cannot be written.
    """
    return archive.write(path, *_encoded(program, training, draws, record))


def pack(program: Program, training: Training, draws: Draws, record: Mapping[str, object]) -> bytes:
    """The bytes of the file that `write` writes; the arguments and errors are its own."""
    return archive.pack(*_encoded(program, training, draws, record))


def _encoded(
    program: Program, training: Training, draws: Draws, record: Mapping[str, object]
) -> tuple[dict[str, object], dict[str, NDArray]]:
    """The two parts of a file: JSON values, and the arrays by name."""
    writer = Writer()
    content = {
        "versions": versions(),
        "formula": program.formula.text,
        "family": program.family.name,
        "priors": writer.value(program.user_priors),
        "missing": writer.value(program.missing),
        "named": writer.value(program.networks),
        "state": writer.value(training.state),
        "training": writer.value(
            {
                "designs": training.designs,
                "response": training.response,
                "rows": training.rows,
                "sample": training.sample,
                "streamed": training.stream is not None,
            }
        ),
        "draws": writer.value(_draws(draws)),
        "record": writer.value(dict(record)),
    }
    trained = _trained(program, training, draws)
    content["networks"] = [
        _network(
            writer, network, trained[id(network)], f"the network {i + 1} of {len(writer.networks)}"
        )
        for i, network in enumerate(writer.networks)
    ]
    return content, writer.arrays


def read(path: StrPath) -> dict[str, Any]:
    """Read the fields of a fit from a file, by name.

    Raises:
        FileError: if the file does not exist, is not a saved fit, is damaged or inconsistent, or
            was written by a newer version.
        BackendError: for a fit with networks, if Keras runs on a backend other than JAX.
        PackageError: for a fit with networks, if Keras is not installed.
    """
    return _decoded(path, *archive.read(path))


def unpack(packed: bytes) -> dict[str, Any]:
    """The fields of a fit from the bytes of `pack`; the errors are those of `read`."""
    return _decoded(PACKED, *archive.unpack(packed))


def _decoded(
    path: StrPath, content: dict[str, object], arrays: dict[str, NDArray]
) -> dict[str, Any]:
    """The fields of a fit from the two parts of a file; messages call the file `path`."""
    try:
        # What the content lacks or has too much is an error while it is read.
        return _read(path, cast(_Content, content), arrays)
    except (BackendError, PackageError):
        raise
    except RanefError as error:
        raise damaged(path, str(error).splitlines()[0]) from None
    except _STUMBLES as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise damaged(path, reason) from None


def _read(path: StrPath, content: _Content, arrays: dict[str, NDArray]) -> dict[str, Any]:
    """The fields of a fit from the two parts of a file."""
    formula = Formula.parse(content["formula"])
    made: dict[int, keras.Model] = {}

    def network(place: int) -> "keras.Model":
        if place not in made:
            config = content["networks"][place]
            made[place] = _rebuilt(reader, config)
        return made[place]

    reader = Reader(arrays, _expressions(formula), network)
    user_priors = reader.value(content["priors"])
    missing, named = reader.value(content["missing"]), reader.value(content["named"])
    program = Program(formula, content["family"], user_priors, named, missing)
    state = reader.value(content["state"])
    program = program.bind(state.family)
    kept = reader.value(content["training"])
    stream = _AbsentRows(path) if kept["streamed"] else None
    training = Training(
        state, kept["designs"], kept["response"], kept["rows"], kept["sample"], stream
    )
    parts = reader.value(content["draws"])
    sites, moments = StoredSites(parts.pop("sites"), parts.pop("refused")), parts.pop("moments")
    by_level = parts.pop("effects", None)
    for name, in_file in _NAMES_IN_FILE.items():
        if in_file in parts:
            parts[name] = parts.pop(in_file)
    draws = Draws(
        draw=lambda: sites,
        analytic_moments=lambda: moments,
        effect_sampler=lambda: by_level,
        **parts,
    )
    _refuse_inconsistent(program, training, sites, moments)
    if by_level is not None:
        shape = next((np.shape(v)[:2] for v in sites.ready.values()), None)
        count = by_level.draws if shape is None else math.prod(shape)
        drawn = {
            k: g
            for k, g in program.level_sites(state).items()
            if not set(g.sites) <= set(sites.ready)
        }
        refuse_unsound(by_level, drawn, count)
    return {
        "program": program,
        "training": training,
        "draws": draws,
        **reader.value(content["record"]),
    }


def _draws(draws: Draws) -> dict[str, object]:
    """The draws as plain values; group effects too large for memory as their sampler."""
    ready, refused = {}, {}
    for name in draws.sites:
        try:
            ready[name] = draws.sites[name]
        except OptionError as error:
            refused[name] = str(error)
    plain = {
        _NAMES_IN_FILE.get(f.name, f.name): getattr(draws, f.name)
        for f in fields(draws)
        if f.name not in _MADE
    }
    # An optimizer is a function, which a file does not hold: None stands for it.
    plain["settings"] = {
        name: value if isinstance(value, (bool, int, float, str, np.generic)) else None
        for name, value in draws.settings.items()
    }
    return {
        "sites": ready,
        "refused": refused,
        "effects": draws.effects if refused else None,
        "moments": dict(draws.known_moments),
        **plain,
    }


def _trained(
    program: Program, training: Training, draws: Draws
) -> dict[int, Mapping[str, NDArray]]:
    """Values of each network's variables after the fit, by the network's `id`."""
    return {id(network): held for network, held in program.trained(training, draws).values()}


def _network(
    writer: Writer, network: "keras.Model", held: Mapping[str, NDArray], name: str
) -> _Network:
    """A network as its configuration and the values of its variables."""
    config = serialization.configuration(network, name)
    values = [writer.value((path, held[path])) for path in variables.names(network).values()]
    return {"configuration": config, "variables": values}


def _rebuilt(reader: Reader, kept: _Network) -> "keras.Model":
    values = [reader.value(pair) for pair in kept["variables"]]
    return serialization.rebuilt(kept["configuration"], values)


def _expressions(formula: Formula) -> dict[str, Expression]:
    """Every expression of the formula by its text, which determines it."""
    return {str(e): e for call in formula.calls() for e in call.expressions()}


@dataclass(frozen=True)
class _AbsentRows:
    """Placeholder for rows that were read in batches; refuses whatever needs them."""

    path: StrPath
    windows: int = 0

    def of(self, state: TrainingState) -> "_AbsentRows":
        """The same placeholder, since the rows are absent for any program."""
        return self

    def parts(self) -> NoReturn:
        """Refuses, since the rows are absent."""
        which = "the pickled fit" if self.path == PACKED else f"the fit in {str(self.path)!r}"
        raise OptionError(
            f"{which} has read its rows in batches and keeps a sample of them; fit again for what "
            "needs every row"
        )

    def window(self, seed: int, number: int) -> NoReturn:
        """Refuses, since the rows are absent."""
        self.parts()


def _refuse_inconsistent(
    program: Program,
    training: Training,
    sites: StoredSites,
    moments: Mapping[str, tuple[NDArray, NDArray]],
) -> None:
    """Refuse a file whose parts do not fit together.

    Raises:
        FileError: saying which parts.
    """
    state, n = training.state, training.held
    labels = {term.label for _, term in program.all_terms()}
    if set(state.terms) != labels or set(training.designs) != labels:
        raise FileError("its terms are not those of its formula")
    arrays = jax.tree.leaves(training.in_memory)
    if any(np.ndim(a) and len(a) != n for a in arrays):
        raise FileError("its rows differ in number")
    variables = posterior_variables.variables(program, state)
    for name, codes in posterior_variables.codes(program, training.designs, state).items():
        levels = len(variables[name].coords[0])
        if len(codes) and not 0 <= int(np.min(codes)) <= int(np.max(codes)) < levels:
            raise FileError(f"a row has a level of {name!r} that there is not")
    for name, variable in variables.items():
        shape = tuple(len(coord) for coord in variable.coords)
        if name in moments and any(np.shape(m) != shape for m in moments[name]):
            raise FileError(f"the moments of {name!r} are not one for each of its elements")
        if name in sites.ready and np.shape(sites[name])[2:] != shape:
            raise FileError(f"the draws of {name!r} are not one for each of its elements")
    sizes = {np.shape(value)[:2] for value in sites.ready.values()}
    if len(sizes) > 1 or any(len(size) < 2 or 0 in size for size in sizes):
        raise FileError("its draws differ in number")
