"""Which levels occur in some rows, and rows in batches of which each meets few of them.

Draws of every effect of a large grouping do not fit into memory; those of the levels in a batch
do. A batch codes its rows among these levels alone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.terms.base import Design

Codes = NDArray[np.int64]

# Levels of a grouping for which there is room at least, known and new ones each: programs for
# fewer would be compiled one by one, and take no less time.
_LEAST_LEVELS = 16


@dataclass(frozen=True)
class LevelSubset:
    """The levels of one grouping that occur in a batch.

    Attributes:
        known: (m,) those that training saw, in order.
        new: (u,) those that it did not, by their place among the design's.
        levels: how many training saw.
    """

    known: Codes
    new: Codes
    levels: int

    @classmethod
    def of(cls, codes: NDArray, levels: int) -> "LevelSubset":
        distinct = np.unique(codes).astype(np.int64)
        first = int(np.searchsorted(distinct, levels))
        return cls(distinct[:first], distinct[first:] - levels, levels)

    def padded(self, known: int, new: int) -> "LevelSubset":
        """The same with some levels repeated, so that there are so many."""
        return replace(self, known=_padded(self.known, known), new=_padded(self.new, new))

    def recoded(self, design: Design, codes: str = "codes", place: int = 0) -> Design:
        """The rows of a batch, their codes among `known` and, after these, `new`.

        Args:
            design: of the rows.
            codes: its array of this grouping's codes.
            place: of this grouping among the term's.
        """
        own = np.asarray(design.arrays[codes])
        unseen = own >= self.levels
        found = np.searchsorted(self.known, own)
        found[unseen] = len(self.known) + np.searchsorted(self.new, own[unseen] - self.levels)
        # What a level is called no longer matters, and names would have to be compiled in.
        new = (*design.new[:place], ("",) * len(self.new), *design.new[place + 1 :])
        return Design({**design.arrays, codes: found.astype(np.int32)}, new)


def _padded(levels: Codes, size: int) -> Codes:
    if not len(levels):
        return np.zeros(size, np.int64)
    return np.pad(levels, (0, size - len(levels)), mode="edge")


def batches(codes: Sequence[NDArray], n: int, most: int) -> list[Codes]:
    """The places of n rows in sets that meet at most `most` levels of each grouping.

    Args:
        codes: of each grouping, (n,).
        n: rows.
        most: levels.

    Returns:
        One set with all rows in their order where that does; otherwise rows of one level of the
        grouping that has most of them lie side by side.
    """
    return _split(codes, np.arange(n), most)


def _split(codes: Sequence[NDArray], rows: Codes, most: int) -> list[Codes]:
    if not codes or len(rows) <= most:
        return [rows]
    places = [np.unique(each[rows], return_inverse=True)[1] for each in codes]
    counts = [int(place.max()) + 1 for place in places]
    if max(counts) <= most:
        return [rows]
    place = places[int(np.argmax(counts))]
    order = np.argsort(place, kind="stable")
    cuts = np.searchsorted(place[order], np.arange(most, max(counts), most))
    return [batch for part in np.split(rows[order], cuts) for batch in _split(codes, part, most)]


def stepped(count: int, least: int, most: int) -> int:
    """The next of few sizes from `count` on, because each is compiled for.

    Args:
        count: what there must be room for.
        least: the smallest size.
        most: of all sizes but `count` itself.

    Returns:
        A size at most a quarter larger than `count`, or `least`.
    """
    unit = 2 ** max(0, count.bit_length() - 3)
    return max(count, min(most, max(least, -(-count // unit) * unit)))


def pad_subsets(
    batches: Sequence[Mapping[Any, LevelSubset]], most: int = _LEAST_LEVELS
) -> list[dict[Any, LevelSubset]]:
    """What occurs in each batch, padded so that all have one shape, and most tables the same.

    That is one known level at least: NumPyro's distributions have no batches of none.

    Args:
        batches: by grouping.
        most: levels for which there is room where no batch has more.
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
    """A number below 2^64 that stands for a level wherever it occurs."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
