"""Holds the levels of a column, and puts the levels of several batches of rows in order."""

import heapq
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Int, Shaped

_INTEGER = re.compile(r"0|-?[1-9]\d*")


@dataclass(frozen=True)
class Levels:
    """A column as levels.

    Attributes:
        codes: position of each row's level in `names`, -1 for a missing value.
        names: the levels as texts.
        declared: whether the column declares the order of its levels, as ordered categories do.
            `names` are then in this order and include levels without rows.
        columns: for levels combined from several columns, at least one of which declares an
            order: the levels of each of these columns. Empty otherwise.
        cells: for such levels, the names in `columns` that each of `names` is combined from.
    """

    codes: Int[NDArray, "n"]
    names: Shaped[NDArray, "levels"]
    declared: bool = False
    columns: tuple["Levels", ...] = ()
    cells: tuple[tuple[str, ...], ...] = ()

    def present(self) -> Int[NDArray, "present"]:
        """The codes that occur in some row, in increasing order."""
        return np.flatnonzero(np.bincount(self.codes + 1, minlength=len(self.names) + 1)[1:])


@dataclass
class LevelsSeen:
    """The levels of a column, collected over batches of rows.

    Attributes:
        names: the levels that occur in some row.
        orders: the distinct orders that the batches declare, including levels without rows. None
            once a batch with rows declares no order.
        columns: for levels combined from several columns, the levels of each of these columns.
        cells: for such levels, level to its names in `columns`.
    """

    names: set[str] = field(default_factory=set)
    orders: tuple[tuple[str, ...], ...] | None = ()
    columns: tuple["LevelsSeen", ...] = ()
    cells: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, found: Levels) -> "LevelsSeen":
        """The levels of the batches so far and of another batch."""
        places = found.present()
        present = found.names[places].tolist()
        names = self.names | set(present)
        if found.cells:
            known = self.columns or tuple(LevelsSeen() for _ in found.columns)
            columns = tuple(k.add(c) for k, c in zip(known, found.columns, strict=True))
            own = {str(found.names[place]): found.cells[place] for place in places.tolist()}
            return LevelsSeen(names, None, columns, self.cells | own)
        orders = self.orders
        if orders is not None and found.declared:
            order = tuple(found.names.tolist())
            orders = orders if order in orders else (*orders, order)
        elif present:
            orders = None
        return LevelsSeen(names, orders, self.columns, self.cells)

    def ordered(self) -> tuple[str, ...]:
        """The levels that occur, in their declared order, or else sorted by `sorted_levels`.

        Orders of several batches are merged; if they contradict each other, the levels are
        sorted. Combined levels are ordered by their first column, then by the next.
        """
        if self.cells.keys() >= self.names and self.names:
            ranks = [{n: i for i, n in enumerate(column.ordered())} for column in self.columns]

            def place(name: str) -> tuple[int, ...]:
                cell = self.cells[name]
                return tuple(rank[own] for rank, own in zip(ranks, cell, strict=True))

            return tuple(sorted(self.names, key=place))
        order = merged_order(self.orders) if self.orders else None
        if order is None:
            return tuple(sorted_levels(self.names))
        return tuple(name for name in order if name in self.names)


def merged_order(orders: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Merge several orders of levels into one by topological sorting (Kahn, 1962).

    Levels whose order is not determined stand in the order of their first occurrence.

    Returns:
        An order that agrees with all the given ones; None if they contradict each other.
    """
    if len(orders) == 1:
        return orders[0]
    first = {name: i for i, name in enumerate(dict.fromkeys(n for o in orders for n in o))}
    after: dict[str, set[str]] = {name: set() for name in first}
    for order in orders:
        for one, other in pairwise(order):
            after[one].add(other)
    before = dict.fromkeys(first, 0)
    for others in after.values():
        for name in others:
            before[name] += 1
    ready = [(place, name) for name, place in first.items() if not before[name]]
    heapq.heapify(ready)
    out = []
    while ready:
        _, name = heapq.heappop(ready)
        out.append(name)
        for other in after[name]:
            before[other] -= 1
            if not before[other]:
                heapq.heappush(ready, (first[other], other))
    return tuple(out) if len(out) == len(first) else None


def reordered(found: Levels, order: Sequence[str] | None) -> Levels:
    """The levels with their names in the given order; for None, with no declared order."""
    if order is None:
        return replace(found, declared=False)
    place = {name: i for i, name in enumerate(order)}
    table = np.array([*(place[name] for name in found.names), -1], dtype=np.int32)
    return Levels(table[found.codes], np.array(order, dtype=object), declared=True)


def sorted_levels(names: Iterable[str]) -> list[str]:
    """Levels in natural order: by value if all are whole numbers, else alphabetically.

    Upper and lower case matter only for levels that are otherwise the same; lower case comes first,
    as in R.
    """
    listed = list(names)
    # Only texts in the notation of an integer count as whole numbers; "007" does not.
    if all(_INTEGER.fullmatch(name) for name in listed):
        return sorted(listed, key=int)
    return sorted(listed, key=lambda name: (name.casefold(), name.swapcase(), name))
