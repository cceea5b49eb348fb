"""Matching of the arguments of nn() to the inputs of a network, and the arrays that these take.

A network with one input takes all arguments, concatenated. With several inputs, an argument with
the name of an input goes to that input. The other inputs take the other arguments in order: each
takes one argument whose shape suits it, or as many numbers as its width. Levels are passed as
codes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.level_codes import NameIndex
from ranef.errors import DataError, OptionError
from ranef.formula import model_matrix, transforms
from ranef.formula.expression import Expression
from ranef.numerics.shapes import Int, Shaped

# The code of a level that is not in the training rows. Training levels have the codes 1, 2, ...
UNSEEN = 0

# The shape of a row; None along an axis on which an input takes any size.
Shape = tuple[int | None, ...]

_Rows = TypeVar("_Rows")


@dataclass(frozen=True)
class Argument:
    """An argument of nn(), as learned from the training rows.

    Attributes:
        name: the argument as the formula writes it.
        shape: shape of the values of a row, () for one number or level.
        levels: levels in the order of their codes 1, 2, ...; None for a numeric argument.
    """

    name: str
    shape: tuple[int, ...] = ()
    levels: tuple[str, ...] | None = None

    @property
    def width(self) -> int:
        """Number of values of a row."""
        return int(np.prod(self.shape, dtype=int))

    @property
    def is_coded(self) -> bool:
        """Whether the argument has levels."""
        return self.levels is not None

    def __str__(self) -> str:
        if self.levels is not None:
            return f"{self.name} ({len(self.levels)} levels)"
        return f"{self.name} of shape {self.shape}" if self.shape else self.name


@dataclass(frozen=True)
class Feed:
    """The arguments that one input of the network is fed.

    Attributes:
        name: name of the input.
        arguments: places of its arguments in the term.
        shape: shape of a row.
        entries: number of entries of the Embedding behind the input; 0 without one.
    """

    name: str
    arguments: tuple[int, ...]
    shape: tuple[int, ...]
    entries: int = 0


@dataclass(frozen=True)
class Input:
    """An input of a network.

    Attributes:
        name: name of the input.
        shape: shape of its rows.
    """

    name: str
    shape: Shape

    def takes(self, arguments: Sequence[Argument]) -> tuple[int, ...] | None:
        """The shape of a row in which it takes these arguments together; None if it cannot."""
        if len({a.is_coded for a in arguments}) != 1:
            return None
        if len(arguments) == 1:
            return _reshaped(arguments[0].shape, self.shape)
        return _reshaped((sum(a.width for a in arguments),), self.shape)


def _reshaped(own: tuple[int, ...], wanted: Shape) -> tuple[int, ...] | None:
    """The shape in which values of shape `own` fit `wanted`; None if they do not.

    As in Keras, a last axis of length one may be added or dropped. Any shape can be flattened to a
    vector of the same size, and a vector reshaped to any shape, in row-major order. Axes are never
    permuted.
    """
    for shape in (own, (*own, 1), own[:-1] if own[-1:] == (1,) else own):
        if len(shape) == len(wanted) and all(
            w in (None, s) for s, w in zip(shape, wanted, strict=True)
        ):
            return shape
    size = int(np.prod(own, dtype=int))
    if len(wanted) == 1 and wanted[0] in (None, size):
        return (size,)
    if len(own) <= 1 and None not in wanted:
        whole = tuple(int(w or 0) for w in wanted)
        return whole if int(np.prod(whole, dtype=int)) == size else None
    return None


def match(
    network: str, label: str, inputs: Sequence[Input], arguments: Sequence[Argument]
) -> tuple[Feed, ...]:
    """Match the arguments of a term to the inputs of its network.

    Args:
        network: name of the network in the formula.
        label: the term as the formula writes it.
        inputs: inputs of the network.
        arguments: arguments of the term.

    Returns:
        What each input is fed, in the order of the inputs.

    Raises:
        OptionError: naming the input and what it would get, if they do not match.
    """
    places = _places(inputs, arguments)
    left = sorted(set(range(len(arguments))) - {place for own in places for place in own})
    feeds = []
    for i, (entry, own) in enumerate(zip(inputs, places, strict=True)):
        # Arguments that are left over are assigned to the last input, whose error names them.
        own = [*own, *left] if i == len(inputs) - 1 else own
        chosen = [arguments[place] for place in own]
        shape = entry.takes(chosen)
        if shape is None:
            raise _mismatch(network, label, inputs, i, chosen)
        feeds.append(Feed(entry.name, tuple(own), shape))
    return tuple(feeds)


def _places(inputs: Sequence[Input], arguments: Sequence[Argument]) -> list[list[int]]:
    """The places of the arguments that each input takes."""
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
    """Number of the waiting arguments, from the first on, that the input takes."""
    for count in range(1, len(waiting) + 1):
        if entry.takes(waiting[:count]) is not None:
            return count
    return min(1, len(waiting))


def _mismatch(
    network: str, label: str, inputs: Sequence[Input], i: int, arguments: Sequence[Argument]
) -> OptionError:
    """The error for arguments that input i does not take."""
    coded = [a for a in arguments if a.is_coded]
    if coded and len(coded) < len(arguments):
        return OptionError(
            f"{label} gives the levels of {coded[0].name} and numbers to one input of the network "
            f"{network!r}; give the levels an Input(()) of their own, with an Embedding after it"
        )
    numbers = all(a.shape == () and not a.is_coded for a in arguments)
    columns = f"{len(arguments)} column{'s' if len(arguments) > 1 else ''}"
    shown = columns if numbers and arguments else ", ".join(map(str, arguments)) or "nothing"
    where, shape = "input", (None, *inputs[i].shape)
    if len(inputs) > 1:
        where = f"input {inputs[i].name!r} ({i + 1} of {len(inputs)})"
        shown = f"it {', '.join(map(str, arguments)) or 'nothing'}"
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
    """What has been learned from the batches so far.

    Attributes:
        matrix: factor levels and transforms of the arguments.
        shapes: shape of a row of each argument.
    """

    matrix: model_matrix.MatrixScan
    shapes: tuple[tuple[int, ...], ...]


def scan(seen: InputScan | None, expressions: Sequence[Expression], frame: Frame) -> InputScan:
    """Accumulate one batch of rows; `seen` is None for the first."""
    products = [(expression,) for expression in expressions]
    found = model_matrix.scan(seen.matrix if seen else None, products, frame, booleans=False)
    shapes = tuple(
        () if str(e) in found.factors else transforms.row_shape(e, frame) for e in expressions
    )
    return InputScan(found, shapes)


def finish(seen: InputScan, expressions: Sequence[Expression]) -> tuple[Argument, ...]:
    """The arguments of the term, with shapes and levels, once all batches were scanned."""
    out = []
    for expression, shape in zip(expressions, seen.shapes, strict=True):
        levels = seen.matrix.factors.get(str(expression))
        coded = model_matrix.levels_of(expression, levels) if levels is not None else None
        out.append(Argument(str(expression), shape, coded))
    return tuple(out)


def values(
    argument: Argument, expression: Expression, frame: Frame, learned: transforms.Learned
) -> tuple[Shaped[NDArray, "n ..."], tuple[str, ...]]:
    """Values of an argument on the rows of `frame`.

    Returns:
        The numbers or codes, in the shape of the argument, and the levels that are not in the
        training rows.

    Raises:
        DataError: for rows of another shape than in training, or without a level.
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
) -> tuple[Int[NDArray[np.int32], "n"], tuple[str, ...]]:
    """Codes of a column of levels, and the levels that are not in the training rows."""
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
    feeds: Sequence[Feed],
    arguments: Sequence[Argument],
    rows: Sequence[Shaped[NDArray, "n ..."]],
    n: int,
) -> dict[str, Shaped[NDArray, "n ..."]]:
    """The array of every input by the place of the input as a text.

    Numeric rows with several axes, such as images, are held in single precision, the precision of
    networks, to save memory.

    Args:
        feeds: what each input is fed.
        arguments: arguments of the term.
        rows: values of the arguments.
        n: number of rows.

    Raises:
        DataError: for numbers outside the entries of the input's Embedding.
    """
    out = {}
    for i, feed in enumerate(feeds):
        own = [rows[place] for place in feed.arguments]
        for place, codes in zip(feed.arguments, own, strict=True):
            if feed.entries and not arguments[place].is_coded:
                _refuse_strangers(arguments[place].name, codes, feed.entries)
        whole = own[0] if len(own) == 1 else np.concatenate([a.reshape(n, -1) for a in own], 1)
        dtype = np.float32 if len(feed.shape) > 1 and whole.dtype.kind == "f" else whole.dtype
        out[str(i)] = whole.reshape(n, *feed.shape).astype(dtype, copy=False)
    return out


def _refuse_strangers(name: str, codes: NDArray, entries: int) -> None:
    """Raise DataError for numbers that are no entries of an Embedding."""
    bad = (codes != np.floor(codes)) | (codes < 0) | (codes >= entries)
    if bad.any():
        raise DataError(
            f"{name} holds {codes[bad][0]:.15g}, and its Embedding takes the whole numbers from 0 "
            f"to {entries - 1}; write C({name}) to number its levels, or make input_dim larger"
        )


def ordered(arrays: Mapping[str, _Rows]) -> list[_Rows]:
    """The arrays of `filled`, in the order of the inputs."""
    return [arrays[str(i)] for i in range(len(arrays))]


def joint_shape(arguments: Sequence[Argument]) -> tuple[int, ...]:
    """The shape of a row of all arguments as one input."""
    first = arguments[0]
    if len(arguments) == 1 and (first.shape or first.is_coded):
        return first.shape
    return (sum(argument.width for argument in arguments),)


def coded(feed: Feed, arguments: Sequence[Argument]) -> list[tuple[str, int]]:
    """Name and number of levels of each argument with levels that an input is fed."""
    own = [arguments[place] for place in feed.arguments]
    return [(a.name, len(a.levels)) for a in own if a.levels is not None]


def shown(feed: Feed, arguments: Sequence[Argument]) -> str:
    """What an input is fed, in words."""
    levels = [f"{name} ({count:,} levels)" for name, count in coded(feed, arguments)]
    if levels:
        return ", ".join(levels)
    if len(feed.shape) > 1:
        return f"{arguments[feed.arguments[0]].name} ({' × '.join(map(str, feed.shape))})"
    width = sum(arguments[place].width for place in feed.arguments)
    return f"{width:,} number{'s' if width > 1 else ''}"
