"""Prior distributions as plain values: a kind and its numbers, no array library.

A prior says what it is; ``ranef.priors.sites`` turns it into a NumPyro site. A number in
place of a prior fixes the parameter, `PointEstimate` estimates it without a posterior.
"""

import math
import numbers
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ranef.errors import OptionError

# Arguments that must be above zero, whatever the kind.
_POSITIVE = {"sigma", "nu", "rate", "alpha", "beta", "eta"}


@dataclass(frozen=True)
class Prior:
    """Base of the kinds below. `support` is where the density lives."""

    support: ClassVar[str] = "real"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            listed = value if isinstance(value, tuple) and "tuple" in str(field.type) else (value,)
            if not listed:
                raise OptionError(f"{type(self).__name__}: {field.name} is an empty tuple")
            for number in listed:
                _check(type(self).__name__, field.name, number)

    def length(self) -> int | None:
        """Of its tuple arguments; None where all are numbers."""
        lengths = {len(v) for f in fields(self) if isinstance(v := getattr(self, f.name), tuple)}
        return max(lengths) if lengths else None

    def __str__(self) -> str:
        numbers = ", ".join(_short(getattr(self, f.name)) for f in fields(self))
        return f"{type(self).__name__}({numbers})"


def _check(kind: str, name: str, value: Any) -> None:
    if not _is_number(value):
        raise OptionError(f"{kind}: {name} must be a number, not {value!r}")
    if not abs(value) <= sys.float_info.max:  # NaN is refused here too
        raise OptionError(f"{kind}: {name} must be finite, not {value!r}")
    if name in _POSITIVE and value <= 0:
        raise OptionError(f"{kind}: {name} must be above zero, not {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        shown = ", ".join(f"{v:.4g}" for v in value[:3])
        return f"[{shown}{', ...' if len(value) > 3 else ''}]"
    return f"{value:.4g}"


@dataclass(frozen=True)
class Flat(Prior):
    """p(x) constant: on the real line, or on x > 0 for a scale."""

    support: ClassVar[str] = "any"


@dataclass(frozen=True)
class Normal(Prior):
    """p(x) = exp(-((x - mu) / sigma)^2 / 2) / (sigma sqrt(2 pi)). A tuple gives one value
    for each coefficient of a vector-valued term."""

    mu: float | tuple[float, ...] = 0.0
    sigma: float | tuple[float, ...] = 1.0


@dataclass(frozen=True)
class StudentT(Prior):
    """Student's t with nu degrees of freedom, location mu and scale sigma."""

    nu: float = 3.0
    mu: float | tuple[float, ...] = 0.0
    sigma: float | tuple[float, ...] = 1.0


@dataclass(frozen=True)
class Cauchy(Prior):
    """Cauchy with location mu and scale sigma."""

    mu: float | tuple[float, ...] = 0.0
    sigma: float | tuple[float, ...] = 1.0


@dataclass(frozen=True)
class HalfNormal(Prior):
    """Normal(0, sigma) restricted to x > 0."""

    support: ClassVar[str] = "positive"
    sigma: float = 1.0


@dataclass(frozen=True)
class HalfStudentT(Prior):
    """StudentT(nu, 0, sigma) restricted to x > 0."""

    support: ClassVar[str] = "positive"
    nu: float = 3.0
    sigma: float = 1.0


@dataclass(frozen=True)
class HalfCauchy(Prior):
    """Cauchy(0, sigma) restricted to x > 0."""

    support: ClassVar[str] = "positive"
    sigma: float = 1.0


@dataclass(frozen=True)
class Exponential(Prior):
    """p(x) = rate exp(-rate x), x > 0; mean 1 / rate."""

    support: ClassVar[str] = "positive"
    rate: float = 1.0


@dataclass(frozen=True)
class Gamma(Prior):
    """p(x) proportional to x^(alpha - 1) exp(-beta x), x > 0; mean alpha / beta."""

    support: ClassVar[str] = "positive"
    alpha: float = 1.0
    beta: float = 1.0


@dataclass(frozen=True)
class InverseGamma(Prior):
    """p(x) proportional to x^(-alpha - 1) exp(-beta / x), x > 0."""

    support: ClassVar[str] = "positive"
    alpha: float = 1.0
    beta: float = 1.0


@dataclass(frozen=True)
class LogNormal(Prior):
    """log x is Normal(mu, sigma), x > 0."""

    support: ClassVar[str] = "positive"
    mu: float = 0.0
    sigma: float = 1.0


@dataclass(frozen=True)
class Uniform(Prior):
    """p(x) = 1 / (upper - lower) for lower < x < upper."""

    support: ClassVar[str] = "interval"
    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lower >= self.upper:
            raise OptionError(
                f"Uniform: lower must be below upper, not {self.lower!r} and {self.upper!r}"
            )


@dataclass(frozen=True)
class Beta(Prior):
    """p(x) proportional to x^(alpha - 1) (1 - x)^(beta - 1), 0 < x < 1."""

    support: ClassVar[str] = "interval"
    alpha: float = 1.0
    beta: float = 1.0


@dataclass(frozen=True)
class PowerPrior(Prior):
    """t^k has the density p of `prior`: p(t) = p_prior(t^k) |k| t^(k - 1), t > 0.

    Raises:
        OptionError: for what is not a proper prior of a positive number.
    """

    support: ClassVar[str] = "positive"
    power: ClassVar[int] = 1
    prior: Prior

    def __post_init__(self) -> None:
        kind, prior = type(self).__name__, self.prior
        proper = isinstance(prior, Prior) and not isinstance(prior, PowerPrior)
        if not proper or prior.support not in ("positive", "interval"):
            raise OptionError(
                f"{kind} takes a proper prior of a positive number, as in "
                f"{kind}(rf.InverseGamma(2, 1)), not {prior}"
            )
        if getattr(prior, "lower", 0.0) < 0:
            raise OptionError(f"{kind} takes a prior of a positive number, not {prior}")

    @property
    def lower(self) -> float:
        """The least t of positive density."""
        return self._ends[0]

    @property
    def upper(self) -> float:
        """The largest t of positive density, which may be infinite."""
        return self._ends[1]

    @property
    def _ends(self) -> tuple[float, float]:
        low = getattr(self.prior, "lower", 0.0)
        high = getattr(self.prior, "upper", 1.0 if isinstance(self.prior, Beta) else math.inf)
        root = abs(1 / self.power)
        if self.power > 0:
            return low**root, high**root
        return high**-root, math.inf if low == 0 else low**-root

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.prior})"


@dataclass(frozen=True)
class Variance(PowerPrior):
    """The square of the parameter has the inner prior: p(t) = p_prior(t^2) 2 t, t > 0.

    A prior of a sd by way of its variance, as in Variance(InverseGamma(2, 1)).
    """

    power: ClassVar[int] = 2


@dataclass(frozen=True)
class Precision(PowerPrior):
    """1 / t^2 has the inner prior: p(t) = p_prior(1 / t^2) 2 / t^3, t > 0.

    A prior of a sd by way of its precision, as in Precision(Gamma(2, 1)), which is the same as
    Variance(InverseGamma(2, 1)).
    """

    power: ClassVar[int] = -2


@dataclass(frozen=True)
class LogOdds(Prior):
    """The probability s(x) = 1 / (1 + exp(-x)) is Beta: p(x) = p_prior(s) s (1 - s).

    A prior of log odds by way of their probability, as of the share of the second of two
    components of a mixture: {"mix2_Intercept": LogOdds(Beta(2, 2))}.

    Raises:
        OptionError: for an inner prior that is not a Beta.
    """

    prior: Beta

    def __post_init__(self) -> None:
        if not isinstance(self.prior, Beta):
            raise OptionError(
                "LogOdds takes the prior of a probability, as in LogOdds(rf.Beta(2, 2)), not "
                f"{self.prior}"
            )

    def __str__(self) -> str:
        return f"LogOdds({self.prior})"


@dataclass(frozen=True)
class RescaledDefault(Prior):
    """What a default prior in other coordinates says of one parameter.

    Attributes:
        prior: the marginal prior of the parameter.
        about: words that follow it: of what it is the prior.
    """

    prior: Prior
    about: str = ""

    def __post_init__(self) -> None:
        """Its prior is checked already."""

    def __str__(self) -> str:
        return f"{self.prior}, {self.about}"


@dataclass(frozen=True)
class LKJ(Prior):
    """p(R) proportional to det(R)^(eta - 1) over correlation matrices R.

    Lewandowski, Kurowicka and Joe (2009). eta = 1 is uniform.
    """

    support: ClassVar[str] = "correlation"
    eta: float = 1.0


@dataclass(frozen=True)
class Fixed(Prior):
    """The parameter is known to be `value`; what a plain number in `priors` stands for."""

    support: ClassVar[str] = "any"
    value: float = 0.0


@dataclass(frozen=True)
class PointEstimate(Prior):
    """The parameter is estimated by maximising the objective and gets no posterior.

    `start` is where the search begins; None leaves it to the term.
    """

    support: ClassVar[str] = "any"
    start: float | None = None

    def __post_init__(self) -> None:
        if self.start is not None:
            super().__post_init__()

    def __str__(self) -> str:
        return "PointEstimate()" if self.start is None else f"PointEstimate({self.start:.4g})"


def checked(priors: Mapping[str, Any] | None) -> dict[str, Prior]:
    """What the user passed as `priors`, numbers turned into `Fixed`.

    Raises:
        OptionError: for a value that is neither a prior nor a number.
    """
    if priors is None:
        return {}
    if not isinstance(priors, Mapping):
        raise OptionError(
            f"priors must be a dict of parameter name to prior, not {type(priors).__name__}"
        )
    return {str(name): _as_prior(name, value) for name, value in priors.items()}


def _as_prior(name: str, value: Any) -> Prior:
    if isinstance(value, RescaledDefault):
        return value.prior
    if isinstance(value, Prior):
        return value
    if _is_number(value):
        return Fixed(float(value))
    raise OptionError(
        f"the prior of {name!r} must be a prior such as rf.Normal(0, 1), or a number that "
        f"fixes the parameter, not {value!r}"
    )


def allowed(name: str, prior: Prior, support: str, size: int = 1) -> Prior:
    """`prior` if it can be that of a parameter with `size` elements that lives on `support`.

    Raises:
        OptionError: naming the parameter and what would fit.
    """
    advice = {
        "real": "Normal, StudentT, Cauchy, Uniform or Flat",
        "positive": "HalfNormal, HalfStudentT, Exponential, Gamma, Variance, Precision or Flat",
        "unit": "Beta, Uniform or Flat",
        "ordered": "Normal, StudentT, Cauchy or Flat",
        "correlation": "LKJ",
    }[support]
    inside = prior.support in (support, "any") or (
        prior.support in ("positive", "interval") and support == "real"
    )
    if isinstance(prior, PowerPrior):
        inside = support == "positive"
    if support == "unit":
        inside |= isinstance(prior, Beta)
        if isinstance(prior, Uniform):
            inside = prior.lower >= 0 and prior.upper <= 1
        inside &= 0 < getattr(prior, "value", 0.5) < 1
        start = getattr(prior, "start", None)
        inside &= start is None or 0 < start < 1
    if support == "ordered":
        # A number or one start for all of them would not be in order.
        inside = isinstance(prior, (Normal, StudentT, Cauchy, Flat))
    if support == "positive" and prior.support == "interval":
        inside = getattr(prior, "lower", 0.0) >= 0
    if support == "correlation" and not isinstance(prior, LKJ):
        inside = False
    if support == "positive":
        start = getattr(prior, "start", None)
        inside &= getattr(prior, "value", 1.0) > 0 and (start is None or start > 0)
    if not inside:
        raise OptionError(f"{prior} cannot be the prior of {name!r}: use {advice}")
    length = prior.length()
    if length is not None and length != size:
        raise OptionError(
            f"the prior of {name!r} has {length} values and the parameter {size}; give one number "
            "or one for each"
        )
    return prior
