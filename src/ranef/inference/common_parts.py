"""What the effects of a grouping have in common, as common effects beside a network.

    eta_i = f(x_i; w) + z_i . (a + b_{g(i)}),   b_j ~ N(0, Sigma)

A network that has the columns z can carry z . a, and so can the effects b_j, at a mean that is not
zero. While the network is held the effects would take it, and while they are held the network
would not learn it. So a is a common effect of its own in the closed form, and what it explains is
left to the network's next steps: at their end a is zero. This is the parameter expansion of Liu,
Rubin and Wu (1998) for the means of random effects.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ranef.inference.base import Part, Problem
from ranef.terms.base import LinearBlock

Array = NDArray[np.float64]

# The prior sd of what a common part adds to the predictor, in units of its spread: it only keeps
# columns that are nearly collinear from being undetermined.
_WIDTH = 100.0
# The least share of a column's size that others may leave of it; of less they span it.
_LEFT = 1e-6
# Rows by which it is told what they span.
_ROWS = 20_000
# The most columns of one block: those of a basis of many functions would cost more than they help.
_MOST = 64


@dataclass(frozen=True)
class CommonParts:
    """The columns whose effects' means are common effects.

    Attributes:
        places: columns of the block of each term, by its label.
        sds: prior sds of their effects.
        predicts: the family parameter that each term predicts.
    """

    places: Mapping[str, tuple[int, ...]]
    sds: Mapping[str, Array]
    predicts: Mapping[str, str]

    @classmethod
    def of(cls, problem: Problem) -> "CommonParts":
        """Those of a problem that no common effect of its formula spans."""
        whole = problem.structure()
        n = max((len(np.asarray(b.columns)) for b in whole.values() if b is not None), default=0)
        some = np.unique(np.linspace(0, max(n - 1, 0), min(n, _ROWS)).astype(np.int64))
        blocks = {label: block and block.keep(some) for label, block in whole.items()}
        spanned = {
            name: [
                np.asarray(block.columns, np.float64)
                for label, block in blocks.items()
                if block is not None
                and problem.predicts[label] == name
                and block.codes is None
                and not block.scales
            ]
            for name in set(problem.predicts.values())
        }
        places: dict[str, tuple[int, ...]] = {}
        sds: dict[str, Array] = {}
        for label, able in problem.carriable.items():
            block, name = blocks[label], problem.predicts[label]
            if block is None or len(able) > _MOST:
                continue
            for place in able:
                column = np.asarray(block.columns, np.float64)[:, place : place + 1]
                size = float(np.sqrt(np.mean(column**2)))
                if size == 0 or not np.isfinite(size) or _is_spanned(column, spanned[name]):
                    continue
                spanned[name].append(column)
                places[label] = (*places.get(label, ()), place)
                sd = _WIDTH * problem.scales[name].spread / size
                sds[label] = np.append(sds.get(label, np.zeros(0)), sd)
        return cls(places, sds, {label: problem.predicts[label] for label in places})

    @property
    def size(self) -> int:
        """How many columns there are."""
        return sum(map(len, self.places.values()))

    def beside(self, part: Part) -> Part:
        """The rows with the common parts as further common effects, the last."""
        own = {
            _label(label): LinearBlock(
                columns,
                None,
                1,
                np.zeros(columns.shape[1]),
                self.sds[label],
                sites=((_label(label), columns.shape[1]),),
                shapes=((columns.shape[1],),),
            )
            for label, columns in self.columns(part).items()
        }
        return Part(part.normal, {**part.blocks, **own})

    def predicted(self, predicts: Mapping[str, str]) -> dict[str, str]:
        """What each term predicts, the common parts too."""
        return {**predicts, **{_label(label): name for label, name in self.predicts.items()}}

    def columns(self, part: Part) -> dict[str, Array]:
        """Columns (n, k) of some rows, by the label of their term."""
        out = {}
        for label, places in self.places.items():
            block = part.blocks[label]
            assert block is not None
            out[label] = np.asarray(block.columns, np.float64)[:, list(places)]
        return out

    def eta(
        self, part: Part, common: Array, unseen: Mapping[str, NDArray[np.bool_]]
    ) -> dict[str, Array]:
        """What common parts add to each predictor, (n,), in rows of levels that are known.

        Args:
            part: the rows.
            common: (p,) all common effects, these the last.
            unseen: which levels of each grouping are not known.
        """
        out: dict[str, Array] = {}
        start = len(common) - self.size
        for label, columns in self.columns(part).items():
            a = common[start : start + columns.shape[1]]
            start += columns.shape[1]
            added = columns @ a
            block = part.blocks[label]
            if block is not None and block.grouping in unseen:
                added = np.where(unseen[block.grouping][np.asarray(block.codes)], 0.0, added)
            name = self.predicts[label]
            out[name] = out.get(name, 0.0) + added
        return out


def of_unseen(part: Part, unseen: Mapping[str, NDArray[np.bool_]]) -> dict[str, LinearBlock] | None:
    """The blocks of effects that no row has told, at the rows of their levels.

    All else counts as known, and is a block without columns. None where there are no such rows.
    """
    out: dict[str, LinearBlock] = {}
    n_unseen = 0
    for label, block in part.blocks.items():
        assert block is not None
        n = len(np.asarray(block.columns))
        if block.codes is None or not unseen.get(block.grouping, np.zeros(1, bool)).any():
            out[label] = LinearBlock(np.zeros((n, 0)), None, 1, np.zeros(0), np.zeros(0))
            continue
        codes = np.asarray(block.codes, np.int64)
        new = unseen[block.grouping][codes]
        n_unseen += int(new.sum())
        # Rows of known levels have columns of zeros, whichever level they are given.
        levels, own = np.unique(codes[new], return_inverse=True)
        placed = np.zeros(n, np.int32)
        placed[new] = own
        columns = np.where(new[:, None], np.asarray(block.columns, np.float64), 0.0)
        out[label] = replace(block, columns=columns, codes=placed, levels=max(1, len(levels)))
    return out if n_unseen else None


def rows_of_unseen(part: Part, unseen: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """(n,) which rows have a level that is not known."""
    out: NDArray[np.bool_] | None = None
    for block in part.blocks.values():
        if block is None:
            continue
        if out is None:
            out = np.zeros(len(np.asarray(block.columns)), bool)
        if block.codes is not None and block.grouping in unseen:
            out |= unseen[block.grouping][np.asarray(block.codes)]
    assert out is not None
    return out


def _is_spanned(column: Array, others: list[Array]) -> bool:
    if not others:
        return False
    x = np.concatenate(others, axis=1)
    scale = np.sqrt(np.mean(x**2, axis=0))
    x = x / np.where(scale > 0, scale, 1.0)
    left = column - x @ np.linalg.lstsq(x, column, rcond=1e-10)[0]
    return float(np.linalg.norm(left)) < _LEFT * float(np.linalg.norm(column))


def _label(label: str) -> str:
    """Of a common part; no term has such a label."""
    return f"{label}/in common"
