"""Prepares the Zillow Prize data from Kaggle's two files as the 2017 post did.

Sales are joined to their parcels. Columns with a quarter of nulls or more are dropped, and then
rows with a null in any of the other columns. Three predictors and the region ids are chosen. Half
of the rows are for training, and predictors are scaled to mean 0 and sd 1 over these.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.tables import concatenate, read, scan_csv
from ranef.datasets.zillow.schema import READABLE
from ranef.errors import ColumnError, DataError
from ranef.numerics.shapes import Bool, Float, Shaped

RESPONSE = "logerror"
PREDICTORS = ("area_live_finished", "num_bathroom", "build_year")
REGIONS = ("zip", "city", "county")
# Share of nulls from which a column is dropped.
NULL_LIMIT = 0.25


@dataclass(frozen=True)
class Sales:
    """The prepared table and how it was made.

    Attributes:
        columns: logerror, the scaled predictors, and zip, city and county as texts.
        train: True for the rows to fit; the others are for validation.
        read: number of sales in the file.
        joined: number of sales whose parcel was found.
        kept: readable names of the columns with few nulls.
        dropped: shares of nulls of the other columns, by readable name.
        correlations: Pearson correlation of each numeric column with logerror, in order of
            decreasing absolute value.
        scales: mean and sd of each predictor over the training rows.
        gaps: the sales that were dropped because of a null in some column but have a zip code:
            logerror, the scaled predictors, NaN where missing, and zip.
    """

    columns: Mapping[str, Shaped[NDArray, "n"]]
    train: Bool[NDArray, "n"]
    read: int
    joined: int
    kept: tuple[str, ...]
    dropped: Mapping[str, float]
    correlations: Mapping[str, float]
    scales: Mapping[str, tuple[float, float]]
    gaps: Mapping[str, Shaped[NDArray, "gaps"]]

    @property
    def n(self) -> int:
        """The number of complete sales."""
        return len(self.train)

    def part(self, training: bool) -> dict[str, Shaped[NDArray, "rows"]]:
        """The training or the validation rows."""
        rows = self.train == training
        return {name: values[rows] for name, values in self.columns.items()}


def prepare(
    properties: str | os.PathLike,
    transactions: str | os.PathLike,
    rows: int | None = None,
    seed: int = 0,
) -> Sales:
    """Read and prepare the two files; the properties file is read in batches.

    Args:
        properties: Kaggle's properties_2016.csv.
        transactions: Kaggle's train_2016_v2.csv.
        rows: number of sales to use, from the first; None for all.
        seed: of the split into training and validation rows.

    Raises:
        FileError: if a file cannot be read.
        ColumnError: if a column is not in its file.
        DataError: if the values cannot be used.
    """
    sales = read(transactions, ["parcelid", RESPONSE])
    if sales.n == 0:
        raise DataError(f"{sales.source} has no sales in it")
    if rows is not None:
        sales = sales.keep(np.arange(sales.n) < rows)
    found = _parcels_sold(properties, sales)
    joined, logerror = _join(sales, found)
    kept, dropped = _columns_with_few_nulls(joined)
    whole = np.ones(joined.n, dtype=bool)
    for name in kept:
        whole &= ~joined.is_missing(name)
    needed = [name for name in (*PREDICTORS, *REGIONS) if name not in kept]
    if needed:
        raise DataError(
            f"{needed[0]!r} is missing in a quarter of the sales or more and cannot be used; "
            "check the properties file"
        )
    if whole.sum() < 4:
        raise DataError(f"only {int(whole.sum())} sales have a value in every column kept")
    table, response = joined.keep(whole), logerror[whole]
    train = np.zeros(table.n, dtype=bool)
    train[np.random.default_rng(seed).permutation(table.n)[: table.n // 2]] = True
    columns: dict[str, NDArray] = {RESPONSE: response}
    # The models of sales with gaps use only the zip code of the regions.
    left_out = ~whole & ~joined.is_missing("zip")
    others = joined.keep(left_out)
    gaps: dict[str, NDArray] = {RESPONSE: logerror[left_out]}
    scales = {}
    for name in PREDICTORS:
        values = table.numbers(name)
        mean, sd = values[train].mean(), values[train].std()
        if sd == 0:
            raise DataError(
                f"{name!r} is the same in all {int(train.sum())} training sales and cannot be "
                "scaled; use more rows"
            )
        columns[name], scales[name] = (values - mean) / sd, (float(mean), float(sd))
        gaps[name] = (others.numbers(name) - mean) / sd
    for name in REGIONS:
        columns[name] = _whole_ids(table, name)
    gaps["zip"] = _whole_ids(others, "zip")
    correlations = _correlations(table, kept, response)
    return Sales(columns, train, sales.n, joined.n, kept, dropped, correlations, scales, gaps)


def _parcels_sold(properties: str | os.PathLike, sales: Frame) -> Frame:
    """The parcels that were sold, with the readable names of their columns."""
    sold = list(sales.levels("parcelid").names)
    parts = [batch.where("parcelid", sold) for batch in scan_csv(properties)]
    if not parts:
        raise DataError(f"{str(properties)!r} has no parcels in it")
    missing = [name for name in READABLE if name not in parts[0].columns]
    if missing:
        raise ColumnError(
            f"column {missing[0]!r} is not in {str(properties)!r}; expected Kaggle's "
            "properties_2016.csv with its 58 columns"
        )
    return concatenate(parts).rename(READABLE)


def _join(sales: Frame, parcels: Frame) -> tuple[Frame, Float[NDArray, "n"]]:
    """The parcel of each sale whose parcel is known, and the sale's logerror."""
    logerror = sales.numbers(RESPONSE)
    bad = ~np.isfinite(logerror)
    if bad.any():
        raise DataError(
            f"{RESPONSE!r} is missing or not finite in {int(bad.sum()):,} sales, the first of them "
            f"row {int(np.argmax(bad)) + 1} of {sales.source}; remove them"
        )
    ids = sales.levels("parcelid")
    there = parcels.levels("id_parcel")
    row_of = dict(zip(there.names[there.codes], range(parcels.n), strict=True))
    place = np.array([*(row_of.get(name, -1) for name in ids.names), -1])[ids.codes]
    if (place < 0).all():
        raise DataError(
            f"{sales.source} and {parcels.source} share no parcel; check that they are of the "
            "same year"
        )
    return parcels.take(place[place >= 0]), logerror[place >= 0]


def _columns_with_few_nulls(joined: Frame) -> tuple[tuple[str, ...], dict[str, float]]:
    """Names of the columns to keep, and the shares of nulls of the others."""
    shares = {name: float(joined.is_missing(name).mean()) for name in joined.columns}
    kept = tuple(name for name, share in shares.items() if share < NULL_LIMIT)
    return kept, {name: share for name, share in shares.items() if share >= NULL_LIMIT}


def _correlations(
    table: Frame, kept: tuple[str, ...], response: Float[NDArray, "n"]
) -> dict[str, float]:
    out = {}
    for name in kept:
        if name == "id_parcel" or table.is_text(name):
            continue
        values = table.numbers(name)
        if values.std() > 0:
            out[name] = float(np.corrcoef(values, response)[0, 1])
    return dict(sorted(out.items(), key=lambda item: -abs(item[1])))


def _whole_ids(table: Frame, name: str) -> Shaped[NDArray, "n"]:
    """Region ids as texts without the decimals that Kaggle gives them, as in "96370.0"."""
    found = table.levels(name)
    return np.array([n.removesuffix(".0") for n in found.names], dtype=object)[found.codes]
