"""Whether chains have converged: R-hat, effective sample sizes and E-BFMI, from ArviZ.

Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Largest R-hat, smallest effective sample size for each chain, smallest E-BFMI.
R_HAT, ESS, E_BFMI = 1.01, 100, 0.3


@dataclass(frozen=True)
class Convergence:
    """The worst over all variables, and which one it is.

    Attributes:
        r_hat: the largest, of `r_hat_of`; nan for one chain.
        ess: the smallest of the bulk and the tails, of `ess_of`.
        chains: how many there are.
    """

    r_hat: float
    r_hat_of: str
    ess: float
    ess_of: str
    chains: int

    @property
    def mixed(self) -> bool:
        """Whether the chains agree."""
        return not self.r_hat > R_HAT

    @property
    def enough(self) -> bool:
        """Whether there are draws enough."""
        return self.ess >= ESS * self.chains


def convergence(values: Mapping[str, NDArray]) -> Convergence:
    """Of variables by name, (chain, draw, ...). One that does not vary at all is passed over."""
    stats = _statistics()
    worst_r, worst_ess, of = (-np.inf, ""), (np.inf, ""), {"chain_axis": 0, "draw_axis": 1}
    chains = 1
    for name, value in values.items():
        chains = value.shape[0]
        flat = value.reshape(*value.shape[:2], -1)
        flat = flat[..., np.ptp(flat, axis=(0, 1)) > 0]
        if flat.shape[-1] == 0:
            continue
        if chains > 1:
            worst_r = max(worst_r, (float(np.max(stats.rhat(flat, **of))), name))
        bulk = stats.ess(flat, method="bulk", **of)
        tail = stats.ess(flat, method="tail", prob=(0.05, 0.95), **of)
        worst_ess = min(worst_ess, (float(np.min([bulk, tail])), name))
    r_hat = worst_r if np.isfinite(worst_r[0]) else (np.nan, "")
    return Convergence(*r_hat, *worst_ess, chains)


def energy_fractions(energy: NDArray) -> NDArray[np.float64]:
    """E-BFMI of each chain's energies (chain, draw) (Betancourt, 2016)."""
    return np.asarray(_statistics().bfmi(energy, chain_axis=0, draw_axis=1), dtype=np.float64)


def _statistics() -> Any:
    """Imported when it is needed: it takes longer to load than a small model to fit."""
    from arviz_stats.base.array import array_stats

    return array_stats
