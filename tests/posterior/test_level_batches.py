"""Batches of rows, and rows coded among the levels that occur."""

import numpy as np
import pytest

from ranef.posterior.level_batches import LevelSubset, batches, level_key, pad_subsets
from ranef.terms.base import Design

RNG = np.random.default_rng(0)
ONE, OTHER = RNG.integers(0, 40, 500), RNG.integers(0, 9, 500)


@pytest.mark.parametrize("most", [1, 4, 9, 39])
def test_batches_hold_every_row_once_and_few_levels(most):
    found = batches([ONE, OTHER], 500, most)
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(500))
    for rows in found:
        assert max(len(np.unique(codes[rows])) for codes in (ONE, OTHER)) <= most


@pytest.mark.parametrize(("codes", "most"), [([ONE, OTHER], 40), ([], 1), ([ONE], 500)])
def test_rows_stay_in_order_where_their_levels_are_few(codes, most):
    (rows,) = batches(codes, 500, most)
    np.testing.assert_array_equal(rows, np.arange(500))


def test_recoded_rows_have_the_levels_that_they_had():
    """Of 30 levels that training saw; those from 30 on are new."""
    met = [{"g": LevelSubset.of(ONE[rows], 30)} for rows in batches([ONE], 500, 7)]
    padded = pad_subsets(met)
    assert len({(len(b["g"].known), len(b["g"].new)) for b in padded}) == 1
    for rows, batch in zip(batches([ONE], 500, 7), padded, strict=True):
        found = batch["g"].recoded(Design({"codes": ONE[rows]}))
        levels = np.concatenate([batch["g"].known, 30 + batch["g"].new])
        np.testing.assert_array_equal(levels[found.arrays["codes"]], ONE[rows])


def test_a_level_has_one_number():
    assert level_key("a") == level_key("a") < 2**64
    assert len({level_key(str(i)) for i in range(10_000)}) == 10_000
