"""Evaluates quantities at every posterior draw, block of rows by block.

A block holds every variant of its rows at once, so that a derivative is taken row by row before it
is averaged. Averages over rows are accumulated over blocks: draws times all rows are never in
memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ranef.data.frame import Frame
from ranef.effects.rows import Cells, Rows
from ranef.effects.variants import Quantity, Values, Variant
from ranef.errors import OptionError
from ranef.families.categories import Categories
from ranef.families.links import INVERSE_LINKS
from ranef.lazy import jax, jnp
from ranef.posterior.new_rows import naming_column, read_new_rows
from ranef.posterior.posterior import Posterior
from ranef.posterior.predictive import Predictive
from ranef.posterior.program_replay import RowChunk, refuse_out_of_reach

# Largest number of draws x rows x groups of one variant of a block.
_CELLS = 4_000_000
# Largest number of draws x rows x groups x variants in all, beyond which draws are thinned ...
_MOST = 400_000_000
# ... to no fewer than this many.
_FEWEST = 200
# Number of cells up to which rows are summed by a dense matrix.
_DENSE = 16

RESPONSE, LINK, BACK = "response", "link", "invlink(link)"


@dataclass(frozen=True)
class Evaluation:
    """Draws of quantities at rows.

    Attributes:
        posterior: the posterior of the fit.
        predictive: its predictions.
        rows: the rows.
        scale: "response", "link", "invlink(link)", or a parameter of the family such as "sigma".
    """

    posterior: Posterior
    predictive: Predictive
    rows: Rows
    scale: str

    def __post_init__(self) -> None:
        own = [p.name for p in self._family.free_parameters() if not p.labels]
        known = [RESPONSE, LINK, BACK, *own]
        if self.scale not in known:
            raise OptionError(
                f"type must be one of {', '.join(map(repr, known))}, not {self.scale!r}"
            )
        if self._family.parts() and self.scale in (LINK, BACK):
            raise OptionError(
                f"a mixture has a predictor for each component, and type={self.scale!r} takes one; "
                f"use type='response' or one of {', '.join(map(repr, own))}"
            )
        if self.scale == BACK and self._categories:
            raise OptionError(
                f"the family {self._family.name} has probabilities of categories, to which "
                f"type={BACK!r} does not apply; use type='response'"
            )

    @property
    def _family(self):  # noqa: ANN202
        return self.rows.program.family

    @property
    def _categories(self) -> tuple[str, ...]:
        family = self._family
        return family.categories if isinstance(family, Categories) else ()

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups of a prediction: categories of the response; ("",) for none."""
        if self.scale == RESPONSE:
            return self._categories or ("",)
        # Unordered categories have a predictor for each of them but the first.
        return self._categories[1:] if len(self._linked) > 1 else ("",)

    @cached_property
    def _linked(self) -> tuple[str, ...]:
        """The parameters of the family whose predictors `type="link"` shows."""
        names = tuple(p.name for p in self._family.parameters if not p.labels)
        several = self.scale == LINK and len(names) == len(self._categories) - 1
        return names if several else names[:1]

    @cached_property
    def draws(self) -> int:
        """Number of posterior draws."""
        return self.predictive._count

    def thinned(self, variants: int) -> Evaluation:
        """The same with fewer draws if the rows would take too long with all of them."""
        work = self.rows.n * variants * len(self.groups)
        most = max(_FEWEST, _MOST // max(work, 1))
        if most >= self.draws:
            return self
        old = self.predictive
        few = Predictive(old.program, old.state, old.draws.thinned(most), old.replay, old.seed)
        notes = (f"{most:,} of {self.draws:,} draws, evenly spaced", *self.rows.notes)
        return replace(self, predictive=few, rows=replace(self.rows, notes=notes))

    def blocks(self, quantities: Sequence[Quantity]) -> Iterator[Block]:
        """All rows, block by block."""
        uses = Counter(v for quantity in quantities for v in set(quantity.variants))
        shared = sum(count > 1 for count in uses.values())
        live = max(1.0, (shared + 2) / 4)
        size = max(1, int(_CELLS / (self.draws * len(self.groups) * live)))
        # Blocks of about the same size, so that one compiled program serves all.
        count = -(-self.rows.n // size)
        size = -(-self.rows.n // count)
        for start in range(0, self.rows.n, size):
            places = np.arange(start, min(start + size, self.rows.n))
            frame = self.rows.frame if count == 1 else self.rows.frame.take(places)
            yield Block(self, frame, places, Counter(uses))

    def predictions(self, frame: Frame) -> Values:
        """Predictions of rows, (groups, draws, rows)."""
        frame, designs = read_new_rows(
            self.posterior,
            frame,
            self.rows.new_levels,
            response=False,
            companion=False,
            program=self.rows.program,
        )
        response = self._family.design(
            self.posterior.training.state.family, frame, known=False, beside=False
        )
        out = None
        with naming_column(self.posterior, frame), jax.enable_x64(True):
            for chunk in self.predictive.over(designs, response, frame.n):
                found = self._of(chunk)
                if out is None and chunk.count == frame.n and (np.diff(chunk.places) == 1).all():
                    return found[0][None] if len(found) == 1 else np.stack(found)
                if out is None:
                    out = np.empty((len(found), len(found[0]), frame.n))
                for place, values in enumerate(found):
                    out[place][:, chunk.places] = values
        assert out is not None
        return out

    def _of(self, chunk: RowChunk) -> list[NDArray[np.float64]]:
        """The prediction of each group on the rows of a chunk, (draws, rows)."""
        family = self._family
        if self.scale == RESPONSE and self._categories:
            each = family.probabilities(**chunk.values)
            return [chunk.own(each[name]) for name in self._categories]
        if self.scale == RESPONSE:
            found = chunk.own(family.mean(chunk.response, **chunk.values))
        elif self.scale in (LINK, BACK):
            return [chunk.own(chunk.predictors[name]) for name in self._linked]
        else:
            found = chunk.own(chunk.values[self.scale])
        # The sum is finite unless a number is not, or is very large: then each is looked at.
        if not np.isfinite(found.sum()):
            refuse_out_of_reach(found, chunk.places)
        return [found]

    def averages(self, quantities: Sequence[Quantity], cells: Cells) -> NDArray[np.float64]:
        """Weighted means over the rows of each cell.

        Returns:
            Draws, (quantities, groups, draws, cells).
        """
        shape = (len(quantities), len(self.groups), self.draws, cells.count)
        total = np.zeros(shape)
        for block in self.blocks(quantities):
            by = _Sums(cells, block.places)
            for i, quantity in enumerate(quantities):
                for g, values in enumerate(block.of(quantity)):
                    total[i, g] += by.of(values)
        return self.back(total)

    def back(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Averages of predictors on the scale of the response, for "invlink(link)"."""
        if self.scale != BACK:
            return values
        with jax.enable_x64(True):
            link = self._family.parameters[0].link
            return np.asarray(INVERSE_LINKS[link](jnp.asarray(values)), np.float64)


@dataclass
class Block:
    """Some of the rows, and the predictions on them that are still needed.

    Attributes:
        evaluation: what evaluates them.
        frame: the rows.
        places: their places among all rows.
        uses: how many quantities are still to be computed from each variant.
    """

    evaluation: Evaluation
    frame: Frame
    places: NDArray[np.int64]
    uses: Counter[Variant]
    _known: dict[Variant, Values] = field(default_factory=dict)

    def of(self, quantity: Quantity) -> Values:
        """A quantity on these rows, (groups, draws, rows). Each is asked for once."""
        values = []
        for variant in quantity.variants:
            if variant not in self._known:
                self._known[variant] = self.evaluation.predictions(variant.of(self.frame))
            values.append(self._known[variant])
        for variant in set(quantity.variants):
            self.uses[variant] -= 1
            if not self.uses[variant]:
                del self._known[variant]
        return quantity.combine(values, self.frame)


class _Sums:
    """Weighted sums of the columns of a matrix by cell."""

    def __init__(self, cells: Cells, places: NDArray[np.int64]) -> None:
        codes, weights = cells.codes[places], cells.weights[places]
        order = np.arange(len(places))
        matrix = sparse.csr_matrix((weights, (codes, order)), (cells.count, len(places)))
        self.matrix = matrix if cells.count > _DENSE else matrix.toarray()

    def of(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sums, (draws, cells), of an array (draws, rows)."""
        return np.asarray(self.matrix @ values.T).T
