"""What the inputs of a network get: arguments of nn() matched to inputs, levels as codes.

A network with one input gets all arguments, one after the other. With several, an argument
that has the name of an input goes there; the other inputs, in order, take the other
arguments, in order: one whose shape is the input's own, or numbers until its width is full.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame, NameIndex
from ranef.errors import DataError, OptionError
from ranef.formula import model_matrix, transforms
from ranef.formula.expression import Expression

# The code of a level that training did not see; the training levels follow from 1.
UNSEEN = 0

# A row's shape; None where an input takes any number.
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Argument:
    """An argument of nn() over the training rows.

    Attributes:
        name: as the formula writes it.
        shape: of a row's values, () for one number or level.
        levels: of a column of levels in the order of their codes 1, 2, ...; None for numbers.
    """

    name: str
    shape: tuple[int, ...] = ()
    levels: tuple[str, ...] | None = None

    @property
    def width(self) -> int:
        return int(np.prod(self.shape, dtype=int))

    @property
    def is_coded(self) -> bool:
        return self.levels is not None

    def __str__(self) -> str:
        if self.levels is not None:
            return f"{self.name} ({len(self.levels)} levels)"
        return f"{self.name} of shape {self.shape}" if self.shape else self.name


@dataclass(frozen=True)
class Feed:
    """What one input of the network gets.

    Attributes:
        name: of the input.
        arguments: the places of its arguments in the term.
        shape: of a row.
        entries: of the Embedding that the input leads to; 0 where it leads to none.
    """

    name: str
    arguments: tuple[int, ...]
    shape: tuple[int, ...]
    entries: int = 0


@dataclass(frozen=True)
class Input:
    """An input of a network: its name, and the shape of its rows."""

    name: str
    shape: Shape

    def takes(self, given: Sequence[Argument]) -> tuple[int, ...] | None:
        """The shape in which it takes these arguments together; None where it does not."""
        if len({a.is_coded for a in given}) != 1:
            return None
        if len(given) == 1:
            return _reshaped(given[0].shape, self.shape)
        return _reshaped((sum(a.width for a in given),), self.shape)


def _reshaped(given: tuple[int, ...], wanted: Shape) -> tuple[int, ...] | None:
    """The shape of `given` values as `wanted`, None where they are not the same values.

    As in Keras a last axis of one may be missing or too many. A vector is filled from any
    shape, and fills any, in row-major order; axes are never exchanged.
    """
    for shape in (given, (*given, 1), given[:-1] if given[-1:] == (1,) else given):
        if len(shape) == len(wanted) and all(
            w in (None, s) for s, w in zip(shape, wanted, strict=True)
        ):
            return shape
    size = int(np.prod(given, dtype=int))
    if len(wanted) == 1 and wanted[0] in (None, size):
        return (size,)
    if len(given) <= 1 and None not in wanted:
        whole = tuple(int(w or 0) for w in wanted)
        return whole if int(np.prod(whole, dtype=int)) == size else None
    return None


def match(
    network: str, label: str, inputs: Sequence[Input], arguments: Sequence[Argument]
) -> tuple[Feed, ...]:
    """What each input gets, in the order of the inputs.

    Args:
        network: its name in the formula.
        label: the term, as the formula writes it.
        inputs: of the network.
        arguments: of the term.

    Raises:
        OptionError: naming the input and what it would get, where they do not match.
    """
    places = _places(inputs, arguments)
    left = sorted(set(range(len(arguments))) - {place for given in places for place in given})
    feeds = []
    for i, (entry, given) in enumerate(zip(inputs, places, strict=True)):
        # What nothing takes is said of the last input, where it would stand.
        given = [*given, *left] if i == len(inputs) - 1 else given
        chosen = [arguments[place] for place in given]
        shape = entry.takes(chosen)
        if shape is None:
            raise _mismatch(network, label, inputs, i, chosen)
        feeds.append(Feed(entry.name, tuple(given), shape))
    return tuple(feeds)


def _places(inputs: Sequence[Input], arguments: Sequence[Argument]) -> list[list[int]]:
    """The arguments that each input takes, by their places."""
    if len(inputs) == 1:
        return [list(range(len(arguments)))]
    named = {argument.name: place for place, argument in enumerate(arguments)}
    own = {named[entry.name] for entry in inputs if entry.name in named}
    queue = [place for place in range(len(arguments)) if place not in own]
    out = []
    for entry in inputs:
        if entry.name in named:
            out.append([named[entry.name]])
            continue
        count = _filling(entry, [arguments[place] for place in queue])
        out.append(queue[:count])
        queue = queue[count:]
    return out


def _filling(entry: Input, waiting: Sequence[Argument]) -> int:
    """How many of the waiting arguments the input takes."""
    for count in range(1, len(waiting) + 1):
        if entry.takes(waiting[:count]) is not None:
            return count
    return min(1, len(waiting))


def _mismatch(
    network: str, label: str, inputs: Sequence[Input], i: int, given: Sequence[Argument]
) -> OptionError:
    coded = [a for a in given if a.is_coded]
    if coded and len(coded) < len(given):
        return OptionError(
            f"{label} gives the levels of {coded[0].name} and numbers to one input of the network "
            f"{network!r}; give the levels an Input(()) of their own, with an Embedding after it"
        )
    numbers = all(a.shape == () and not a.is_coded for a in given)
    columns = f"{len(given)} column{'s' if len(given) > 1 else ''}"
    shown = columns if numbers and given else ", ".join(map(str, given)) or "nothing"
    where, shape = "input", (None, *inputs[i].shape)
    if len(inputs) > 1:
        where = f"input {inputs[i].name!r} ({i + 1} of {len(inputs)})"
        shown = f"it {', '.join(map(str, given)) or 'nothing'}"
        return OptionError(
            f"the network {network!r} expects shape {shape} at its {where} and {label} gives "
            f"{shown}; change its Input or the arguments"
        )
    return OptionError(
        f"the network {network!r} expects input of shape {shape} and {label} gives {shown}; change "
        "its Input or the columns"
    )


@dataclass(frozen=True)
class InputScan:
    """Levels and transforms of the batches so far, and the shape of each argument."""

    matrix: model_matrix.MatrixScan
    shapes: tuple[tuple[int, ...], ...]


def scan(seen: InputScan | None, expressions: Sequence[Expression], frame: Frame) -> InputScan:
    """Learn from one batch of rows."""
    products = [(expression,) for expression in expressions]
    found = model_matrix.scan(seen.matrix if seen else None, products, frame, booleans=False)
    shapes = tuple(
        () if str(e) in found.factors else transforms.row_shape(e, frame) for e in expressions
    )
    return InputScan(found, shapes)


def finish(seen: InputScan, expressions: Sequence[Expression]) -> tuple[Argument, ...]:
    """The arguments of the term."""
    out = []
    for expression, shape in zip(expressions, seen.shapes, strict=True):
        levels = seen.matrix.factors.get(str(expression))
        coded = model_matrix.levels_of(expression, levels) if levels is not None else None
        out.append(Argument(str(expression), shape, coded))
    return tuple(out)


def values(
    argument: Argument, expression: Expression, frame: Frame, learned: transforms.Learned
) -> tuple[NDArray, tuple[str, ...]]:
    """Rows of an argument, (n, *shape), and the levels among them that training did not see.

    Raises:
        DataError: for rows of another shape than training had, or without a level.
    """
    if argument.levels is not None:
        return _codes(argument.levels, expression.columns()[0], frame)
    found = transforms.evaluate(expression, frame, learned)
    if found.shape[1:] != argument.shape:
        raise DataError(
            f"{expression} has rows of shape {found.shape[1:]} here and had {argument.shape} in "
            "training; give it the shape of training"
        )
    return found, ()


def _codes(
    levels: tuple[str, ...], column: str, frame: Frame
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    found = frame.levels(column)
    place = NameIndex(levels).places(found.names)
    present = found.present()
    if (found.codes < 0).any():
        row = frame.row_number(int(np.argmax(found.codes < 0)))
        raise DataError(f"column {column!r} has no level in row {row}; fill or drop it")
    new = tuple(str(name) for name in found.names[present[place[present] < 0]])
    coded = np.where(place < 0, UNSEEN, place + 1).astype(np.int32)
    return coded[found.codes], new


def filled(
    feeds: Sequence[Feed], arguments: Sequence[Argument], given: Sequence[NDArray], n: int
) -> dict[str, NDArray]:
    """Rows of every input, (n, *shape), by its place.

    Images are held in single precision, as a network takes no more.

    Raises:
        DataError: for numbers that the input's Embedding has no entry for.
    """
    out = {}
    for i, feed in enumerate(feeds):
        parts = [given[place] for place in feed.arguments]
        for place, part in zip(feed.arguments, parts, strict=True):
            if feed.entries and not arguments[place].is_coded:
                _refuse_strangers(arguments[place].name, part, feed.entries)
        whole = (
            parts[0] if len(parts) == 1 else np.concatenate([p.reshape(n, -1) for p in parts], 1)
        )
        dtype = np.float32 if len(feed.shape) > 1 and whole.dtype.kind == "f" else whole.dtype
        out[str(i)] = whole.reshape(n, *feed.shape).astype(dtype, copy=False)
    return out


def _refuse_strangers(name: str, part: NDArray, entries: int) -> None:
    bad = (part != np.floor(part)) | (part < 0) | (part >= entries)
    if bad.any():
        raise DataError(
            f"{name} holds {part[bad][0]:.15g}, and its Embedding takes the whole numbers from 0 "
            f"to {entries - 1}; write C({name}) to number its levels, or make input_dim larger"
        )


def ordered(arrays: Mapping[str, Any]) -> list[Any]:
    """The rows of every input, in the order of the inputs."""
    return [arrays[str(i)] for i in range(len(arrays))]


def joint_shape(arguments: Sequence[Argument]) -> tuple[int, ...]:
    """The shape of all arguments as one input."""
    first = arguments[0]
    if len(arguments) == 1 and (first.shape or first.is_coded):
        return first.shape
    return (sum(argument.width for argument in arguments),)


def coded(feed: Feed, arguments: Sequence[Argument]) -> list[tuple[str, int]]:
    """Name and number of levels of what an input gets, where it gets levels."""
    given = [arguments[place] for place in feed.arguments]
    return [(a.name, len(a.levels)) for a in given if a.levels is not None]


def shown(feed: Feed, arguments: Sequence[Argument]) -> str:
    """What an input gets, in words."""
    levels = [f"{name} ({count:,} levels)" for name, count in coded(feed, arguments)]
    if levels:
        return ", ".join(levels)
    if len(feed.shape) > 1:
        return f"{arguments[feed.arguments[0]].name} ({' × '.join(map(str, feed.shape))})"
    width = sum(arguments[place].width for place in feed.arguments)
    return f"{width:,} number{'s' if width > 1 else ''}"
