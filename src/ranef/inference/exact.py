"""The exact posterior of a Gaussian mixed model: coefficients in closed form, scales by draws.

Given the scales and correlations theta, all coefficients have a normal posterior in closed
form and integrate out of p(y | theta) p(theta), which has a handful of dimensions. ``hyper``
draws theta; the coefficients' means and variances are mixed over these draws, and draws of
them come from their exact conditional.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ranef import priors
from ranef.errors import DataError, OptionError
from ranef.inference.base import Draws, Method, Problem
from ranef.inference.coefficients import Coefficients
from ranef.inference.hyper import Explored, explore
from ranef.inference.likelihood import Likelihood
from ranef.inference.marginal import Marginal
from ranef.inference.mixed import Mixed, dependent, read
from ranef.inference.peak import peak
from ranef.inference.remainder import DependentColumnError

Array = NDArray[np.float64]

# A spread below this share of the response's size is its rounding; a residual sum of squares
# below this share of the total is that of the cross-products.
_ROUNDING, _FITTED = 1e-11, 1e-13
# A known variance is far below the response's at this share of it.
_SMALL = 1e-8


class Exact(Method):
    """Gaussian responses and terms linear in their coefficients; it has no options."""

    name = "exact"

    def run(self, problem: Problem, *, seed: int, draws: int, progress: bool) -> Draws:
        mixed = read(problem, self.name)
        refuse_without_residual(mixed, problem)
        rng = np.random.default_rng(seed)
        bar = tqdm(desc="exact", unit="evaluation", disable=not progress, leave=False)
        try:
            with np.errstate(all="ignore"):
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
            raise _out_of_reach(mixed, _is_known(mixed, problem)) from None
        finally:
            bar.close()
        x = target.whole(found.x)
        _refuse_vanished(marginal, x, _is_known(mixed, problem), found=found.found)
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
            k_hat=found.k_hat,
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


def refuse_without_residual(mixed: Mixed, problem: Problem) -> None:
    """Where nothing is left for sigma its posterior is a spike at zero.

    Raises:
        DataError: for a constant response, and for one that the common effects fit exactly.
    """
    if _is_known(mixed, problem):
        return
    advice = f"fix {mixed.sigma}, as in priors={{'{mixed.sigma}': 1.0}}"
    normal = problem.normal()
    value = normal.value if normal is not None else np.zeros(1)
    size = float(np.abs(value).max())
    if float(np.ptp(value)) <= _ROUNDING * size:
        raise DataError(
            f"the response is {value[0]:g} in every row, so nothing tells the residual's spread; "
            f"{advice}"
        )
    if mixed.total > 0 and mixed.least_residual <= _FITTED * mixed.total:
        raise DataError(
            f"the common effects fit the response exactly, so nothing tells the residual's spread; "
            f"leave some out, or {advice}"
        )


def _is_known(mixed: Mixed, problem: Problem) -> bool:
    """Whether the residual's sd is."""
    return not mixed.sigma or isinstance(problem.priors[mixed.sigma], priors.Fixed)


def _refuse_vanished(marginal: Marginal, x: Array, known: bool, *, found: bool) -> None:
    """Where the groups leave next to nothing for sigma, rounding decides its posterior.

    Args:
        marginal: of the hyperparameters.
        x: (n, d) draws of them.
        known: whether the residual's sd is.
        found: whether the search for the mode ended at one.

    Raises:
        DataError: for a sigma below what cross-products resolve, and where that of a known
            one kept the search from its end.
    """
    mixed = marginal.mixed
    sites = marginal.sites(x)
    sigma = float(np.median(sites[mixed.sigma])) if mixed.sigma else 1.0
    beside = mixed.least_residual / mixed.n
    if known and not found and sigma**2 < _SMALL * beside:
        raise _out_of_reach(mixed, known)
    if not known and sigma**2 * mixed.n <= _FITTED * mixed.total:
        raise _out_of_reach(mixed, known)


def _out_of_reach(mixed: Mixed, known: bool) -> DataError:
    if known:
        what = f"{mixed.sigma} is fixed" if mixed.sigma else "the known standard errors are"
        return DataError(
            f"{what} so far below the scatter of the response that the arithmetic cannot tell the "
            "scales of the group effects; check the unit, or take larger ones"
        )
    return DataError(
        "the group effects are so large beside the residual, which they may fit entirely, that "
        f"the arithmetic cannot tell {mixed.sigma}; leave a grouping out, or give {mixed.sigma} a "
        "prior that keeps it away from zero"
    )


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
