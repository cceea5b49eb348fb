"""Base class of the families whose response is a category."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.errors import DataError, OptionError
from ranef.families import responses
from ranef.families.base import Family
from ranef.families.response_design import ResponseDesign
from ranef.families.row_density import PerRow
from ranef.families.state import FamilyState, ResponseScan
from ranef.formula.expression import Column
from ranef.formula.response import ResponseCall
from ranef.lazy import Array, jnp
from ranef.numerics.shapes import Float


class Categories(Family):
    """A response of K categories, numbered 1, ..., K.

    Their order is the one that the column declares, or else the sorted order.

    Attributes:
        categories: names of the categories in order; empty before `bind`.
    """

    text = True
    discrete = True
    categorised = True
    categories: tuple[str, ...] = ()

    def __init__(self, response: ResponseCall) -> None:
        super().__init__(response)
        if not isinstance(response.value, Column):
            raise OptionError(
                f"the family {self.name} takes a column of categories for its response, not "
                f"{response.value}"
            )

    @property
    def _column(self) -> Column:
        assert isinstance(self.response.value, Column)
        return self.response.value

    def scan(self, accumulator: ResponseScan | None, frame: Frame) -> ResponseScan:
        """The accumulator with the categories of one more batch and their numbers of rows.

        Raises:
            DataError: for numbers that are not whole, and for more than 100 categories.
        """
        seen = accumulator or ResponseScan()
        counts = dict(seen.counts)
        name = self._column.name
        if frame.is_text(name):
            frame.refuse_stray_texts(name)
        else:
            values = frame.numbers(name)
            inside = values == np.floor(values)
            expected = "whole numbers or texts"
            responses.refuse_outside(values, inside, frame, name, self.name, expected)
        found = frame.levels(name)
        rows = np.bincount(found.codes[found.codes >= 0], minlength=len(found.names))
        for level, count in zip(found.names.tolist(), rows.tolist(), strict=True):
            if count:
                counts[level] = counts.get(level, 0) + count
        if len(counts) > responses.MOST_CATEGORIES:
            raise DataError(
                f"the response {name} has more than {responses.MOST_CATEGORIES} distinct values, "
                f"too many for categories of the family {self.name}; choose another family"
            )
        return replace(seen, levels=seen.levels.add(found), counts=counts)

    def counted(self, accumulator: ResponseScan, *, least: int) -> FamilyState:
        """The state with the categories and their shares, after `scan` of all batches.

        Args:
            accumulator: the last value of `scan`.
            least: smallest number of categories that the family accepts.

        Raises:
            DataError: for fewer categories than that.
        """
        counts, names = accumulator.counts, accumulator.levels.ordered()
        if len(names) < least:
            raise DataError(
                f"the response {self.response.value} has one category, {names[0]!r}, and the "
                f"family {self.name} needs at least {least}; check the rows"
            )
        total = sum(counts.values())
        shares = tuple(counts[name] / total for name in names)
        return FamilyState({}, Scale(0.0, 1.0), names, shares)

    def evaluated(self, state: FamilyState, frame: Frame) -> PerRow:
        """The number 1, ..., K of each row's category."""
        return 1.0 + responses.places(self._column, state.categories, frame, self.name)

    @abstractmethod
    def shares_of(self, parameters: Mapping[str, Array]) -> Float[Array, "*n k"]:
        """Probability of each category, given parameters on their own scale."""

    def probabilities(self, **parameters: Array) -> dict[str, Array]:
        each = self.shares_of(parameters)
        return {name: each[..., k] for k, name in enumerate(self.categories)}

    def sample(
        self, rng: np.random.Generator, response: ResponseDesign, **parameters: Array
    ) -> NDArray:
        """Categories by inversion of the cumulative probabilities at uniform variates."""
        reached = np.cumsum(np.asarray(self.shares_of(parameters), np.float64), axis=-1)[..., :-1]
        return 1.0 + (rng.random(reached.shape[:-1])[..., None] > reached).sum(axis=-1)

    def mean(self, response: ResponseDesign, **parameters: Array) -> Array:
        """Mean of the categories' numbers, sum_k k P(y = k)."""
        each = self.shares_of(parameters)
        return each @ jnp.arange(1.0, each.shape[-1] + 1)

    def variance(self, response: ResponseDesign, **parameters: Array) -> Array:
        """Variance of the categories' numbers."""
        each = self.shares_of(parameters)
        numbers = jnp.arange(1.0, each.shape[-1] + 1)
        return each @ numbers**2 - (each @ numbers) ** 2
