"""Posterior of a model that is linear in its predictors, for any family.

The scales, correlations and the family's numbers theta have a handful of dimensions: as in
``exact`` they are drawn from their density, all coefficients integrated out. Given theta the
coefficients are normal: at first around their mode, by penalized iteratively reweighted least
squares; then as close to the posterior as a normal distribution comes (``variational``), so
that skewness does not shift them.
"""

from typing import Any

import numpy as np
from tqdm import tqdm

from ranef.inference.approximate import Approximate
from ranef.inference.base import Draws, Method, Problem
from ranef.inference.coefficients import Coefficients
from ranef.inference.free import without_points
from ranef.inference.hyper import explore, message
from ranef.inference.mixed import dependent
from ranef.inference.remainder import DependentColumnError
from ranef.inference.threads import threads_for


class Laplace(Method):
    """Terms linear in their coefficients, for any family."""

    name = "laplace"
    options = {"quadrature": None}

    def run(self, problem: Problem, *, seed: int, draws: int, progress: bool) -> Draws:
        rng = np.random.default_rng(seed)
        bar = tqdm(desc="laplace", unit="evaluation", disable=not progress, leave=False)
        target = Approximate.of(problem, self.name)
        mixed = target.mixed
        try:
            with np.errstate(all="ignore"), threads_for(mixed.solver.largest):
                target.settle(target.start)
                free, points = without_points(target, bar.update)
                found = explore(
                    free, free.start, free.width, rng, draws, cheap=False, tick=bar.update
                )
                x = free.whole(found.x)
                target.settle(free.whole(found.mode[None])[0])
        except DependentColumnError as error:
            raise dependent(mixed, error) from None
        finally:
            bar.close()
        coefficients = Coefficients(target, x, seed)
        sites = target.coordinates.values(x)
        hyper: dict[str, Any] = {n: v[None] for n, v in sites.items() if n not in points}
        return Draws(
            lambda: coefficients.sites(hyper),
            points,
            {},
            found.found and found.reliable,
            message(found, draws),
            found.evaluations,
            moments=coefficients.moments,
            later=tuple(coefficients.group_sites),
            by_level=lambda: coefficients.effects,
            k_hat=found.k_hat,
            evidence=found.evidence,
        )
