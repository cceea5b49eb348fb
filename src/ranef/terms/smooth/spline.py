"""A penalized spline: eta_i = f(x_i), a cubic spline with a prior on its second differences.

    f(x) = sum_j B_j(x) a_j,   D a ~ N(0, t^2 I)

There are k B-splines B_j on evenly spaced knots, and D is the matrix of second differences (Eilers
and Marx, 1996). In mixed-model form (Eilers, 1999; Wood, 2017, sec. 5.8),

    a = line + D'(DD')^-1 u,   u ~ N(0, t^2 I).

The penalty leaves the line free. It is a common effect that the formula adds, and this term is the
deviation from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ranef import priors
from ranef.data.frame import Frame
from ranef.data.moments import Scale
from ranef.errors import FormulaError, suggestion
from ranef.formula.equation import Line, Sub, Summand
from ranef.formula.term_call import TermCall
from ranef.lazy import Array, dist, jnp, numpyro
from ranef.numerics.shapes import Float
from ranef.priors import Prior, sites
from ranef.terms.base import Design, LinearTerm, Parameter, Run, Variable, clean_name
from ranef.terms.blocks import AnyArray, LinearBlock
from ranef.terms.smooth import ranges

_OPTIONS = {"k": 20}
# Smallest number of B-splines.
_FEWEST = 5
# Largest number of B-splines.
_MOST = 500
# Points of an even grid over the range, on which the lines of the curves and their variance are
# computed.
_POINTS = 401


@dataclass(frozen=True)
class SplineState:
    """The basis of a spline.

    Attributes:
        middle: middle of the range of x over the training rows.
        half: half of that range.
        curves: coefficients of the B-splines for each element of u.
        line: constant and slope that are subtracted from each curve, x being scaled to
            [-1, 1].
    """

    middle: float
    half: float
    curves: Float[NDArray[np.float64], "splines curves"]
    line: Float[NDArray[np.float64], "2 curves"]


class Spline(LinearTerm[ranges.ColumnRanges, SplineState]):
    """The term s(x), with k B-splines.

    `y ~ s(x)` has the common effect `x` and the sd `s(x)_sigma`. Each curve is made orthogonal to
    lines over the range of x, and the curves are scaled so that their variances, summed over curves
    and averaged over the range, are one. The sd is therefore that of the function about its line.
    Beyond the range the function continues as a straight line.
    """

    adds_lines = True

    def __init__(
        self,
        call: TermCall,
        prefix: str = "",
        networks: Mapping[str, object] | None = None,
        *,
        main: bool = True,
    ) -> None:
        super().__init__(call, prefix, networks, main=main)
        unknown = [name for name in self.call.options if name not in _OPTIONS]
        if unknown:
            raise FormulaError(
                f"s() has no option {unknown[0]!r}; {suggestion(unknown[0], _OPTIONS)}"
            )
        if len(self.call.arguments) != 1:
            raise FormulaError("s() takes one column; a surface is gp(x1, x2)")
        ranges.check(self.call)
        self.k = self.call.options.get("k", _OPTIONS["k"])
        if type(self.k) is not int or not _FEWEST <= self.k <= _MOST:
            raise FormulaError(
                f"s(k={self.k!r}) must be a whole number of B-splines from {_FEWEST} to {_MOST}"
            )

    @property
    def short(self) -> str:
        """The term without its settings, which names its variables."""
        return clean_name(f"{self.prefix}s({self.call.arguments[0]})")

    @property
    def _sd(self) -> str:
        return f"{self.short}_sigma"

    @property
    def _weights(self) -> str:
        return f"{self.short}_weights"

    def needs(self) -> dict[str, str]:
        return self.call.arguments[0].needs()

    def scan(self, accumulator: ranges.ColumnRanges | None, frame: Frame) -> ranges.ColumnRanges:
        return ranges.scan(accumulator, self.call.arguments, frame)

    def finish(self, accumulator: ranges.ColumnRanges) -> SplineState:
        """Compute the curves D'(DD')^-1, less their lines and scaled to a variance of one."""
        ranges.refuse_constant(accumulator, self.call)
        low, high = float(accumulator.low[0]), float(accumulator.high[0])
        differences = np.diff(np.eye(self.k), 2, axis=0)
        curves = np.linalg.pinv(differences)
        u = np.linspace(-1.0, 1.0, _POINTS)
        straight = np.stack([np.ones_like(u), u], axis=1)
        bent = b_splines(u, self.k) @ curves
        line = np.linalg.lstsq(straight, bent, rcond=None)[0]
        size = np.sqrt(((bent - straight @ line) ** 2).sum(axis=1).mean())
        return SplineState((low + high) / 2, (high - low) / 2, curves / size, line / size)

    def design(self, state: SplineState, frame: Frame) -> Design:
        x = ranges.values_of(self.call.arguments, frame)
        return Design({"x": (x - state.middle) / state.half})

    def parameters(self, state: SplineState, scale: Scale) -> dict[str, Parameter]:
        return {self._sd: Parameter(priors.HalfNormal(2.5 * scale.sd), "positive")}

    def hyperparameters(
        self, state: SplineState, priors_: Mapping[str, Prior], scale: Scale
    ) -> dict[str, Array]:
        name, start = self._sd, 0.3 * scale.sd
        return {"sd": sites.parameter(name, priors_[name], support="positive", start=start)}

    def block(
        self,
        state: SplineState,
        design: Design,
        priors_: Mapping[str, Prior],
        hyperparameters: Mapping[str, AnyArray],
    ) -> LinearBlock:
        x, k = design.arrays["x"], self.k - 2
        xp: ModuleType = np if isinstance(x, np.ndarray) and not hyperparameters else jnp
        u = x[:, 0]
        line = state.line[0] + u[:, None] * state.line[1]
        return LinearBlock(
            b_splines(xp.asarray(u), self.k) @ state.curves - line,
            None,
            1,
            np.zeros(k),
            jnp.full(k, hyperparameters["sd"]) if hyperparameters else np.ones(k),
            sites=((self._weights, k),),
            shapes=((k,),),
            scales=(self._sd,) * k,
        )

    def coefficients(self, run: Run[SplineState], block: LinearBlock) -> Float[Array, "k"]:
        zeros = jnp.zeros(self.k - 2)
        prior = dist.Normal(zeros, block.factor).to_event(1)
        infer = {"start": zeros, "unit": jnp.full_like(zeros, 0.3 * run.scale.sd)}
        return jnp.asarray(numpyro.sample(self._weights, prior, infer=infer))

    def variables(self, state: SplineState) -> dict[str, Variable]:
        labels = tuple(str(j + 1) for j in range(self.k - 2))
        return {
            self._sd: Variable("scale"),
            self._weights: Variable("weight", (f"{self.short}_basis",), (labels,)),
        }

    def equation(self, state: SplineState) -> Summand:
        name = f"{self.prefix}{self.call.arguments[0]}"
        prior: Line = ("Δ²f", Sub(name), " ~ Normal(0, σ", Sub(f"s({name})"), "²)")
        return Summand(("f", Sub(name), "(", str(self.call.arguments[0]), Sub("i"), ")"), (prior,))


def b_splines(u: Float[AnyArray, "n"], k: int) -> Float[AnyArray, "n splines"]:
    """Evaluate k cubic B-splines on evenly spaced knots over [-1, 1].

    Args:
        u: points.
        k: number of B-splines.

    Returns:
        The values of each spline, which continue linearly beyond [-1, 1].
    """
    xp: ModuleType = np if isinstance(u, np.ndarray) else jnp
    at = xp.clip(u, -1.0, 1.0)
    # Distance from the centre of each B-spline, in units of the distance between knots.
    t = (at[:, None] + 1) * ((k - 3) / 2) - (np.arange(k) - 1.0)
    r = xp.abs(t)
    near, far = (4 - 6 * r**2 + 3 * r**3) / 6, xp.clip(2 - r, 0.0, 2.0) ** 3 / 6
    value = xp.where(r < 1, near, far)
    slope = xp.where(r < 1, 1.5 * r**2 - 2 * r, -(xp.clip(2 - r, 0.0, 2.0) ** 2) / 2) * xp.sign(t)
    return value + slope * ((k - 3) / 2) * (u - at)[:, None]
