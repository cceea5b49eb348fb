"""The exact posterior of a Gaussian mixed model: coefficients in closed form, scales by draws.

Given the scales and correlations theta, all coefficients have a normal posterior in closed
form and integrate out of p(y | theta) p(theta), which has a handful of dimensions. ``hyper``
draws theta; the coefficients' means and variances are mixed over these draws, and draws of
them come from their exact conditional.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ranef import priors, registry
from ranef.errors import OptionError
from ranef.inference.base import Draws, Method, Problem
from ranef.inference.coefficients import Coefficients
from ranef.inference.compressed import read
from ranef.inference.hyper import Explored, explore
from ranef.inference.likelihood import Likelihood
from ranef.inference.marginal import Marginal
from ranef.inference.mixed import dependent
from ranef.inference.peak import peak
from ranef.inference.reach import out_of_reach, refuse_vanished, refuse_without_residual
from ranef.inference.remainder import DependentColumnError
from ranef.inference.threads import threads_for

Array = NDArray[np.float64]


class Exact(Method):
    """Gaussian responses and terms linear in their coefficients; it has no options."""

    name = "exact"
    streams = True

    def run(self, problem: Problem, *, seed: int, draws: int, progress: bool) -> Draws:
        mixed = read(problem, self.name)
        refuse_without_residual(mixed, problem)
        rng = np.random.default_rng(seed)
        bar = tqdm(desc="exact", unit="evaluation", disable=not progress, leave=False)
        try:
            with np.errstate(all="ignore"), threads_for(mixed.solver.largest):
                marginal = Marginal.of(mixed, problem.priors, problem.spread)
                # Columns that cannot be told apart here never can; further out it may be the
                # scales.
                marginal.solve(marginal.start)
                target, points = _without_points(marginal, bar.update)
                found = explore(
                    target,
                    target.start,
                    target.width,
                    rng,
                    draws,
                    cheap=mixed.solver.is_cheap,
                    patient=mixed.solver.is_affordable,
                    tick=bar.update,
                )
        except DependentColumnError as error:
            raise dependent(mixed, error) from None
        except (ArithmeticError, np.linalg.LinAlgError):
            raise out_of_reach(mixed, problem) from None
        finally:
            bar.close()
        x = target.whole(found.x)
        refuse_vanished(marginal.sites(x), mixed, problem, found=found.found)
        # The chains' program does not know blocks that networks make.
        can = not points and not any(grouping.shared for grouping in mixed.groupings)
        if not (found.found and found.reliable) and can and mixed.solver.is_affordable:
            return _by_nuts(problem, found, seed=seed, draws=draws, progress=progress)
        coefficients = Coefficients(marginal, x, seed)
        sites = marginal.coordinates.values(x)
        hyper = {name: value[None] for name, value in sites.items() if name not in points}
        return Draws(
            lambda: coefficients.sites(hyper),
            points,
            {},
            found.found and found.reliable,
            _message(found, draws),
            found.evaluations,
            moments=coefficients.moments,
            later=tuple(coefficients.group_sites),
            by_level=lambda: coefficients.effects,
            k_hat=found.k_hat,
            evidence=found.evidence,
        )

    def likelihood(self, problem: Problem) -> Likelihood:
        """As lme4 defines it.

        Raises:
            OptionError: where sigma is known, over which the criterion is profiled.
        """
        mixed = read(problem, self.name)
        if not mixed.sigma or isinstance(problem.priors[mixed.sigma], priors.Fixed):
            raise OptionError(
                "the likelihood criterion is profiled over sigma, which this model holds fixed; "
                "leave out se() and the number in priors"
            )
        return Likelihood(mixed)


@dataclass(frozen=True)
class _Target:
    """The log density of the coordinates that have a posterior, the others held at `base`."""

    marginal: Marginal
    free: NDArray[np.int64]
    base: Array

    @property
    def start(self) -> Array:
        return self.base[self.free]

    @property
    def width(self) -> Array:
        return self.marginal.width[self.free]

    def whole(self, x: Array) -> Array:
        """Of all coordinates, (n, d)."""
        out = np.repeat(self.base[None], len(x), axis=0)
        out[:, self.free] = x
        return out

    def log_density(self, x: Array) -> Array:
        return self.marginal.log_density(self.whole(x))

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        value, gradient = self.marginal.value_and_gradient(self.whole(x[None])[0])
        return value, gradient[self.free]

    def canonical(self, x: Array) -> Array:
        return self.marginal.coordinates.canonical(self.whole(x))[:, self.free]

    def folds(self) -> list[tuple[int, Array]]:
        coordinates = self.marginal.coordinates
        place = {int(whole): i for i, whole in enumerate(self.free)}
        return [
            (place[i], coordinates.signs([i])[self.free]) for i in coordinates.folded if i in place
        ]


def _without_points(
    marginal: Marginal, tick: Callable[[], object]
) -> tuple[_Target, dict[str, Any]]:
    """The target, point estimates fixed at the joint mode, and those estimates by site."""
    coordinates = marginal.coordinates
    points = [i for i, scale in enumerate(coordinates.scales) if scale.is_point]
    free = np.setdiff1d(np.arange(coordinates.size), points)
    if not points:
        return _Target(marginal, free, marginal.start), {}
    whole = _Target(marginal, np.arange(coordinates.size), marginal.start)
    top = peak(whole, whole.start, whole.width, tick)
    base = coordinates.canonical(top.x[None])[0]
    values = coordinates.values(base)
    names = [coordinates.scales[i].name for i in points]
    return _Target(marginal, free, base), {name: values[name] for name in names}


def _by_nuts(problem: Problem, found: Explored, *, seed: int, draws: int, progress: bool) -> Draws:
    """Chains where the proposal could not follow the posterior of the scales."""
    nuts: Method = registry.load("method", "nuts")()
    result = nuts.run(problem, seed=seed, draws=draws, progress=progress)
    if not found.found:
        why = "the search for the mode of the scales ended early"
    elif found.k_hat is not None:
        why = f"k-hat {found.k_hat:.2f} of the importance weights is over its threshold"
    else:
        why = f"the surrogate is {found.error:.2f} nats off the density where it was checked"
    return replace(result, message=f"{why}, so nuts drew the scales: {result.message}")


def _message(found: Explored, draws: int) -> str:
    text = f"{draws:,} draws from {found.evaluations:,} evaluations"
    if found.k_hat is not None and math.isfinite(found.k_hat):
        text += f", k-hat {found.k_hat:.2f}"
    if found.error is not None:
        text += f", within {found.error:.2f} nats of the density where it was checked"
    if not found.found:
        return f"not converged: the search for the mode of the scales ended early; {text}"
    if not found.reliable:
        return (
            f"not reliable: {text}, because the posterior of the scales is not of a form that the "
            "proposal can follow; compare with method='svi'"
        )
    return text
