"""What the effects of a grouping have in common, as common effects beside a network.

    eta_i = f(x_i; w) + z_i . (a + b_{g(i)}),   b_j ~ N(0, Sigma)

A network that has the columns z can carry z . a, and so can the effects b_j, at a mean that is not
zero. While the network is held the effects would take it, and while they are held the network
would not learn it. So a is a common effect of its own in the closed form, and what it explains is
left to the network's next steps: at their end a is zero. This is the parameter expansion of Liu,
Rubin and Wu (1998) for the means of random effects.

Where what a network has varies between the levels of a grouping, its effects can stand in for any
function of it, as those of towns can for one of latitude. There the closed form has a change of the
network's last layer as well, h(x; w) . c with c ~ N(0, tau^2) on the features h that it gets, in
their principal directions, and the layer is moved by it: a step in closed form of what the gradient
would take long for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.priors import Prior
from ranef.program.problem import Batch, Problem
from ranef.terms.blocks import LinearBlock

Array = NDArray[np.float64]

# The prior sd of what a common part adds to the predictor, in units of its spread: it only keeps
# columns that are nearly collinear from being undetermined.
_WIDTH = 100.0
# The least share of a column's size that others may leave of it; of less they span it.
_LEFT = 1e-6
# Rows by which it is told what they span.
_ROWS = 20_000
# The share of the variance of a network's input between the levels of a grouping, less what chance
# puts there, from which on their effects could stand in for functions of it.
_BETWEEN = 0.05
# Principal directions of the features of a network: of more a round would take long.
_DIRECTIONS = 16
# The scale of the prior of how much a change of a last layer adds, in spreads of the predictor.
_CHANGE = 2.0
# The most columns of one block: those of a basis of many functions would cost more than they help.
_MOST = 64


@dataclass(frozen=True)
class CommonParts:
    """The columns whose effects' means are common effects.

    Attributes:
        places: columns of the block of each term, by its label.
        sds: prior sds of their effects.
        middles: what is taken off these columns: their means, where something else carries the
            constant, so that what is left to a network has no other mean than it had.
        predicts: the family parameter that each of these terms and networks predicts.
        networks: labels of the terms whose last layer may change beside the effects.
        spreads: of the predictors of these networks, by label.
        directions: of the features of these networks, by label; empty until they are known.
    """

    places: Mapping[str, tuple[int, ...]]
    sds: Mapping[str, Array]
    middles: Mapping[str, Array]
    predicts: Mapping[str, str]
    networks: tuple[str, ...] = ()
    predictor_sds: Mapping[str, float] = field(default_factory=dict)
    directions: Mapping[str, "Directions"] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem, *, features: bool) -> "CommonParts":
        """Those of a problem that no common effect of its formula spans.

        Args:
            problem: the problem.
            features: whether changes of the networks' last layers may be among them.
        """
        whole = problem.unit_blocks()
        n = len(problem.data[1].value)
        some = np.unique(np.linspace(0, n - 1, min(n, _ROWS)).astype(np.int64))
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
        middles: dict[str, Array] = {}
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
                middle = (
                    float(column.mean())
                    if _is_spanned(np.ones_like(column), spanned[name][:-1])
                    else 0.0
                )
                middles[label] = np.append(middles.get(label, np.zeros(0)), middle)
                sd = _WIDTH * problem.predictor_scales[name].sd / size
                sds[label] = np.append(sds.get(label, np.zeros(0)), sd)
        networks = _between(problem, blocks, some) if features else ()
        predicts = {label: problem.predicts[label] for label in (*places, *networks)}
        spreads = {label: problem.predictor_scales[predicts[label]].sd for label in networks}
        return cls(places, sds, middles, predicts, networks, spreads)

    def along(self, features: Mapping[str, Array]) -> "CommonParts":
        """The same with the directions of the features of some rows, by the label of their term."""
        own = {
            label: Directions.of(features[label]) for label in self.networks if label in features
        }
        return replace(self, directions=own)

    def features(self, known: Problem, designs: Any) -> dict[str, Array]:
        """What the last layers of networks that may change get, (n, k), by their label."""
        return known.features(designs) if self.networks else {}

    @property
    def size(self) -> int:
        """How many columns there are."""
        return sum(map(len, self.places.values()))

    def beside(self, part: Batch, changes: Mapping[str, Array]) -> Batch:
        """The rows with the common parts as further effects of all rows, the last.

        Args:
            part: the rows.
            changes: what `changes` says of them.
        """
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
        for label, columns in changes.items():
            k = columns.shape[1]
            own[_label(label)] = LinearBlock(
                columns,
                None,
                1,
                np.zeros(k),
                np.ones(k),
                sites=((_label(label), k),),
                shapes=((k,),),
                scales=(_scale(label),) * k,
            )
        return Batch(part.normal, {**part.blocks, **own})

    def problem(self, known: Problem) -> Problem:
        """The problem whose terms the common parts are among, rows apart."""
        predicts = {_label(label): name for label, name in self.predicts.items()}
        scales: dict[str, Prior] = {
            _scale(label): priors.HalfNormal(_CHANGE * spread)
            for label, spread in self.predictor_sds.items()
        }
        return replace(
            known,
            predicts={**known.predicts, **predicts},
            priors={**known.priors, **scales},
        )

    def changes(self, features: Mapping[str, Array]) -> dict[str, Array]:
        """Features of any rows along the directions, (n, m), by the label of their network."""
        return {label: own.columns(features[label]) for label, own in self.directions.items()}

    def moves(self, effects: tuple[Array, ...]) -> dict[str, tuple[Array, float]]:
        """The changes as coefficients of the features and a constant, by label of the network.

        `effects` are those of all factors, the changes' the last.
        """
        last = effects[len(effects) - len(self.directions) :]
        out = {}
        for (label, own), c in zip(self.directions.items(), last, strict=True):
            slopes = own.matrix @ c[0]
            out[label] = (slopes, -float(own.mean @ slopes))
        return out

    def columns(self, part: Batch) -> dict[str, Array]:
        """Columns (n, k) of some rows, by the label of their term."""
        out = {}
        for label, places in self.places.items():
            block = part.blocks[label]
            assert block is not None
            columns = np.asarray(block.columns, np.float64)[:, list(places)]
            out[label] = columns - self.middles[label]
        return out

    def eta(
        self,
        part: Batch,
        changes: Mapping[str, Array],
        common: Array,
        effects: tuple[Array, ...],
        unseen: Mapping[str, NDArray[np.bool_]],
    ) -> dict[str, Array]:
        """What common parts add to each predictor, (n,).

        In rows of levels that are not known those that a network is yet to learn add nothing.

        Args:
            part: the rows.
            changes: what `changes` says of them.
            common: (p,) all common effects, these the last.
            effects: by factor, those of the changes the last.
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
        last = effects[len(effects) - len(changes) :]
        for (label, columns), own in zip(changes.items(), last, strict=True):
            name = self.predicts[label]
            out[name] = out.get(name, 0.0) + columns @ own[0]
        return out


@dataclass(frozen=True)
class Directions:
    """Principal directions of features, the first of sd one.

    The others keep their smaller sds: a change along a direction in which features hardly vary
    would take weights without bounds.

    Attributes:
        mean: (k,) of the features.
        matrix: (k, m).
    """

    mean: Array
    matrix: Array

    @classmethod
    def of(cls, features: Array) -> "Directions":
        """Of the features (n, k) of some rows."""
        mean = features.mean(axis=0)
        away = features - mean
        values, vectors = np.linalg.eigh(away.T @ away / len(away))
        values, vectors = values[::-1][:_DIRECTIONS], vectors[:, ::-1][:, :_DIRECTIONS]
        largest = np.sqrt(max(float(values[0]), 0.0))
        return cls(mean, vectors / largest if largest > 0 else 0.0 * vectors)

    def columns(self, features: Array) -> Array:
        """(n, m) of any rows."""
        return (features - self.mean) @ self.matrix


def _between(
    problem: Problem, blocks: Mapping[str, LinearBlock | None], some: NDArray[np.int64]
) -> tuple[str, ...]:
    """Labels of networks some input of which varies between the levels of a grouping."""
    groups = {
        label: np.unique(np.asarray(block.codes), return_inverse=True)[1]
        for label, block in blocks.items()
        if block is not None and block.codes is not None and block.grouping
    }
    found = []
    for label in (label for label, block in blocks.items() if block is None):
        same = problem.predicts[label]
        codes = [own for name, own in groups.items() if problem.predicts[name] == same]
        arrays = [np.asarray(a) for a in problem.data[0][label].arrays.values()]
        # Images and the like are too many numbers to be gone through one by one.
        inputs = [a[some].reshape(len(some), -1).astype(np.float64) for a in arrays if a.ndim <= 2]
        if any(_share_between(x, own) > _BETWEEN for x in inputs for own in codes):
            found.append(label)
    return tuple(found)


def _share_between(x: Array, codes: NDArray[np.int64]) -> float:
    """The largest share of a column's variance (n, k) that is between levels, chance taken off."""
    n, levels = len(codes), int(codes.max(initial=0)) + 1
    if n <= levels:
        return 0.0
    sizes = np.bincount(codes, minlength=levels)
    away = x - x.mean(axis=0)
    total = (away**2).sum(axis=0)
    means = np.stack([np.bincount(codes, column, levels) for column in away.T], axis=1)
    within = total - (means**2 / sizes[:, None]).sum(axis=0)
    varying = total > 0
    share = 1 - (within[varying] / (n - levels)) / (total[varying] / (n - 1))
    return float(share.max(initial=0.0))


def of_unseen(
    part: Batch, unseen: Mapping[str, NDArray[np.bool_]]
) -> dict[str, LinearBlock] | None:
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


def rows_of_unseen(part: Batch, unseen: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
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


def _scale(label: str) -> str:
    """The site of how much a change of a network's last layer adds."""
    return f"{label}/in common_sigma"
