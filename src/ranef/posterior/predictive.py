"""Computes posterior predictions of any rows: means, responses and log densities.

They follow from the family and from the predictors that the model's own program returns at every
draw (`ranef.posterior.program_replay`). Predictions thus never use a second implementation of the
model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ranef.families.response_design import ResponseDesign
from ranef.lazy import jax, xr
from ranef.numerics.blas_threads import side_by_side
from ranef.numerics.shapes import Float, Shaped
from ranef.posterior.predictive_distribution import PredictiveDistribution
from ranef.posterior.program_replay import Matrix, ProgramReplay, RowChunk, refuse_out_of_reach
from ranef.program.training import Designs

# A number for each of all n rows, or of the rows of a chunk.
Vector = Float[NDArray[np.float64], "n"]
# Arrays by name, with the rows first.
ByRow = dict[str, Shaped[NDArray, "n ..."]]
# A number for each row.
Means = Float[NDArray[np.float64], "rows"]

# exp(x) is neither zero nor infinite for |x| up to this.
_LARGEST_EXPONENT = 700.0
# Rows whose quantiles one core computes at a time.
_STRIPE = 500


@dataclass(frozen=True)
class Predictive(ProgramReplay):
    """Predictions of a fitted model on any rows, for every posterior draw."""

    def summaries(
        self,
        designs: Designs,
        response: ResponseDesign,
        n: int,
        kind: str,
        interval: float,
        quantiles: Sequence[float] = (),
    ) -> dict[str, Vector]:
        """Posterior mean, sd and central interval of each row's mean or response.

        The sd of a response is the root of Var(mean) + E[Var(response | draw)] over draws; its
        interval is that of sampled responses. Its further quantiles are those of the predictive
        distribution, without sampling (`ranef.posterior.predictive_distribution`).

        Args:
            designs: the designs of the rows.
            response: their response design.
            n: number of rows.
            kind: "mean" or "response".
            interval: probability of the central interval.
            quantiles: probabilities of further quantiles.

        Returns:
            mean, sd, lower and upper, and ``q[p]`` for each of `quantiles`. For a family with
            categories also ``p[c]``, the posterior mean of the probability of category c.
        """
        family = self.program.family
        tails = [(1 - interval) / 2, (1 + interval) / 2]
        rng = np.random.default_rng(self.seed)

        def describe(chunk: RowChunk) -> dict[str, NDArray]:
            location = cells = self._location(chunk)
            variance = location.var(axis=0)
            if kind == "response":
                refuse_limits(chunk)
                own = family.variance(chunk.response, **chunk.values)
                variance = variance + chunk.own(own).mean(axis=0)
                cells = chunk.own(family.sample(rng, chunk.response, **chunk.values))
            sampled = kind == "response"
            lower, upper, *further = _quantiles(cells, tails if sampled else [*tails, *quantiles])
            if sampled and quantiles:
                further = PredictiveDistribution.of(chunk).quantiles(quantiles, cells)
            named = {f"q[{q:.10g}]": each for q, each in zip(quantiles, further, strict=True)}
            sd = np.sqrt(variance)
            shares = {
                f"p[{name}]": chunk.own(each).mean(axis=0)
                for name, each in family.probabilities(**chunk.values).items()
            }
            mean = location.mean(axis=0)
            return {"mean": mean, "sd": sd, "lower": lower, "upper": upper, **named, **shares}

        return self._by_row(designs, response, n, describe)

    def components(self, designs: Designs, response: ResponseDesign, n: int) -> ByRow:
        """`component`, the number of each row's most probable component, from 1, and ``p[c]``.

        ``p[c]`` is the posterior mean of P(component c | y_i).
        """
        family = self.program.family

        def judge(chunk: RowChunk) -> dict[str, NDArray]:
            found = family.responsibilities(chunk.response, **chunk.predictors)
            return {f"p[{name}]": chunk.own(each).mean(axis=0) for name, each in found.items()}

        shares = self._by_row(designs, response, n, judge)
        largest = np.argmax(np.stack(list(shares.values())), axis=0)
        return {"component": 1 + largest, **shares}

    def cumulative(
        self, designs: Designs, response: ResponseDesign, n: int, at: Sequence[float] = ()
    ) -> Float[NDArray[np.float64], "n _"]:
        """P(Y_i <= y) of each row for every y in `at`, or for its own response if there is none."""

        def reached(chunk: RowChunk) -> dict[str, NDArray]:
            refuse_limits(chunk)
            found = PredictiveDistribution.of(chunk)
            own = np.asarray(chunk.response.value, np.float64)[: chunk.count] if not at else None
            each = [own] if own is not None else [np.full(chunk.count, float(y)) for y in at]
            return {"p": np.stack([found.at(y) for y in each], axis=1)}

        return self._by_row(designs, response, n, reached)["p"]

    def transform_limits(
        self, designs: Designs, response: ResponseDesign, n: int
    ) -> dict[str, Vector]:
        """Lower and upper limit of the PIT of each row, P(Y < y_i) and P(Y <= y_i)."""

        def limits(chunk: RowChunk) -> dict[str, NDArray]:
            refuse_limits(chunk)
            found = PredictiveDistribution.of(chunk)
            own = np.asarray(chunk.response.value, np.float64)[: chunk.count]
            return {"lower": found.below(own), "upper": found.at(own)}

        return self._by_row(designs, response, n, limits)

    def log_scores(self, designs: Designs, response: ResponseDesign, n: int) -> Vector:
        """Log predictive density of each row, log mean_s p(y_i | draw s)."""

        def score(chunk: RowChunk) -> dict[str, NDArray]:
            return {"score": _log_mean(self.log_density(chunk))}

        return self._by_row(designs, response, n, score)["score"]

    def validation(self, designs: Designs, response: ResponseDesign, n: int) -> xr.Dataset:
        """Observed response, mean, PIT and log score of each row.

        The probability integral transform P(response <= observed) is estimated from one sampled
        response per draw. Ties, which occur in discrete families, are broken at random (Czado,
        Gneiting and Held, 2009).

        Returns:
            Variables observed, mean, pit and log_score, (row,) each.
        """
        family = self.program.family
        rng = np.random.default_rng(self.seed)

        def judge(chunk: RowChunk) -> dict[str, NDArray]:
            refuse_limits(chunk)
            drawn = chunk.own(family.sample(rng, chunk.response, **chunk.values))
            observed = np.asarray(chunk.response.value, np.float64)[: chunk.count]
            below, equal = (drawn < observed).sum(axis=0), (drawn == observed).sum(axis=0)
            uniform = rng.random(chunk.count)
            return {
                "observed": observed,
                "mean": self._location(chunk).mean(axis=0),
                "pit": (below + uniform * (equal + 1)) / (len(drawn) + 1),
                "log_score": _log_mean(self.log_density(chunk)),
            }

        columns = self._by_row(designs, response, n, judge)
        return xr.Dataset({name: ("row", values) for name, values in columns.items()})

    def centre(self, designs: Designs, response: ResponseDesign, n: int) -> Vector:
        """Posterior mean of the response's mean."""

        def mean(chunk: RowChunk) -> dict[str, NDArray]:
            return {"mean": self._location(chunk).mean(axis=0)}

        return self._by_row(designs, response, n, mean)["mean"]

    def locations(self, designs: Designs, response: ResponseDesign, n: int) -> Matrix:
        """Draws of the response's mean on every row."""
        each = self._by_row(designs, response, n, lambda chunk: {"a": self._location(chunk).T})
        return each["a"].T

    def category_shares(
        self, designs: Designs, response: ResponseDesign, n: int
    ) -> Float[NDArray[np.float64], "draws rows categories"]:
        """Draws of the probability of each category on every row."""

        def shares(chunk: RowChunk) -> dict[str, NDArray]:
            each = self.program.family.probabilities(**chunk.values).values()
            return {"a": np.stack([chunk.own(share).T for share in each], axis=-1)}

        return self._by_row(designs, response, n, shares)["a"].transpose(1, 0, 2)

    def parameters(
        self,
        designs: Designs,
        response: ResponseDesign,
        n: int,
        names: Sequence[str],
        transform: bool,
    ) -> Float[NDArray[np.float64], "draws rows parameters"]:
        """Draws of family parameters on every row, on the scale of their links or on their own.

        Args:
            designs: the designs of the rows.
            response: their response design.
            n: number of rows.
            names: the parameters, each of which has a predictor.
            transform: whether to apply the inverse link.
        """

        def values(chunk: RowChunk) -> dict[str, NDArray]:
            found = chunk.values if transform else chunk.predictors
            each = [chunk.own(found[name]) for name in names]
            for value in each:
                refuse_out_of_reach(value, chunk.places)
            return {"a": np.stack([value.T for value in each], axis=-1)}

        return self._by_row(designs, response, n, values)["a"].transpose(1, 0, 2)

    def responses(
        self, designs: Designs, response: ResponseDesign, n: int
    ) -> Shaped[NDArray, "draws rows"]:
        """One sampled response for every draw and row."""
        rng = np.random.default_rng(self.seed)

        def draw(chunk: RowChunk) -> dict[str, NDArray]:
            refuse_limits(chunk)
            with np.errstate(over="ignore"):
                drawn = self.program.family.sample(rng, chunk.response, **chunk.values)
            refuse_out_of_reach(chunk.own(drawn), chunk.places, np.finfo(np.float64).max)
            return {"a": chunk.own(drawn).T}

        return self._by_row(designs, response, n, draw)["a"].T

    def log_likelihood(self, designs: Designs, response: ResponseDesign, n: int) -> Matrix:
        """Log p(y_i | draw s) of every draw and row."""
        each = self._by_row(designs, response, n, lambda chunk: {"a": self.log_density(chunk).T})
        return each["a"].T

    def by_log_density(
        self,
        designs: Designs,
        response: ResponseDesign,
        n: int,
        describe: Callable[[Matrix], Mapping[str, NDArray]],
    ) -> ByRow:
        """Apply `describe` to log p(y_i | draw s) of each chunk of rows.

        Returns:
            The arrays of `describe`, rows first, joined over chunks in the order of the rows.
        """
        return self._by_row(
            designs, response, n, lambda chunk: dict(describe(self.log_density(chunk)))
        )

    def means(
        self, designs: Designs, response: ResponseDesign, n: int
    ) -> dict[str, Float[NDArray, "n ..."]]:
        """Posterior mean of each family parameter's predictor, (n,), or (n, k) for a vector."""

        def mean(chunk: RowChunk) -> dict[str, NDArray]:
            return {
                name: chunk.own(eta).mean(axis=0)
                if eta.ndim == 2
                else np.repeat(np.asarray(eta.mean(axis=0)), chunk.count, axis=0)
                for name, eta in chunk.predictors.items()
            }

        return self._by_row(designs, response, n, mean)

    def _by_row(
        self,
        designs: Designs,
        response: ResponseDesign,
        n: int,
        describe: Callable[[RowChunk], dict[str, NDArray]],
    ) -> ByRow:
        """Apply `describe` to each chunk and join its arrays, rows first, in the rows' order."""
        out: dict[str, NDArray] = {}
        with jax.enable_x64(True):
            for chunk in self.over(designs, response, n):
                for name, values in describe(chunk).items():
                    whole = out.setdefault(name, np.empty((n, *values.shape[1:]), values.dtype))
                    whole[chunk.places] = values
        return out

    def _location(self, chunk: RowChunk) -> Matrix:
        """Draws of the response's mean (its location if it has no mean)."""
        location = chunk.own(self.program.family.mean(chunk.response, **chunk.values))
        refuse_out_of_reach(location, chunk.places)
        return location

    def log_density(self, chunk: RowChunk) -> Matrix:
        """Log p(y_i | draw s) of the rows of a chunk.

        Raises:
            OutOfReachError: for a row with a parameter that has underflowed or overflowed to the
                boundary of its range.
        """
        if chunk.integrated is not None:
            return chunk.own(chunk.integrated())
        refuse_limits(chunk)
        return chunk.own(self.program.family.log_density(chunk.response, **chunk.predictors))


def refuse_limits(chunk: RowChunk) -> None:
    """Refuse rows with a family parameter at the boundary of its range.

    These are parameters with a log link that have become zero or infinite, and, in continuous
    families, parameters with a logit link that have become 0 or 1.

    Raises:
        OutOfReachError: for the first such row.
    """
    for parameter in chunk.family.parameters:
        eta = chunk.predictors.get(parameter.name)
        # Continuous families compute their density from the share itself, discrete ones from its
        # logit, which does not overflow.
        shared = parameter.link == "logit" and not chunk.family.discrete
        if eta is not None and eta.ndim == 2 and (parameter.link == "log" or shared):
            # A mean that has underflowed to zero is no error for a count: the count is zero.
            own = np.maximum(chunk.own(eta), 0.0) if chunk.family.discrete else chunk.own(eta)
            refuse_out_of_reach(own, chunk.places, _LARGEST_EXPONENT)


def _log_mean(log_density: Matrix) -> Means:
    """Log of the mean of exp(log_density) over draws."""
    return logsumexp(log_density, axis=0) - np.log(len(log_density))


def _quantiles(values: Matrix, tails: list[float]) -> Float[NDArray[np.float64], "tails rows"]:
    """Quantiles of each column, in parallel: they take most of the time of a prediction."""
    stripes = [values[:, start : start + _STRIPE] for start in range(0, values.shape[1], _STRIPE)]
    found = side_by_side(lambda stripe: np.quantile(stripe, tails, axis=0), stripes, _STRIPE)
    return np.concatenate(found, axis=1)
