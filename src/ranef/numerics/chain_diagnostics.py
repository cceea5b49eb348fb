"""Convergence diagnostics of Markov chains: R-hat, effective sample size and E-BFMI.

R-hat and the effective sample sizes of bulk and tails are those of Vehtari, Gelman, Simpson,
Carpenter and Buerkner (2021), as computed by ArviZ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ranef.numerics.shapes import Float, Shaped

if TYPE_CHECKING:
    from arviz_stats.base.array import BaseArray

Array = NDArray[np.float64]

# Largest R-hat of chains that agree.
R_HAT = 1.01
# Smallest sufficient effective sample size, in draws for each chain.
ESS = 100
# Smallest acceptable E-BFMI of a chain.
E_BFMI = 0.3


@dataclass(frozen=True)
class Convergence:
    """The worst diagnostics over all variables.

    Attributes:
        r_hat: largest R-hat; nan for a single chain.
        r_hat_of: name of the variable that has it.
        ess: smallest effective sample size, of bulk or tails.
        ess_of: name of the variable that has it.
        chains: number of chains.
    """

    r_hat: float
    r_hat_of: str
    ess: float
    ess_of: str
    chains: int

    @property
    def mixed(self) -> bool:
        """Whether the chains agree: R-hat is at most `R_HAT`, or there is only one chain."""
        return not self.r_hat > R_HAT

    @property
    def enough(self) -> bool:
        """Whether the effective sample size is at least `ESS` for each chain."""
        return self.ess >= ESS * self.chains


def convergence(values: Mapping[str, Shaped[NDArray, "_chains _draws ..."]]) -> Convergence:
    """The worst diagnostics of variables by name.

    Elements of variables that are constant over all draws are left out.
    """
    stats = _statistics()
    worst_r, worst_ess = (-np.inf, ""), (np.inf, "")
    chains = 1
    for name, value in values.items():
        chains = value.shape[0]
        flat = value.reshape(*value.shape[:2], -1)
        flat = flat[..., np.ptp(flat, axis=(0, 1)) > 0]
        if flat.shape[-1] == 0:
            continue
        if chains > 1:
            r_hat = stats.rhat(flat, chain_axis=0, draw_axis=1)
            worst_r = max(worst_r, (float(np.max(r_hat)), name))
        bulk = stats.ess(flat, chain_axis=0, draw_axis=1, method="bulk")
        tail = stats.ess(flat, chain_axis=0, draw_axis=1, method="tail", prob=(0.05, 0.95))
        worst_ess = min(worst_ess, (float(np.min([bulk, tail])), name))
    if not np.isfinite(worst_r[0]):
        worst_r = (np.nan, "")
    return Convergence(*worst_r, *worst_ess, chains)


def energy_fractions(energy: Shaped[NDArray, "chains draws"]) -> Float[Array, "chains"]:
    """E-BFMI of each chain (Betancourt, 2016), from the energies of its draws."""
    return np.asarray(_statistics().bfmi(energy, chain_axis=0, draw_axis=1), dtype=np.float64)


def _statistics() -> "BaseArray":
    """ArviZ's statistics, imported on first use because the import is slow."""
    from arviz_stats.base.array import array_stats

    return array_stats
