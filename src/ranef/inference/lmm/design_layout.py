"""Arrangement of the terms of a model as common columns and grouping factors.

The linear predictor k of a batch of rows is

    eta_k = known_k + X_k beta + sum_f Z_fk b_f

with common effects beta, effects b_f of the levels of factor f, and a known summand. Terms with the
same grouping become one factor with vector-valued effects, even if they predict different
parameters of the response.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError, MethodError
from ranef.inference.lmm.applicability import not_linear
from ranef.inference.lmm.model import DerivedCoefficients, HeavyTail, RandomEffectsTerm
from ranef.inference.pwls.cross_products import GroupingFactor
from ranef.numerics.shapes import Float, Int, Numbers
from ranef.program.problem import Problem
from ranef.terms.blocks import LinearBlock

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# Largest absolute value of a column: sums of its squares do not overflow a double.
_LARGEST = 1e140
# Smallest eigenvalue of the uncentred correlation matrix of a term's columns below which the
# columns count as nearly dependent.
_NEARLY_DEPENDENT = 1e-8


@dataclass(frozen=True)
class DesignLayout:
    """Columns and factors of a batch of rows for the solver, and their description.

    Attributes:
        predictors: the K family parameters that are predicted.
        common: names of the sites of the common (fixed) effects, each with its number of columns.
        shapes: shape of each of these sites.
        mean: prior means of the common effects.
        precision: prior precisions; 0 for a flat prior.
        groupings: terms of group (random) effects in the order of the formula.
        columns: common columns.
        predictor: index of the linear predictor to which each common column belongs.
        known: known summand of each predictor, such as offsets.
        variance: variance of the known summand if it is uncertain, or None.
        factors: the grouping factors, with columns and codes.
        derived: the common effects of the formula's columns, if the solver has other columns.
        tails: t priors among those of the common effects. Their `precision` is that of the
            normal distribution with the scale of the t, unless set by `at_scales`.
    """

    predictors: tuple[str, ...]
    common: tuple[tuple[str, int], ...]
    shapes: tuple[tuple[int, ...], ...]
    mean: Float[Array, "p"]
    precision: Float[Array, "p"]
    groupings: tuple[RandomEffectsTerm, ...]
    columns: Float[Array, "n p"]
    predictor: Int[Indices, "p"]
    known: Float[Array, "n K"]
    factors: tuple[GroupingFactor, ...]
    variance: Float[Array, "n"] | None = None
    derived: DerivedCoefficients | None = None
    tails: tuple[HeavyTail, ...] = ()

    def at_scales(self, values: Mapping[str, Numbers]) -> "DesignLayout":
        """The layout with each t prior replaced by the normal prior at a value of its scale.

        `values` has lambda of each `HeavyTail` by name.
        """
        precision = self.precision.copy()
        for tail in self.tails:
            precision[tail.column] = float(values[tail.name]) ** -2.0
        return replace(self, precision=precision)

    def without_common(self, known: Float[Array, "n K"]) -> "DesignLayout":
        """The layout of group effects alone, with `known` in place of its known summand."""
        return replace(
            self,
            common=(),
            shapes=(),
            mean=self.mean[:0],
            precision=self.precision[:0],
            columns=self.columns[:, :0],
            predictor=self.predictor[:0],
            known=known,
            derived=None,
            tails=(),
        )

    def by_scale(self, squares: Float[Array, "p"]) -> dict[str, float]:
        """Derivatives of the log density in the scales lambda of the t priors, by name.

        By Fisher's identity they are (s / lambda^2 - 1) / lambda, where s is the posterior mean
        square of an effect about its prior mean.

        Args:
            squares: s of each common effect.
        """
        root = np.sqrt(self.precision)
        slopes = (squares * self.precision - 1) * root
        return {tail.name: float(slopes[tail.column]) for tail in self.tails}

    @classmethod
    def of(
        cls,
        blocks: Mapping[str, LinearBlock | None],
        n: int,
        problem: Problem,
        method: str,
    ) -> "DesignLayout":
        """The layout of a batch of rows.

        Args:
            blocks: the linear block of each term by its label, at unit scales; None for a term
                that is not linear.
            n: number of rows.
            problem: the model.
            method: name of the method, for messages.

        Raises:
            MethodError: if a term or prior is not linear and Gaussian; the message names it.
            DataError: if values are too large to be squared.
        """
        predictors = tuple(dict.fromkeys(problem.predicts[label] for label in blocks))
        reason = not_linear(blocks, problem)
        if reason is not None:
            raise MethodError(method, reason)
        placed: list[_PlacedBlock] = []
        known = np.zeros((n, len(predictors)))
        variance: Array | None = None
        for label, block in blocks.items():
            assert block is not None, label
            columns = np.asarray(block.columns, dtype=np.float64)
            largest = float(np.abs(columns).max(initial=0.0))
            if largest > _LARGEST:
                raise DataError(
                    f"values of {label} reach {largest:.3g}, too large to be squared safely; "
                    "rescale the column, as in scale(x)"
                )
            place = predictors.index(problem.predicts[label])
            placed.append(_PlacedBlock(label, block, columns, place))
            if block.known is not None:
                known[:, place] += np.asarray(block.known, dtype=np.float64)
            if block.variance is not None:
                own = np.asarray(block.variance)
                variance = own if variance is None else variance + own
        # Coefficients that all rows share, but whose scale is a parameter, form a factor with a
        # single level.
        varying = [p for p in placed if p.block.codes is not None or p.block.scales]
        shared = [p for p in placed if p.block.codes is None and not p.block.scales]
        common = _common(shared, known)
        factors, groupings = _factors(varying)
        sites, shapes, columns, predictor, mean, precision, nu = common
        return cls(
            *(predictors, sites, shapes, mean, precision, groupings),
            *(columns, predictor, known, factors, variance, _derived(shared)),
            tails=_tails(sites, nu, precision),
        )


@dataclass(frozen=True)
class _PlacedBlock:
    """A term's block, its columns in double precision, and the index of its linear predictor."""

    label: str
    block: LinearBlock
    columns: Float[Array, "n k"]
    predictor: int


def _common(
    placed: Sequence[_PlacedBlock], known: Float[Array, "n K"]
) -> tuple[
    tuple[tuple[str, int], ...],
    tuple[tuple[int, ...], ...],
    Float[Array, "n p"],
    Int[Indices, "p"],
    Float[Array, "p"],
    Float[Array, "p"],
    Float[Array, "p"],
]:
    """The common effects of all terms: columns and priors.

    Coefficients that are fixed by their priors are added to `known` in place instead.

    Returns:
        Sites, shapes, columns, and for each column: index of its predictor, prior mean, prior
        precision, and degrees of freedom of a t prior (infinite for a normal one).
    """
    sites: list[tuple[str, int]] = []
    shapes: list[tuple[int, ...]] = []
    columns, places, means, sds, nus = [], [], [], [], []
    for term in placed:
        block, x = term.block, term.columns
        factor, mean = np.asarray(block.factor), np.asarray(block.mean)
        fixed = factor == 0
        known[:, term.predictor] += x[:, fixed] @ mean[fixed]
        start = 0
        for (name, count), shape in zip(block.sites, block.shapes, strict=True):
            if not fixed[start]:
                sites.append((name, count))
                shapes.append(shape)
            start += count
        columns.append(x[:, ~fixed])
        places.append(np.full(int((~fixed).sum()), term.predictor, dtype=np.int64))
        means.append(np.where(np.isfinite(factor), mean, 0.0)[~fixed])
        sds.append(factor[~fixed])
        normal = np.full(len(factor), np.inf)
        nus.append((normal if block.freedom is None else np.asarray(block.freedom))[~fixed])
    if not columns:
        empty = np.zeros(0)
        return (), (), np.zeros((len(known), 0)), np.zeros(0, np.int64), empty, empty, empty
    return (
        tuple(sites),
        tuple(shapes),
        np.concatenate(columns, axis=1),
        np.concatenate(places),
        np.concatenate(means),
        np.concatenate(sds) ** -2.0,
        np.concatenate(nus),
    )


def _tails(
    sites: Sequence[tuple[str, int]], nu: Float[Array, "p"], precision: Float[Array, "p"]
) -> tuple[HeavyTail, ...]:
    """The t priors among those of the common effects."""
    # Names with a slash cannot collide with those of columns.
    names = [f"/scale/{name}[{i}]" for name, count in sites for i in range(count)]
    return tuple(
        HeavyTail(c, name, float(nu[c]), float(precision[c]) ** -0.5)
        for c, name in enumerate(names)
        if np.isfinite(nu[c])
    )


def _derived(placed: Sequence[_PlacedBlock]) -> DerivedCoefficients | None:
    """The coefficients of the formula's columns as linear functions of all common effects."""
    names: list[tuple[str, int, tuple[int, ...]]] = []
    rows: list[Array] = []
    columns: list[NDArray[np.bool_]] = []
    for term in placed:
        columns.append(np.asarray(term.block.factor) != 0)
    total, start = sum(int(free.sum()) for free in columns), 0
    for term, free in zip(placed, columns, strict=True):
        width = int(free.sum())
        if term.block.carry is not None:
            # Fixed coefficients are not among the common effects.
            own = np.zeros((len(term.block.carry), total))
            own[:, start : start + width] = np.asarray(term.block.carry)[:, free]
            rows.append(own)
            names += term.block.carried
        start += width
    return DerivedCoefficients(tuple(names), np.concatenate(rows)) if rows else None


def _factors(
    placed: Sequence[_PlacedBlock],
) -> tuple[tuple[GroupingFactor, ...], tuple[RandomEffectsTerm, ...]]:
    """The grouping factors, one for all terms with the same grouping, and the terms."""
    shared: list[list[_PlacedBlock]] = []
    for term in placed:
        for group in shared:
            if term.block.grouping and group[0].block.grouping == term.block.grouping:
                group.append(term)
                break
        else:
            shared.append([term])
    place = {}
    factors = []
    for f, group in enumerate(shared):
        start = 0
        for term in group:
            place[term.label] = (f, slice(start, start + term.columns.shape[1]))
            start += term.columns.shape[1]
        first = group[0].block
        columns = np.asfortranarray(np.concatenate([term.columns for term in group], axis=1))
        widths = [term.columns.shape[1] for term in group]
        predictor = np.repeat([term.predictor for term in group], widths).astype(np.int64)
        codes = np.zeros(len(columns), np.int32) if first.codes is None else first.codes
        factors.append(GroupingFactor(np.asarray(codes), columns, first.levels, predictor))
    groupings = []
    for term in placed:
        block = term.block
        factor, columns = place[term.label]
        held = (block.sites, block.shapes, block.scales, block.cholesky, block.correlation)
        derived = (
            None
            if block.carry is None
            else DerivedCoefficients(block.carried, np.asarray(block.carry))
        )
        how = (block.spectrum, block.codes is None, derived)
        groupings.append(RandomEffectsTerm(term.label, factor, columns, block.levels, *held, *how))
    return tuple(factors), tuple(groupings)


def refuse_indistinct(grouping: RandomEffectsTerm, own: Float[Array, "k k levels"]) -> None:
    """Refuse a term whose columns are nearly dependent, such as 1 and x with x far from zero.

    If the mean of x is large relative to its sd, the cross-products lose the digits that
    distinguish its columns.

    Args:
        grouping: the term.
        own: cross-products of the levels of its factor.

    Raises:
        DataError: if the columns are nearly dependent; the message names the term.
    """
    whole = own[grouping.columns, grouping.columns].sum(axis=-1)
    size = np.sqrt(np.diagonal(whole))
    # The prior identifies coefficients that all rows share, or whose sds follow a spectrum.
    identified = grouping.shared or grouping.spectrum is not None
    if identified or grouping.width < 2 or size.min() == 0:
        return
    if np.linalg.eigvalsh(whole / size / size[:, None])[0] < _NEARLY_DEPENDENT:
        raise DataError(
            f"the columns of ({grouping.label}) can hardly be told apart, as those of 1 + x cannot "
            "where x is far from zero for its spread; centre them, as in (1 + center(x) | g)"
        )
