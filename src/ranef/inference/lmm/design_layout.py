"""Arrangement of the terms of a model as common columns and grouping factors.

The linear predictor k of a batch of rows is

    eta_k = known_k + X_k beta + sum_f Z_fk b_f

with common effects beta, effects b_f of the levels of factor f, and a known summand. Terms with the
same grouping become one factor with vector-valued effects, even if they predict different
parameters of the response.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ranef.errors import DataError, MethodError
from ranef.inference.lmm.applicability import not_linear
from ranef.inference.lmm.model import (
    BoundedEffect,
    DerivedCoefficients,
    HeavyTail,
    NormalMixture,
    RandomEffectsTerm,
)
from ranef.inference.pwls.cross_products import GroupingFactor
from ranef.numerics.shapes import Float, Int, Numbers
from ranef.program.problem import Problem
from ranef.terms.blocks import LinearBlock

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# Largest absolute value of a column: sums of its squares do not overflow a double.
_LARGEST = 1e140
# Sd of the normals that a uniform prior is a mixture of, as a share of the sd that an effect has
# where all others are known.
_NARROW = 0.01
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
        mixtures: priors of common effects that are normal given a hyperparameter. Their `mean` and
            `precision` are those of one normal distribution near the prior, unless set by
            `conditional`.
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
    mixtures: tuple[NormalMixture, ...] = ()

    def conditional(self, values: Mapping[str, Numbers]) -> "DesignLayout":
        """The layout with each mixture replaced by the normal prior given its hyperparameter.

        `values` has the hyperparameters of the mixtures by name.
        """
        mean, precision = self.mean.copy(), self.precision.copy()
        for mixture in self.mixtures:
            at = mixture.column
            mean[at], precision[at] = mixture.normal(float(values[mixture.name]), self.mean[at])
        return replace(self, mean=mean, precision=precision)

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
            mixtures=(),
        )

    def mixture_slopes(
        self, common: Float[Array, "p"], variance: Float[Array, "p"] | None = None
    ) -> dict[str, float]:
        """Derivatives of the log density in the hyperparameters of the mixtures, by name.

        The layout must be `conditional` on these.

        Args:
            common: posterior means of the common effects.
            variance: their posterior variances; None for zeros.
        """
        away = common - self.mean
        squares = away**2 if variance is None else away**2 + variance
        return {
            mixture.name: mixture.slope(
                float(self.precision[mixture.column]),
                float(away[mixture.column]),
                float(squares[mixture.column]),
            )
            for mixture in self.mixtures
        }

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
        sites, shapes, columns, predictor, mean, precision, nu, bounds = common
        # Roughly the sd of a row about each predictor, on the scale of its link.
        rows = [problem.residual_scale if p == problem.location else 1.0 for p in predictors]
        sds = np.array(rows)[predictor] / (_sizes(columns) * math.sqrt(problem.n))
        return cls(
            *(predictors, sites, shapes, mean, precision, groupings),
            *(columns, predictor, known, factors, variance, _derived(shared)),
            mixtures=_mixtures(sites, nu, precision, bounds, _NARROW * sds),
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
    Float[Array, "2 p"],
]:
    """The common effects of all terms: columns and priors.

    Coefficients that are fixed by their priors are added to `known` in place instead.

    Returns:
        Sites, shapes, columns, and for each column: index of its predictor, prior mean, prior
        precision, degrees of freedom of a t prior (infinite for others), and bounds of a uniform
        prior (infinite for others).
    """
    sites: list[tuple[str, int]] = []
    shapes: list[tuple[int, ...]] = []
    columns, places, means, sds, nus, bounds = [], [], [], [], [], []
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
        unbounded = np.stack([-normal, normal])
        bounds.append((unbounded if block.bounds is None else np.asarray(block.bounds))[:, ~fixed])
    if not columns:
        empty = np.zeros(0)
        none = np.zeros((len(known), 0)), np.zeros(0, np.int64)
        return (), (), *none, empty, empty, empty, np.zeros((2, 0))
    return (
        tuple(sites),
        tuple(shapes),
        np.concatenate(columns, axis=1),
        np.concatenate(places),
        np.concatenate(means),
        np.concatenate(sds) ** -2.0,
        np.concatenate(nus),
        np.concatenate(bounds, axis=1),
    )


def _mixtures(
    sites: Sequence[tuple[str, int]],
    nu: Float[Array, "p"],
    precision: Float[Array, "p"],
    bounds: Float[Array, "2 p"],
    narrow: Float[Array, "p"],
) -> tuple[NormalMixture, ...]:
    """The priors of common effects that are normal given a hyperparameter.

    Args:
        sites: names of the sites, each with its number of columns.
        nu: degrees of freedom of t priors, infinite for others.
        precision: prior precisions.
        bounds: bounds of uniform priors, infinite for others.
        narrow: sds of the normals that uniform priors are mixtures of.
    """
    out: list[NormalMixture] = []
    names = [f"{name}[{i}]" for name, count in sites for i in range(count)]
    # Names with a slash cannot collide with those of columns.
    for c, name in enumerate(names):
        lower, upper = map(float, bounds[:, c])
        if np.isfinite(nu[c]):
            scale = float(precision[c]) ** -0.5
            out.append(HeavyTail(c, f"/scale/{name}", float(nu[c]), scale))
        elif np.isfinite(lower):
            out.append(BoundedEffect(c, f"/mean/{name}", lower, upper, float(narrow[c])))
    return tuple(out)


def _sizes(columns: Float[Array, "n p"]) -> Float[Array, "p"]:
    """The sd of each column, or the root mean square of a constant one; 1 for zeros."""
    sds, sizes = columns.std(axis=0), np.sqrt((columns**2).mean(axis=0))
    return np.where(sds > 1e-9 * sizes, sds, np.where(sizes > 0, sizes, 1.0))


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
