"""Simulates small tables for the models that the post left as future work."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SimulatedTable:
    """A simulated table with the values that generated it.

    Attributes:
        rows: the columns of the table to fit, by name.
        truth: the true values, arrays by name. The function that makes the table lists them.
        more: columns of rows to predict, by name.
    """

    rows: dict[str, NDArray]
    truth: Mapping[str, NDArray]
    more: dict[str, NDArray] = field(default_factory=dict)


def houses(rows: int = 1_000, seed: int = 0) -> SimulatedTable:
    """Prices by area and age; about 30% of the areas are missing, mostly of expensive houses.

    price = 1 + 1.5 area - .5 age + N(0, 1), area = .5 - .6 age + N(0, 1). The log odds that an area
    is missing are price - 3. True values: the slope "area", and all areas, "areas" (rows,).
    """
    rng = np.random.default_rng([seed, 0])
    age = rng.normal(size=rows)
    area = 0.5 - 0.6 * age + rng.normal(size=rows)
    price = 1 + 1.5 * area - 0.5 * age + rng.normal(size=rows)
    hidden = rng.random(rows) < 1 / (1 + np.exp(3 - price))
    table = {"price": price, "area": np.where(hidden, np.nan, area), "age": age}
    return SimulatedTable(table, {"area": np.array(1.5), "areas": area})


def slopes(districts: int = 12, seed: int = 0) -> SimulatedTable:
    """Prices by area in districts of 3 to 30 houses, with varying intercepts and slopes.

    price = 2 + a_j + (1 + b_j) area + noise of sd .5. The effects a and b have sds .6 and .5 and
    correlation .5. True values: "intercept", 2 + a_j, and "slope", 1 + b_j, (districts,) each, in
    the order d0, d1 and so on.
    """
    rng = np.random.default_rng([seed, 1])
    lower = np.linalg.cholesky([[0.36, 0.15], [0.15, 0.25]])
    effects = rng.normal(size=(districts, 2)) @ lower.T + [2.0, 1.0]
    codes = np.repeat(np.arange(districts), np.linspace(3, 30, districts).astype(int))
    area = rng.normal(size=len(codes))
    price = effects[codes, 0] + effects[codes, 1] * area + rng.normal(0, 0.5, len(codes))
    table = {"price": price, "area": area, "district": np.char.add("d", codes.astype(str))}
    return SimulatedTable(table, {"intercept": effects[:, 0], "slope": effects[:, 1]})


def gap(rows: int = 300, seed: int = 0) -> SimulatedTable:
    """A function of x from -2 to 2 without rows between -.6 and .6.

    y = sin(3 x) + x / 2 + noise of sd .15. Rows to predict: a grid of x from -3 to 3. True values:
    the function "f" on the grid.
    """
    rng = np.random.default_rng([seed, 2])
    x = rng.uniform(0.6, 2, rows) * np.where(np.arange(rows) % 2, 1, -1)
    grid = np.linspace(-3, 3, 241)
    y = np.sin(3 * x) + x / 2 + rng.normal(0, 0.15, rows)
    return SimulatedTable({"x": x, "y": y}, {"f": np.sin(3 * grid) + grid / 2}, {"x": grid})


def market(rows: int = 300, seed: int = 0) -> SimulatedTable:
    """An index by day whose mean and sd both vary.

    The mean is 8 exp(-((day - 4) / 1.5)^2) - 3 exp(-(day - 7)^2), and the sd exp(-1.5 + .25 day).
    Rows to predict: a grid of days. True values: "mean" and "sd" on the grid.
    """
    rng = np.random.default_rng([seed, 3])

    def level(day: NDArray) -> NDArray:
        return 8 * np.exp(-(((day - 4) / 1.5) ** 2)) - 3 * np.exp(-((day - 7) ** 2))

    day, grid = np.sort(rng.uniform(0, 10, rows)), np.linspace(0, 10, 201)
    index = level(day) + np.exp(-1.5 + 0.25 * day) * rng.normal(size=rows)
    truth = {"mean": level(grid), "sd": np.exp(-1.5 + 0.25 * grid)}
    return SimulatedTable({"day": day, "index": index}, truth, {"day": grid})


def offers(rows: int = 600, seed: int = 0) -> SimulatedTable:
    """Days until a house is sold: a mixture of two kinds of sale.

    The kinds have means 25 + 2 price and 50 - 2 price and sds 5 and 9. The log odds of the second
    kind are -.5 + price. True values: "second", (rows,), whether a sale is of the second kind.
    """
    rng = np.random.default_rng([seed, 4])
    price = rng.normal(size=rows)
    second = rng.random(rows) < 1 / (1 + np.exp(0.5 - price))
    mean = np.where(second, 50 - 2 * price, 25 + 2 * price)
    days = mean + np.where(second, 9, 5) * rng.normal(size=rows)
    return SimulatedTable({"days": days, "price": price}, {"second": second})


def ratings(
    users: int = 300, items: int = 200, each: int = 40, rank: int = 2, seed: int = 0
) -> SimulatedTable:
    """Ratings of `each` items by each user, from intercepts and factors.

    The rating of item j by user i is 3 + u_i + v_j + p_i . q_j + noise of sd .5. The intercepts u
    and v have sd .5. The k-th component of p has sd .7^(k - 1), and that of q has sd 1. Rows to
    predict: ten further items of each user. True values: the "mean" of these.
    """
    rng = np.random.default_rng([seed, 5])
    own, other = rng.normal(0, 0.5, users), rng.normal(0, 0.5, items)
    left = rng.normal(size=(users, rank)) * 0.7 ** np.arange(rank)
    mean = 3 + own[:, None] + other + left @ rng.normal(size=(items, rank)).T
    chosen = np.argsort(rng.random((users, items)), axis=1)[:, : each + 10]
    seen, unseen = chosen[:, :each], chosen[:, each:]

    def pairs(columns: NDArray) -> tuple[NDArray, NDArray]:
        return np.repeat(np.arange(users), columns.shape[1]), columns.ravel()

    (i, j), (k, m) = pairs(seen), pairs(unseen)
    table = {"user": i, "item": j, "rating": mean[i, j] + rng.normal(0, 0.5, len(i))}
    return SimulatedTable(table, {"mean": mean[k, m]}, {"user": k, "item": m})
