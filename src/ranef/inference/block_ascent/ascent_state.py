"""The state of block ascent between rounds, and its form in a checkpoint."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.inference.checkpoint import filled, flat
from ranef.inference.glmm.arrays import SiteValues
from ranef.inference.pwls.cross_products import CrossProducts
from ranef.lazy import ArrayLike
from ranef.numerics.shapes import Float
from ranef.program.networks import MutableState

# Network weights by site.
NetworkWeights = Mapping[str, ArrayLike]


@dataclass
class AscentState:
    """State of the search between rounds.

    Attributes:
        points: network weights by site.
        network_state: what the networks update as they run, such as batch norm averages, by site.
        moments: state of the optimizer.
        done: share of the schedule that is done, from 0 to 1.
        rounds: number of finished rounds.
        steps: number of gradient steps taken, skipped ones included.
        skipped: number of steps rejected because the loss or the gradient was not finite.
        best: `points` and `network_state` of the round with the least held-out error, among the
            rounds with networks.
        least: the held-out error of `best`, in nats per row.
        since: the round of `best`.
        trace: log evidence, held-out error and number of steps at each round.
        sites: hyperparameters by site, the warm start of the next round. Names that begin with
            "/" hold further starting values (see ``glmm_step``).
        best_sites: `sites` of the round of `best`.
        products: cross-products accumulated over earlier windows; None if one window has all
            rows.
        without: held-out error of the model without its networks.
    """

    points: NetworkWeights
    network_state: MutableState
    moments: Any
    done: float
    rounds: int
    steps: int
    skipped: int
    best: tuple[NetworkWeights, MutableState]
    least: float
    since: int
    trace: Float[NDArray[np.float64], "rounds 3"]
    sites: SiteValues
    best_sites: SiteValues
    products: CrossProducts | None
    without: float = math.inf

    def arrays(self) -> dict[str, NDArray]:
        """The state as named arrays, for a checkpoint."""
        numbers = [self.done, self.rounds, self.steps, self.skipped, self.least, self.since]
        numbers.append(self.without)
        return {
            **flat("network", (self.points, self.network_state, self.moments)),
            **flat("best", self.best),
            **{f"site/{name}": np.asarray(value) for name, value in self.sites.items()},
            **{f"best_site/{name}": np.asarray(v) for name, v in self.best_sites.items()},
            "trace": self.trace,
            "numbers": np.array(numbers, dtype=np.float64),
            **(self.products.arrays() if self.products else {}),
        }

    def at(self, arrays: Mapping[str, NDArray]) -> "AscentState":
        """The state that a checkpoint holds; its trees have the structure of this state's."""
        points, network_state, moments = filled(
            "network", (self.points, self.network_state, self.moments), arrays
        )
        done, rounds, steps, skipped, least, since, without = arrays["numbers"]
        return AscentState(
            points,
            network_state,
            moments,
            float(done),
            int(rounds),
            int(steps),
            int(skipped),
            filled("best", self.best, arrays),
            float(least),
            int(since),
            arrays["trace"],
            _beginning("site/", arrays),
            _beginning("best_site/", arrays),
            CrossProducts.at(arrays) if "products/common" in arrays else None,
            float(without),
        )


def _beginning(start: str, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """The arrays whose names begin with `start`, by the rest of their name."""
    return {n.removeprefix(start): v for n, v in arrays.items() if n.startswith(start)}
