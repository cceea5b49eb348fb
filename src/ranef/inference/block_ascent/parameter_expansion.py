"""Parameter expansion for group effects beside a network (Liu, Rubin and Wu, 1998).

    eta_i = f(x_i; w) + z_i . (a + b_{g(i)}),   b_j ~ N(0, Sigma)

If a network f has the columns z among its inputs, it can represent z . a for any vector a. The
group effects b_j can represent it too, by a mean other than zero. Block ascent is then slow: while
the network is held fixed, the effects absorb a, and while the effects are held fixed, the network
does not learn a. The closed-form step therefore has a as a common effect (fixed effect) of its own.
The network's next steps leave a out of the held-fixed part, so that the network learns it. The
columns z whose effects have such a common part are listed in `CommonParts`.

If an input of a network varies between the levels of a grouping, the group effects can represent
any function of that input: effects of towns, for example, can represent a function of latitude. In
this case the closed-form step also has a change of the network's last layer,

    h(x; w) . V c,   c ~ N(0, tau^2 I),

where h are the features that the layer receives and V their principal directions. The layer is then
changed by V c. This is a step in closed form along directions that gradient steps would follow
slowly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.inference.glmm.arrays import Array, CommonEffects, PerRow
from ranef.numerics.shapes import Bool, Float, Int
from ranef.priors import Prior
from ranef.program.problem import Batch, Problem
from ranef.program.training import Designs
from ranef.terms.blocks import LinearBlock

# Columns of each row.
Columns = Float[Array, "n _"]
# Effects (levels, k) by factor.
Effects = tuple[Float[Array, "_ _"], ...]
# By grouping, whether no training row has a level.
UnseenLevels = Mapping[str, Bool[NDArray[np.bool_], "_"]]
# Coefficients of the features of a last layer, and a constant.
LayerChange = tuple[Float[Array, "_"], float]

# Prior sd of the contribution of a common part to the predictor, in units of the predictor's sd.
# It is wide, and only keeps nearly collinear columns determined.
_WIDTH = 100.0
# A column counts as spanned by others if its least-squares residual has less than this share of
# its norm.
_LEFT = 1e-6
# Maximal number of rows, evenly spaced, on which columns are compared.
_ROWS = 20_000
# A change of a network's last layer is added if, for some input, more than this share of the
# variance is between the levels of a grouping (adjusted for the share expected by chance).
_BETWEEN = 0.05
# Maximal number of principal directions of a network's features. More would make a round slow.
_DIRECTIONS = 16
# Scale of the half-normal prior of tau, in sds of the predictor. The first principal direction has
# sd one, so that tau is about the sd of what a change adds to the predictor.
_CHANGE = 2.0
# Maximal number of candidate columns in one block. Bases with many functions would cost more time
# than they save.
_MOST = 64


@dataclass(frozen=True)
class CommonParts:
    """The columns whose group effects have a common part, and the networks whose layers change.

    All mappings are by the label of the term.

    Attributes:
        places: columns of the term's block whose effects have a common part.
        sds: prior sds of the common parts, one for each of `places`.
        middles: constants subtracted from these columns: their means if other common columns span
            the constant, else zero. The part left to a network then has mean zero.
        predicts: family parameter that each of these terms and networks predicts.
        networks: labels of the networks whose last layer may change in closed form.
        predictor_sds: sd of the predictor that each of these networks is in.
        directions: principal directions of the features of these networks; empty until the
            features are known.
    """

    places: Mapping[str, tuple[int, ...]]
    sds: Mapping[str, Float[Array, "_"]]
    middles: Mapping[str, Float[Array, "_"]]
    predicts: Mapping[str, str]
    networks: tuple[str, ...] = ()
    predictor_sds: Mapping[str, float] = field(default_factory=dict)
    directions: Mapping[str, "Directions"] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem, *, features: bool) -> "CommonParts":
        """The common parts of a problem.

        A column has a common part if a network can represent it and neither the common effects
        of the formula nor earlier common parts span it.

        Args:
            problem: the model and its rows.
            features: whether the last layers of networks may change in closed form.
        """
        whole = problem.unit_blocks()
        n = problem.data.n
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
        predictor_sds = {label: problem.predictor_scales[predicts[label]].sd for label in networks}
        return cls(places, sds, middles, predicts, networks, predictor_sds)

    def along(self, features: Mapping[str, Columns]) -> "CommonParts":
        """These common parts with principal directions of `features`, by label."""
        own = {
            label: Directions.of(features[label]) for label in self.networks if label in features
        }
        return replace(self, directions=own)

    def features(self, known: Problem, designs: Designs) -> dict[str, Columns]:
        """Features that the last layers of networks receive, by label.

        Args:
            known: the problem with known networks.
            designs: designs of the rows, by label.
        """
        return known.features(designs) if self.networks else {}

    @property
    def size(self) -> int:
        """Number of columns with a common part."""
        return sum(map(len, self.places.values()))

    def beside(self, batch: Batch, changes: Mapping[str, Columns]) -> Batch:
        """The batch with common parts and changes of last layers as further blocks, at the end.

        Args:
            batch: the rows.
            changes: columns of the changes of last layers, from `changes`.
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
            for label, columns in self.columns(batch).items()
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
        return Batch(batch.normal, {**batch.blocks, **own})

    def problem(self, known: Problem) -> Problem:
        """The problem with the common parts and changes of last layers among its terms.

        Its rows and blocks are those of `known`; the caller replaces them.
        """
        predicts = {_label(label): name for label, name in self.predicts.items()}
        scales: dict[str, Prior] = {
            _scale(label): priors.HalfNormal(_CHANGE * sd)
            for label, sd in self.predictor_sds.items()
        }
        return replace(
            known,
            predicts={**known.predicts, **predicts},
            priors={**known.priors, **scales},
        )

    def changes(self, features: Mapping[str, Columns]) -> dict[str, Columns]:
        """Columns of the changes of last layers: features along the directions, by label."""
        return {label: own.columns(features[label]) for label, own in self.directions.items()}

    def moves(self, effects: Effects) -> dict[str, LayerChange]:
        """Changes of last layers by label, for `Problem.shifted_networks`.

        Args:
            effects: posterior means by factor, those of the changes at the end.
        """
        last = effects[len(effects) - len(self.directions) :]
        out = {}
        for (label, own), c in zip(self.directions.items(), last, strict=True):
            slopes = own.matrix @ c[0]
            out[label] = (slopes, -float(own.mean @ slopes))
        return out

    def columns(self, batch: Batch) -> dict[str, Columns]:
        """Columns with a common part, less their `middles`, by label."""
        out = {}
        for label, places in self.places.items():
            block = batch.blocks[label]
            assert block is not None
            columns = np.asarray(block.columns, np.float64)[:, list(places)]
            out[label] = columns - self.middles[label]
        return out

    def eta(
        self,
        batch: Batch,
        changes: Mapping[str, Columns],
        common: CommonEffects,
        effects: Effects,
        unseen: UnseenLevels,
    ) -> dict[str, PerRow]:
        """The contribution of common parts and changes of last layers, by family parameter.

        Rows of unseen levels get no common part of the effects of that grouping, because the
        networks have not learned it yet.

        Args:
            batch: the rows.
            changes: columns of the changes of last layers, from `changes`.
            common: all common effects, those of common parts at the end.
            effects: effects by factor, those of the changes at the end.
            unseen: whether no training row has a level, by grouping.
        """
        out: dict[str, Array] = {}
        start = len(common) - self.size
        for label, columns in self.columns(batch).items():
            a = common[start : start + columns.shape[1]]
            start += columns.shape[1]
            added = columns @ a
            block = batch.blocks[label]
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
    """Principal directions of a network's features, in one common unit.

    The unit is the sd along the first direction. Features along the other directions keep their
    smaller sds, because scaling them to sd one would allow very large weights in directions in
    which the features hardly vary.

    Attributes:
        mean: mean of the features.
        matrix: directions, divided by the sd along the first.
    """

    mean: Float[Array, "k"]
    matrix: Float[Array, "k m"]

    @classmethod
    def of(cls, features: Float[Array, "n k"]) -> "Directions":
        """The directions of the features of some rows."""
        mean = features.mean(axis=0)
        away = features - mean
        values, vectors = np.linalg.eigh(away.T @ away / len(away))
        values, vectors = values[::-1][:_DIRECTIONS], vectors[:, ::-1][:, :_DIRECTIONS]
        largest = np.sqrt(max(float(values[0]), 0.0))
        return cls(mean, vectors / largest if largest > 0 else 0.0 * vectors)

    def columns(self, features: Float[Array, "n k"]) -> Float[Array, "n m"]:
        """Features of any rows along the directions."""
        return (features - self.mean) @ self.matrix


def _between(
    problem: Problem, blocks: Mapping[str, LinearBlock | None], some: Int[NDArray[np.int64], "_"]
) -> tuple[str, ...]:
    """Labels of networks with an input that varies between the levels of a grouping."""
    groups = {
        label: np.unique(np.asarray(block.codes), return_inverse=True)[1]
        for label, block in blocks.items()
        if block is not None and block.codes is not None and block.grouping
    }
    found = []
    for label in (label for label, block in blocks.items() if block is None):
        same = problem.predicts[label]
        codes = [own for name, own in groups.items() if problem.predicts[name] == same]
        arrays = [np.asarray(a) for a in problem.data.designs[label].arrays.values()]
        # Arrays with more axes, such as images, have too many numbers to look at.
        inputs = [a[some].reshape(len(some), -1).astype(np.float64) for a in arrays if a.ndim <= 2]
        if any(_share_between(x, own) > _BETWEEN for x in inputs for own in codes):
            found.append(label)
    return tuple(found)


def _share_between(x: Float[Array, "n k"], codes: Int[NDArray[np.int64], "n"]) -> float:
    """The largest between-level share of a variance among the columns of x.

    The share is 1 - (within mean square) / (total mean square), which is zero on average for a
    column unrelated to the levels.
    """
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


def of_unseen(batch: Batch, unseen: UnseenLevels) -> dict[str, LinearBlock] | None:
    """Blocks in which only the effects of unseen levels are unknown.

    Args:
        batch: the rows.
        unseen: whether no training row has a level, by grouping.

    Returns:
        Blocks by label. Terms without unseen levels have a block without columns. None if no row
        has an unseen level.
    """
    out: dict[str, LinearBlock] = {}
    n_unseen = 0
    for label, block in batch.blocks.items():
        assert block is not None
        n = len(np.asarray(block.columns))
        if block.codes is None or not unseen.get(block.grouping, np.zeros(1, bool)).any():
            out[label] = LinearBlock(np.zeros((n, 0)), None, 1, np.zeros(0), np.zeros(0))
            continue
        codes = np.asarray(block.codes, np.int64)
        new = unseen[block.grouping][codes]
        n_unseen += int(new.sum())
        # Rows of seen levels have columns of zeros, so that their code, zero, has no effect.
        levels, own = np.unique(codes[new], return_inverse=True)
        placed = np.zeros(n, np.int32)
        placed[new] = own
        columns = np.where(new[:, None], np.asarray(block.columns, np.float64), 0.0)
        out[label] = replace(block, columns=columns, codes=placed, levels=max(1, len(levels)))
    return out if n_unseen else None


def rows_of_unseen(batch: Batch, unseen: UnseenLevels) -> Bool[NDArray[np.bool_], "n"]:
    """Whether a row has an unseen level in some grouping."""
    out: NDArray[np.bool_] | None = None
    for block in batch.blocks.values():
        if block is None:
            continue
        if out is None:
            out = np.zeros(len(np.asarray(block.columns)), bool)
        if block.codes is not None and block.grouping in unseen:
            out |= unseen[block.grouping][np.asarray(block.codes)]
    assert out is not None
    return out


def _is_spanned(column: Float[Array, "n 1"], others: list[Columns]) -> bool:
    """Whether a column is a linear combination of the others, within `_LEFT`."""
    if not others:
        return False
    x = np.concatenate(others, axis=1)
    scale = np.sqrt(np.mean(x**2, axis=0))
    x = x / np.where(scale > 0, scale, 1.0)
    left = column - x @ np.linalg.lstsq(x, column, rcond=1e-10)[0]
    return float(np.linalg.norm(left)) < _LEFT * float(np.linalg.norm(column))


def _label(label: str) -> str:
    """Label of a common part or change; no label of a term has this form."""
    return f"{label}/in common"


def _scale(label: str) -> str:
    """Site of tau, the sd of the coefficients of a change of a last layer."""
    return f"{label}/in common_sigma"
