"""Predictions of several fits together: a mixture of their predictive distributions."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from ranef.comparison import Comparison, compare
from ranef.data.row_labels import ByRow, Labels, Table
from ranef.errors import DataError, OptionError, whole_number
from ranef.fit import Fit
from ranef.lazy import jax, xr
from ranef.names import NewLevels
from ranef.numerics.shapes import Float
from ranef.posterior.new_rows import Groups, limited_program, naming_column, read_new_rows
from ranef.posterior.posterior import tails_of
from ranef.posterior.predictive import Predictive
from ranef.terms.base import RunOptions, clean_name

# Weight below which a fit is left out of predictions; it would change no digit that is shown.
_LEAST = 1e-6
# Largest number of draws x rows of all fits together that is held at once.
_CELLS = 4_000_000

# Draws of the response, or of its mean, for each row.
Matrix = Float[NDArray[np.float64], "draws rows"]


def stack(
    fits: Mapping[str, Fit],
    group: str | None = None,
    *,
    data: object = None,
    folds: int | str | ArrayLike | None = None,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
) -> "StackedFits":
    """Stack fits: predict by a mixture of their predictive distributions.

        p(y | x) = sum_m w_m p_m(y | x)

    The weights w are those of `compare`, which maximise the score of the mixture on responses
    that the fits have not seen (Yao, Vehtari, Simpson and Gelman, 2018). A mixture predicts at
    least as well as the best of the fits on these responses.

    Args:
        fits: name to fit; two or more fits of the same response.
        group: as for `compare`.
        data: as for `compare`.
        folds: as for `compare`.
        weights: name to weight, in place of those of `compare`, such as the column `weight` of
            its table; they are divided by their sum.
        seed: seed for whatever is sampled.

    Returns:
        The mixture, with `weights`, `predict`, `predictive` and `log_score`.

    Raises:
        OptionError: for weights that are not numbers of at least zero, one for each fit, and
            otherwise as `compare`.
        ColumnError, DataError: as `compare`.
    """
    if not isinstance(fits, Mapping) or not all(isinstance(f, Fit) for f in fits.values()):
        raise OptionError('stack takes fits by name, as in {"a": fit, "b": other}')
    if weights is None:
        table = compare(fits, group, data=data, folds=folds, seed=seed)
        found = pd.Series(table["weight"]).reindex(list(fits))
        return StackedFits(dict(fits), found, table)
    if group is not None or data is not None or folds is not None:
        raise OptionError("stack takes weights=, or group=, data= or folds= to find them, not both")
    given = pd.Series(weights, dtype=object)
    if set(given.index) != set(fits):
        raise OptionError(
            f"weights must have one number for each fit, {', '.join(map(repr, fits))}"
        )
    try:
        own = given.astype(float).reindex(list(fits))
    except (TypeError, ValueError):
        own = pd.Series(np.nan, list(fits))
    if not (np.isfinite(own).all() and (own >= 0).all() and own.sum() > 0):
        raise OptionError("weights must be numbers of at least zero, of which one is above zero")
    return StackedFits(dict(fits), (own / own.sum()).rename("weight").rename_axis("fit"))


@dataclass(frozen=True, repr=False)
class StackedFits:
    """A mixture of the predictive distributions of several fits, as returned by `stack`.

    Attributes:
        fits: name to fit.
        weights: the weight of each fit, a pandas Series that sums to one.
        comparison: the table of `compare` from which the weights are; None if they were given.
    """

    fits: Mapping[str, Fit]
    weights: pd.Series
    comparison: Comparison | None = None

    def __post_init__(self) -> None:
        responses = {name: str(f.program.formula.response) for name, f in self.fits.items()}
        if len(set(responses.values())) > 1:
            listed = ", ".join(f"{response} of {name!r}" for name, response in responses.items())
            raise DataError(f"fits of different responses cannot be stacked: {listed}")

    def __repr__(self) -> str:
        listed = ", ".join(f"{name} {weight:.3f}" for name, weight in self.weights.items())
        return f"<ranef.StackedFits with the weights {listed}>"

    def predict(
        self,
        data: object,
        kind: str = "mean",
        interval: float = 0.9,
        new_levels: NewLevels = "error",
        seed: int = 0,
        groups: Groups = "all",
    ) -> Table:
        """Predictions of the mixture for the rows of `data`, as `Fit.predict` gives those of a fit.

            mean = sum_m w_m mean_m,   sd^2 = sum_m w_m (sd_m^2 + (mean_m - mean)^2)

        Args:
            data: a table or path, with the columns of all fits.
            kind: "mean" for the mean of the response, "response" for a new response.
            interval: probability of the central interval.
            new_levels: as for `Fit.predict`.
            seed: seed for whatever is sampled.
            groups: as for `Fit.predict`; every fit has to have the groupings that are named.

        Returns:
            A table with one row for each row of `data`, and the columns mean, sd, lower and upper.
            The last two are quantiles of the draws of all fits, weighted by the weights of the
            fits. For ordinal and categorical responses there is a column `p[c]` for the
            probability of each category.

        Raises:
            RanefError: as `Fit.predict`.
        """
        if kind not in ("mean", "response"):
            raise OptionError(f"kind must be 'mean' or 'response', not {kind!r}")
        tails = tails_of(interval)
        used = self._used()
        shared = {"new_levels": new_levels, "seed": seed, "groups": groups}
        tables = {
            name: self.fits[name].predict(data, kind=kind, interval=interval, **shared)
            for name in used
        }
        columns = [c for c in next(iter(tables.values())).columns if c not in ("lower", "upper")]
        each = {
            c: np.stack([np.asarray(t[c], np.float64) for t in tables.values()]) for c in columns
        }
        weights = np.array(list(used.values()))
        found = {c: weights @ values for c, values in each.items() if c != "sd"}
        spread = each["sd"] ** 2 + (each["mean"] - found["mean"]) ** 2
        drawn = [
            _Rows.of(self.fits[name], data, kind, new_levels, seed + i, groups)
            for i, name in enumerate(used)
        ]
        lower, upper = _quantiles(drawn, weights, tails)
        others = {c: values for c, values in found.items() if c != "mean"}
        sd = np.sqrt(weights @ spread)
        out = {"mean": found["mean"], "sd": sd, "lower": lower, "upper": upper, **others}
        return drawn[0].labels.table(out)

    def predictive(
        self,
        data: object,
        draws: int = 1000,
        new_levels: NewLevels = "error",
        seed: int = 0,
        groups: Groups = "all",
    ) -> xr.DataArray:
        """Draws of new responses from the mixture.

        Each fit gives a number of draws in proportion to its weight, in random order.

        Args:
            data: a table or path, with the columns of all fits.
            draws: number of draws.
            new_levels: as for `Fit.predict`.
            seed: seed for whatever is sampled.
            groups: as for `Fit.predict`.

        Returns:
            An xarray DataArray with the dimensions chain (one), draw and row.

        Raises:
            RanefError: as `Fit.predict`.
        """
        size, seed = whole_number("draws", draws, least=1), whole_number("seed", seed, least=0)
        used = self._used()
        counts = _shares(np.array(list(used.values())), size)
        rng = np.random.default_rng(seed)
        parts, labels, n = [], Labels(), 0
        for i, (name, count) in enumerate(zip(used, counts, strict=True)):
            rows = _Rows.of(
                self.fits[name], data, "response", new_levels, seed + i, groups, max(1, int(count))
            )
            labels, n = rows.labels, rows.n
            if count:
                whole = rows.draws(np.arange(n))
                parts.append(whole[rng.choice(len(whole), count, replace=count > len(whole))])
        values = np.concatenate(parts)[rng.permutation(size)]
        index = labels.index
        row = np.arange(n) if index is None or isinstance(index, pd.MultiIndex) else index
        name = clean_name(str(next(iter(self.fits.values())).program.formula.response))
        coords = {"chain": [0], "draw": np.arange(size), "row": row}
        return xr.DataArray(values[None], coords, ("chain", "draw", "row"), name)

    def log_score(
        self, data: object, new_levels: NewLevels = "error", seed: int = 0, groups: Groups = "all"
    ) -> ByRow:
        """Log predictive density of each row's response, log sum_m w_m p_m(y_i), in nats.

        Args:
            data: a table or path, with the response and the columns of all fits.
            new_levels: as for `Fit.predict`.
            seed: seed for the effects of new levels.
            groups: as for `Fit.predict`.

        Returns:
            The log densities, as `Fit.log_score` returns them.

        Raises:
            RanefError: as `Fit.log_score`.
        """
        used = self._used()
        each: list[Any] = [
            self.fits[name].log_score(data, new_levels=new_levels, seed=seed, groups=groups)
            for name in used
        ]
        weights = np.array(list(used.values()))[:, None]
        total: NDArray[np.float64] = np.asarray(
            logsumexp(np.stack([np.asarray(e) for e in each]), axis=0, b=weights)
        )
        first = each[0]
        if isinstance(first, np.ndarray):
            return total
        if isinstance(first, pd.Series):
            return pd.Series(total, first.index, name=first.name)
        polars_series: Any = type(first)
        return polars_series(first.name, total)

    def _used(self) -> dict[str, float]:
        """The fits that predict, with their weights, which sum to one."""
        each = np.asarray(self.weights[list(self.fits)], np.float64).tolist()
        kept = dict(zip(self.fits, each, strict=True))
        kept = {name: weight for name, weight in kept.items() if weight > _LEAST}
        total = sum(kept.values())
        return {name: weight / total for name, weight in kept.items()}


@dataclass(frozen=True)
class _Rows:
    """Rows that one fit predicts, a chunk of them at a time.

    Attributes:
        labels: the labels of the rows.
        n: their number.
        size: number of draws.
        draws: function from the places of some rows to draws of them.
    """

    labels: Labels
    n: int
    size: int
    draws: Callable[[NDArray[np.int64]], Matrix]

    @classmethod
    def of(
        cls,
        fit: Fit,
        data: object,
        kind: str,
        new_levels: str,
        seed: int,
        groups: Groups,
        most: int | None = None,
    ) -> "_Rows":
        """The rows of `data` for a fit, whose means or responses are to be drawn.

        Args:
            fit: the fit.
            data: a table or path.
            kind: "mean" or "response".
            new_levels: as for `Fit.predict`.
            seed: seed for whatever is sampled.
            groups: as for `Fit.predict`.
            most: largest number of draws, evenly spaced; None for all.
        """
        posterior, family = fit._known, fit.program.family
        program = limited_program(posterior, groups)
        beside = kind != "mean"
        frame, designs = read_new_rows(
            posterior, data, new_levels, response=False, companion=beside, program=program
        )
        response = family.design(fit.training.state.family, frame, known=False, beside=beside)
        predictive, size = fit._predictive(new_levels, seed, program), math.prod(fit.draws.shape)
        if most is not None and most < size:
            run = RunOptions(training=False, new_levels=new_levels)
            state, size = fit.training.state, most
            predictive = Predictive(program, state, fit.draws.thinned(most), run, seed)

        def draws(places: NDArray[np.int64]) -> Matrix:
            own = jax.tree.map(lambda a: a[places], (designs, response))
            draw = predictive.responses if beside else predictive.locations
            with naming_column(posterior, frame):
                return draw(own[0], own[1], len(places))

        return cls(frame.labels, frame.n, size, draws)

    def chunks(self, size: int) -> list[NDArray[np.int64]]:
        """Places of the rows, as many at a time as memory holds beside `size` draws of others."""
        step = max(1, _CELLS // size)
        return [np.arange(i, min(i + step, self.n)) for i in range(0, self.n, step)]


def _quantiles(
    rows: list[_Rows], weights: Float[NDArray, "fits"], tails: tuple[float, float]
) -> tuple[Float[NDArray, "n"], Float[NDArray, "n"]]:
    """Quantiles of each row over the draws of all fits, each fit with its weight."""
    out = np.empty((2, rows[0].n))
    for places in rows[0].chunks(sum(own.size for own in rows)):
        parts = [own.draws(places) for own in rows]
        sizes = [len(part) for part in parts]
        drawn, each = np.concatenate(parts), np.repeat(weights / np.array(sizes), sizes)
        order = np.argsort(drawn, axis=0)
        sorted_, at = np.take_along_axis(drawn, order, axis=0), each[order]
        # The middle of each draw's step of the distribution function, as np.quantile has it.
        below = np.cumsum(at, axis=0) - at / 2
        for i, tail in enumerate(tails):
            last = len(drawn) - 1
            high = np.clip((below < tail).sum(axis=0), 1, last)[None]
            x0, x1 = (np.take_along_axis(sorted_, h, axis=0)[0] for h in (high - 1, high))
            p0, p1 = (np.take_along_axis(below, h, axis=0)[0] for h in (high - 1, high))
            share = np.clip((tail - p0) / np.where(p1 > p0, p1 - p0, 1.0), 0.0, 1.0)
            out[i, places] = x0 + share * (x1 - x0)
    return out[0], out[1]


def _shares(weights: Float[NDArray, "fits"], size: int) -> NDArray[np.int64]:
    """Whole numbers in proportion to the weights that sum to `size`, by largest remainders."""
    exact = weights * size
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: size - counts.sum()]] += 1
    return counts
