"""The response of each row as families read it: `ResponseDesign` and `NormalResponse`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranef.families.row_density import PerRow
from ranef.lazy import pytree
from ranef.numerics.shapes import Shaped

# Row indices, or a mask of the rows.
Places = Shaped[NDArray, "m"]


@pytree(data=["value", "companion"], meta=["form"])
@dataclass(frozen=True)
class ResponseDesign:
    """The response of each row and its companion from the left side of the formula.

    Attributes:
        value: (n,) the response; None where it is unknown, as for new rows.
        companion: (n,) standard errors, precision weights or numbers of trials; None for a plain
            response, or where they are unknown.
        form: "plain", "se", "weights" or "trials".
    """

    value: Any
    companion: Any = None
    form: str = "plain"

    @property
    def weights(self) -> PerRow | None:
        """Precision weights or numbers of trials; None if every row counts as one."""
        counted = self.form in ("weights", "trials") and self.companion is not None
        return np.asarray(self.companion, np.float64) if counted else None


@dataclass(frozen=True)
class NormalResponse:
    """A response that is normal given its predictor: y_i ~ N(eta_i, sigma^2 / w_i).

    Attributes:
        value: the response y.
        weights: precision weights w; None if all are one.
        sigma: name of the parameter that is the residual sd; "" if sigma is known to be one.
    """

    value: PerRow
    weights: PerRow | None
    sigma: str

    def keep(self, places: Places) -> NormalResponse:
        """The response on the rows `places` alone, an array of row indices or a mask."""
        weights = None if self.weights is None else self.weights[places]
        return NormalResponse(self.value[places], weights, self.sigma)
