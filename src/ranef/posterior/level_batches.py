"""Batches of rows in which only a limited number of levels of each grouping occur.

The posterior draws of all effects of a large grouping do not fit into memory. The draws of the
levels that occur in one batch do. Within a batch, the rows are coded among these levels alone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Int
from ranef.terms.base import Design

Codes = Int[NDArray[np.int64], "_"]

_Grouping = TypeVar("_Grouping")

# Smallest number of levels, known and new ones each, for which a program is compiled. Programs
# for fewer levels would each need a compilation of their own and run no faster.
_LEAST_LEVELS = 16


@dataclass(frozen=True)
class LevelSubset:
    """The levels of one grouping that occur in a batch of rows.

    Attributes:
        known: codes of the levels that occurred in training, in increasing order.
        new: the other levels, each by its position in `Design.new`.
        levels: number of levels in training.
    """

    known: Codes
    new: Codes
    levels: int

    @classmethod
    def of(cls, codes: Int[NDArray, "n"], levels: int) -> "LevelSubset":
        """The levels in `codes`, where codes of `levels` and more stand for new levels."""
        distinct = np.unique(codes).astype(np.int64)
        first = int(np.searchsorted(distinct, levels))
        return cls(distinct[:first], distinct[first:] - levels, levels)

    def padded(self, known: int, new: int) -> "LevelSubset":
        """The subset padded to `known` and `new` levels by repeating the last of each."""
        return replace(self, known=_padded(self.known, known), new=_padded(self.new, new))

    def recoded(self, design: Design, codes: str = "codes", place: int = 0) -> Design:
        """The design of the batch with its rows coded among `known`, followed by `new`.

        Args:
            design: the term's design for the rows of the batch.
            codes: name of the array in `design` that holds this grouping's codes.
            place: position of this grouping among those of the term.
        """
        own = np.asarray(design.arrays[codes])
        unseen = own >= self.levels
        found = np.searchsorted(self.known, own)
        found[unseen] = len(self.known) + np.searchsorted(self.new, own[unseen] - self.levels)
        # Names of levels are static for JAX, so each set of names would need a new compilation.
        new = (*design.new[:place], ("",) * len(self.new), *design.new[place + 1 :])
        return Design({**design.arrays, codes: found.astype(np.int32)}, new)


def _padded(levels: Codes, size: int) -> Codes:
    """`levels` padded to `size` with its last element, or zeros if there is none."""
    if not len(levels):
        return np.zeros(size, np.int64)
    return np.pad(levels, (0, size - len(levels)), mode="edge")


def batches(codes: Sequence[Int[NDArray, "n"]], n: int, most: int) -> list[Codes]:
    """Split n rows into batches in which at most `most` levels of each grouping occur.

    Args:
        codes: codes of each grouping.
        n: number of rows.
        most: largest number of levels of a grouping in one batch.

    Returns:
        The positions of the rows of each batch. If one batch suffices, it holds all rows in their
        order. Otherwise the rows are sorted by the grouping with the most levels, and split
        again, recursively, where another grouping still has too many levels.
    """
    return _split(codes, np.arange(n), most)


def _split(codes: Sequence[Int[NDArray, "n"]], rows: Codes, most: int) -> list[Codes]:
    if not codes or len(rows) <= most:
        return [rows]
    places = [np.unique(each[rows], return_inverse=True)[1] for each in codes]
    counts = [int(place.max()) + 1 for place in places]
    if max(counts) <= most:
        return [rows]
    place = places[int(np.argmax(counts))]
    order = np.argsort(place, kind="stable")
    cuts = np.searchsorted(place[order], np.arange(most, max(counts), most))
    return [batch for some in np.split(rows[order], cuts) for batch in _split(codes, some, most)]


def stepped(count: int, least: int, most: int) -> int:
    """Round `count` up to one of few sizes, since every size needs a compilation of its own.

    Args:
        count: number of elements that must fit.
        least: smallest size.
        most: largest size, unless `count` itself is larger.

    Returns:
        A size that is at most about a quarter larger than `count`, or `least`.
    """
    unit = 2 ** max(0, count.bit_length() - 3)
    return max(count, min(most, max(least, -(-count // unit) * unit)))


def pad_subsets(
    batches: Sequence[Mapping[_Grouping, LevelSubset]], most: int = _LEAST_LEVELS
) -> list[dict[_Grouping, LevelSubset]]:
    """The level subsets of all batches, padded to the same numbers of levels in every batch.

    The padded numbers are rounded by `stepped`, so that tables of similar size share a compiled
    program. At least one known level is kept, because NumPyro's distributions do not take a batch
    shape of zero.

    Args:
        batches: for each batch, grouping to level subset.
        most: upper bound of the padded numbers, unless a batch itself has more levels.
    """
    out = [dict(batch) for batch in batches]
    for name in out[0]:
        known = max(len(batch[name].known) for batch in out)
        new = max(len(batch[name].new) for batch in out)
        known = max(1, stepped(known, _LEAST_LEVELS, most))
        new = stepped(new, _LEAST_LEVELS, most) if new else 0
        for batch in out:
            batch[name] = batch[name].padded(known, new)
    return out


def level_key(name: str) -> int:
    """A hash of a level's name, below 2^64: the same name has the same number everywhere."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
