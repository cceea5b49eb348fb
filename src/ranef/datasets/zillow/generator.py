"""Generates two CSV files in Kaggle's schema from a model with known parameters.

    logerror = linear(area, bath, year) + bend(area, year) + zip effect + sigma t_nu

The bend is nonlinear and orthogonal to the linear part over the houses sold. So the coefficients of
a model without it have true values too.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranef.data.frame import Frame
from ranef.data.tables import from_arrays, write_csv
from ranef.datasets.zillow.preparation import PREDICTORS
from ranef.datasets.zillow.schema import COLUMNS
from ranef.numerics.shapes import Float, Int

# Number of zip codes.
ZIPS = 380
# Number of cities.
CITIES = 170
# Ids of the counties.
COUNTIES = (3101, 1286, 2061)
# Sd of the zip effects, in units of logerror.
SIGMA_ZIP = 0.02
# Scale of the Student-t noise, in units of logerror.
SIGMA = 0.05
# Its degrees of freedom.
NU = 2.5
# Linear part of logerror at the population means of the predictors.
INTERCEPT = 0.01
# Slopes of area, bathrooms and year, for each population sd.
SLOPES = (0.012, -0.006, 0.005)
# Sd of the nonlinear part, in units of logerror.
BEND = 0.015
# Mean and sd in the population of area in square feet, number of bathrooms and year.
POPULATION = ((1800.0, 850.0), (2.4, 0.9), (1968.0, 23.0))
# Parcels that are written at once.
_BATCH = 100_000


@dataclass(frozen=True)
class Truth:
    """The parameters that generated the sales.

    Attributes:
        intercept: where the unscaled predictors are zero.
        slopes: by predictor, for each unit of the unscaled predictor.
        zips: effects by zip code.
        sigma_zip: sd of the distribution of these effects.
        sigma: scale of the noise.
        nu: degrees of freedom of the noise.
    """

    intercept: float
    slopes: dict[str, float]
    zips: dict[str, float]
    sigma_zip: float
    sigma: float
    nu: float

    def scaled(self, scales: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Intercept and slopes for predictors that are scaled by these means and sds."""
        out = {"Intercept": self.intercept}
        for name, (mean, sd) in scales.items():
            out[name] = self.slopes[name] * sd
            out["Intercept"] += self.slopes[name] * mean
        return out


def generate(
    properties: str | os.PathLike,
    transactions: str | os.PathLike,
    sales: int = 30_000,
    seed: int = 0,
    parcels: int | None = None,
) -> Truth:
    """Write the two files and return the parameters that generated them.

    Args:
        properties: where to write the parcels; an existing file is replaced.
        transactions: where to write the sales.
        sales: number of sales; one in two hundred is of a parcel already sold.
        seed: of all random numbers.
        parcels: number of parcels; by default a tenth more than were sold.
    """
    rng = np.random.default_rng(seed)
    sold = max(2, sales - sales // 200)
    total = max(sold, parcels if parcels is not None else sold + sold // 10)
    weights = rng.dirichlet(np.full(ZIPS, 1.2))
    area, bath, year = _houses(rng, sold)
    region = _all_zips_once(rng, weights, sold)
    effects = rng.normal(0.0, SIGMA_ZIP, ZIPS)
    which = np.r_[np.arange(sold), rng.integers(0, sold, sales - sold)]
    houses = np.column_stack([area, bath, year])
    mean, slopes = _linear()
    noise = SIGMA * rng.standard_t(NU, len(which))
    signal = INTERCEPT + (houses - mean) @ slopes + _bend(houses)
    logerror = signal[which] + effects[region][which] + noise
    ids = 10_000_000 + rng.permutation(4 * total)[:total]

    def batches() -> Iterator[Frame]:
        for start in range(0, total, _BATCH):
            size = min(_BATCH, total - start)
            known = slice(start, min(start + size, sold))
            extra = size - max(0, known.stop - known.start)
            more = np.column_stack(_houses(rng, extra))
            own = np.vstack([houses[known], more]) if known.start < sold else more
            zips = np.r_[region[known], rng.choice(ZIPS, extra, p=weights)]
            yield _properties(rng, ids[start : start + size], own, zips)

    write_csv(properties, batches())
    dates = np.array(["2016-01-01"], dtype="datetime64[D]") + rng.integers(0, 366, len(which))
    order = rng.permutation(len(which))
    table = {
        "parcelid": ids[which][order],
        "logerror": np.round(logerror, 4)[order],
        "transactiondate": np.sort(dates).astype(str).astype(object),
    }
    write_csv(transactions, iter([from_arrays(table)]))
    names = _zip_names()
    return Truth(
        INTERCEPT - float(mean @ slopes),
        dict(zip(PREDICTORS, map(float, slopes), strict=True)),
        {str(names[z]): float(effects[z]) for z in range(ZIPS)},
        SIGMA_ZIP,
        SIGMA,
        NU,
    )


def _linear() -> tuple[Float[NDArray, "3"], Float[NDArray, "3"]]:
    """Population means of the predictors, and slopes for each unit of them."""
    mean, sd = np.array(POPULATION).T
    return mean, np.array(SLOPES) / sd


def _houses(rng: np.random.Generator, n: int) -> tuple[Float[NDArray, "n"], ...]:
    """Area, bathrooms and year of n houses: larger and newer houses have more bathrooms."""
    size, age = rng.normal(size=n), rng.normal(size=n)
    (area_mean, area_sd), _, (year_mean, year_sd) = POPULATION
    log_sd = np.sqrt(np.log1p((area_sd / area_mean) ** 2))
    area = np.round(area_mean * np.exp(log_sd * size - log_sd**2 / 2))
    bath = 0.5 * np.round(
        2 * np.clip(2.4 + 0.6 * size + 0.3 * age + 0.4 * rng.normal(size=n), 1, 9)
    )
    year = np.clip(np.round(year_mean + year_sd * (0.9 * age + 0.3 * size)), 1885, 2015)
    return np.maximum(area, 300.0), bath, year


def _bend(houses: Float[NDArray, "n 3"]) -> Float[NDArray, "n"]:
    """A smooth nonlinear function of area and year.

    Its sd is BEND, and it is orthogonal to a constant and to the predictors.
    """
    mean, sd = np.array(POPULATION).T
    z = (houses - mean) / sd
    bent = np.tanh(1.5 * z[:, 0]) * np.tanh(1.5 * z[:, 2]) + np.exp(-((z[:, 2] - 0.5) ** 2))
    basis = np.column_stack([np.ones(len(z)), z])
    bent -= basis @ np.linalg.lstsq(basis, bent, rcond=None)[0]
    return BEND * bent / max(float(bent.std()), 1e-12)


def _all_zips_once(
    rng: np.random.Generator, weights: Float[NDArray, "zips"], n: int
) -> Int[NDArray, "n"]:
    """The zip of each house, drawn by weight; all zips occur if there are enough houses."""
    zips = rng.choice(ZIPS, n, p=weights)
    if n > 4 * ZIPS:
        zips[rng.permutation(n)[:ZIPS]] = np.arange(ZIPS)
    return zips


def _zip_names() -> Int[NDArray, "zips"]:
    """The zip codes."""
    return 95_982 + 2 * np.arange(ZIPS)


def _properties(
    rng: np.random.Generator,
    ids: Int[NDArray, "n"],
    houses: Float[NDArray, "n 3"],
    zips: Int[NDArray, "n"],
) -> Frame:
    """A batch of the properties file, with plausible values in the columns that models ignore."""
    n = len(ids)
    area, bath, year = houses.T
    city = (zips * 7) % CITIES
    county = np.asarray(COUNTIES)[zips % 3]
    building = np.round(60 * area * np.exp(0.4 * rng.normal(size=n)))
    land = np.round(building * np.exp(0.8 * rng.normal(size=n)))
    tract = 6.037e13 + 1e4 * zips + rng.integers(0, 900, n)
    known: dict[str, NDArray] = {
        "parcelid": ids,
        "bathroomcnt": bath,
        "bedroomcnt": np.clip(np.round(bath + rng.normal(0.7, 0.8, n)), 0, 12),
        "calculatedbathnbr": bath,
        "fullbathcnt": np.floor(bath),
        "calculatedfinishedsquarefeet": area,
        "finishedsquarefeet12": area,
        "fips": 6037.0 + 22.0 * (zips % 3),
        "latitude": np.round(3.4e7 + 3e5 * rng.normal(size=n)),
        "longitude": np.round(-1.182e8 + 3e5 * rng.normal(size=n)),
        "lotsizesquarefeet": np.round(7000 * np.exp(0.6 * rng.normal(size=n))),
        "propertycountylandusecode": rng.choice(np.array(["0100", "122", "010C", "34"], object), n),
        "propertylandusetypeid": rng.choice([261.0, 266.0, 246.0], n, p=[0.7, 0.25, 0.05]),
        "propertyzoningdesc": rng.choice(np.array(["LAR1", "LARS", "PSR6"], dtype=object), n),
        "rawcensustractandblock": tract / 1e6,
        "censustractandblock": tract,
        "regionidcity": 5_000.0 + city,
        "regionidcounty": county.astype(float),
        "regionidzip": _zip_names()[zips].astype(float),
        "yearbuilt": year,
        "structuretaxvaluedollarcnt": building,
        "landtaxvaluedollarcnt": land,
        "taxvaluedollarcnt": building + land,
        "taxamount": np.round(0.0125 * (building + land), 2),
        "assessmentyear": np.full(n, 2015.0),
        "hashottuborspa": np.full(n, "True", dtype=object),
        "fireplaceflag": np.full(n, "True", dtype=object),
        "taxdelinquencyflag": np.full(n, "Y", dtype=object),
    }
    table = {}
    for column in COLUMNS:
        values = known.get(column.kaggle)
        if values is None:
            values = rng.integers(1, 9, n).astype(float)
        gone = rng.random(n) < column.null_share
        table[column.kaggle] = np.ma.masked_array(values, gone) if gone.any() else values
    return from_arrays(table)
