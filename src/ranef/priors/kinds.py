"""Prior distributions as plain values, defined without an array library.

A prior is a frozen dataclass of a kind and its numbers. ``ranef.priors.sites`` turns it into a
NumPyro site, ``ranef.priors.log_density`` computes its log density. In place of a prior, a number
fixes the parameter, and `PointEstimate` estimates it without a posterior.
"""

import math
import numbers
import sys
from dataclasses import dataclass, fields
from typing import ClassVar, TypeGuard

from ranef import markup
from ranef.errors import OptionError

# Arguments that must be above zero in every kind of prior.
_POSITIVE = {"sigma", "nu", "rate", "alpha", "beta", "eta"}


@dataclass(frozen=True)
class Prior:
    """Base class of priors.

    Attributes:
        support: set of the values with positive density: "real", "positive", "interval",
            "correlation", or "any" for kinds that take the support of the parameter.

    Raises:
        OptionError: for an argument that is not a finite number (or, where the kind allows it, a
            tuple of them), and for a scale, rate or shape that is not above zero.
    """

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
        """Length of the tuple arguments; None if all arguments are numbers."""
        lengths = {len(v) for f in fields(self) if isinstance(v := getattr(self, f.name), tuple)}
        return max(lengths) if lengths else None

    def __str__(self) -> str:
        numbers = ", ".join(_short(getattr(self, f.name)) for f in fields(self))
        return f"{type(self).__name__}({numbers})"


def _check(kind: str, name: str, value: object) -> None:
    if not is_number(value):
        raise OptionError(f"{kind}: {name} must be a number, not {value!r}")
    if not abs(value) <= sys.float_info.max:  # NaN is refused here too
        raise OptionError(f"{kind}: {name} must be finite, not {value!r}")
    if name in _POSITIVE and value <= 0:
        raise OptionError(f"{kind}: {name} must be above zero, not {value!r}")


def is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a real number and no Boolean."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _short(value: float | tuple[float, ...]) -> str:
    """An argument in print, with four digits and at most three elements of a tuple."""
    if isinstance(value, tuple):
        shown = ", ".join(f"{v:.4g}" for v in value[:3])
        return f"[{shown}{', ...' if len(value) > 3 else ''}]"
    return f"{value:.4g}"


class Priors(dict[str, Prior]):
    """Priors by parameter name. They print one a line, and as a table in a notebook."""

    def __str__(self) -> str:
        return "\n".join(f"{name}: {prior}" for name, prior in self.items())

    def _repr_html_(self) -> str:
        return markup.named(self, ("parameter", "prior"))


@dataclass(frozen=True)
class Flat(Prior):
    """Constant density on the support of the parameter: p(x) = const. Improper."""

    support: ClassVar[str] = "any"


@dataclass(frozen=True)
class Normal(Prior):
    """Normal distribution: p(x) = exp(-((x - mu) / sigma)^2 / 2) / (sigma sqrt(2 pi)), x real.

    Tuples give one value for each element of a vector-valued parameter.

    Attributes:
        mu: mean.
        sigma: sd.
    """

    mu: float | tuple[float, ...] = 0.0
    sigma: float | tuple[float, ...] = 1.0


@dataclass(frozen=True)
class StudentT(Prior):
    """Student's t: p(x) proportional to (1 + ((x - mu) / sigma)^2 / nu)^(-(nu + 1) / 2), x real.

    Tuples give one value for each element of a vector-valued parameter.

    Attributes:
        nu: degrees of freedom.
        mu: location.
        sigma: scale.
    """

    nu: float = 3.0
    mu: float | tuple[float, ...] = 0.0
    sigma: float | tuple[float, ...] = 1.0


@dataclass(frozen=True)
class Cauchy(Prior):
    """Cauchy distribution: p(x) = 1 / (pi sigma (1 + ((x - mu) / sigma)^2)), x real.

    Tuples give one value for each element of a vector-valued parameter.

    Attributes:
        mu: location.
        sigma: scale.
    """

    mu: float | tuple[float, ...] = 0.0
    sigma: float | tuple[float, ...] = 1.0


@dataclass(frozen=True)
class HalfNormal(Prior):
    """Normal(0, sigma) restricted to x > 0: p(x) proportional to exp(-(x / sigma)^2 / 2).

    Attributes:
        sigma: scale; the sd is 0.60 sigma.
    """

    support: ClassVar[str] = "positive"
    sigma: float = 1.0


@dataclass(frozen=True)
class HalfStudentT(Prior):
    """StudentT(nu, 0, sigma) restricted to x > 0.

    p(x) is proportional to (1 + (x / sigma)^2 / nu)^(-(nu + 1) / 2).

    Attributes:
        nu: degrees of freedom.
        sigma: scale.
    """

    support: ClassVar[str] = "positive"
    nu: float = 3.0
    sigma: float = 1.0


@dataclass(frozen=True)
class HalfCauchy(Prior):
    """Cauchy(0, sigma) restricted to x > 0: p(x) = 2 / (pi sigma (1 + (x / sigma)^2)).

    Attributes:
        sigma: scale, which is the median.
    """

    support: ClassVar[str] = "positive"
    sigma: float = 1.0


@dataclass(frozen=True)
class Exponential(Prior):
    """Exponential distribution: p(x) = rate exp(-rate x), x > 0; the mean is 1 / rate."""

    support: ClassVar[str] = "positive"
    rate: float = 1.0


@dataclass(frozen=True)
class Gamma(Prior):
    """Gamma distribution: p(x) proportional to x^(alpha - 1) exp(-beta x), x > 0.

    Attributes:
        alpha: shape.
        beta: rate; the mean is alpha / beta.
    """

    support: ClassVar[str] = "positive"
    alpha: float = 1.0
    beta: float = 1.0


@dataclass(frozen=True)
class InverseGamma(Prior):
    """Inverse gamma distribution: p(x) proportional to x^(-alpha - 1) exp(-beta / x), x > 0.

    Attributes:
        alpha: shape.
        beta: scale; the mean is beta / (alpha - 1) for alpha > 1.
    """

    support: ClassVar[str] = "positive"
    alpha: float = 1.0
    beta: float = 1.0


@dataclass(frozen=True)
class LogNormal(Prior):
    """Lognormal distribution, x > 0: log x is Normal(mu, sigma).

    Attributes:
        mu: mean of log x.
        sigma: sd of log x.
    """

    support: ClassVar[str] = "positive"
    mu: float = 0.0
    sigma: float = 1.0


@dataclass(frozen=True)
class Uniform(Prior):
    """Uniform distribution: p(x) = 1 / (upper - lower) for lower < x < upper.

    Raises:
        OptionError: if lower is not below upper.
    """

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
    """Beta distribution: p(x) proportional to x^(alpha - 1) (1 - x)^(beta - 1), 0 < x < 1.

    The mean is alpha / (alpha + beta).
    """

    support: ClassVar[str] = "interval"
    alpha: float = 1.0
    beta: float = 1.0


@dataclass(frozen=True)
class PowerPrior(Prior):
    """Prior of t > 0 stated for its power t^k: p(t) = p_prior(t^k) |k| t^(k - 1).

    Base class of `Variance` (k = 2) and `Precision` (k = -2).

    Attributes:
        power: the exponent k.
        prior: prior of t^k.

    Raises:
        OptionError: if `prior` is not a proper prior of a positive number.
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
        """Smallest t of positive density."""
        return self._ends[0]

    @property
    def upper(self) -> float:
        """Largest t of positive density, which may be infinite."""
        return self._ends[1]

    @property
    def _ends(self) -> tuple[float, float]:
        """Ends of the support of t."""
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
    """Prior of an sd t > 0 stated for the variance t^2: p(t) = p_prior(t^2) 2 t.

    Example: Variance(InverseGamma(2, 1)).

    Attributes:
        prior: prior of the variance.
    """

    power: ClassVar[int] = 2


@dataclass(frozen=True)
class Precision(PowerPrior):
    """Prior of an sd t > 0 stated for the precision 1 / t^2: p(t) = p_prior(1 / t^2) 2 / t^3.

    Example: Precision(Gamma(2, 1)), which equals Variance(InverseGamma(2, 1)).

    Attributes:
        prior: prior of the precision.
    """

    power: ClassVar[int] = -2


@dataclass(frozen=True)
class LogOdds(Prior):
    """Prior of log odds x, real, stated for the probability s = 1 / (1 + exp(-x)).

    p(x) = p_prior(s) s (1 - s). Example: {"mix2_Intercept": LogOdds(Beta(2, 2))} is a prior of the
    share of the second of two components of a mixture.

    Attributes:
        prior: prior of the probability s.

    Raises:
        OptionError: if `prior` is not a Beta.
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
    """Marginal prior of one parameter whose default prior is stated in other coordinates.

    It describes the default, for tables. Passed in `priors`, it stands for `prior`.

    Attributes:
        prior: marginal prior of the parameter.
        about: words printed after it, which say what it is the prior of.
    """

    prior: Prior
    about: str = ""

    def __post_init__(self) -> None:
        """Checks nothing, since `prior` has been checked."""

    def __str__(self) -> str:
        return f"{self.prior}, {self.about}"


@dataclass(frozen=True)
class LKJ(Prior):
    """Correlation matrices R: p(R) proportional to det(R)^(eta - 1).

    Source: Lewandowski, Kurowicka and Joe (2009).

    Attributes:
        eta: concentration; 1 is uniform, larger values favour smaller correlations.
    """

    support: ClassVar[str] = "correlation"
    eta: float = 1.0


@dataclass(frozen=True)
class Fixed(Prior):
    """A parameter known to be `value`; a plain number in `priors` has the same meaning."""

    support: ClassVar[str] = "any"
    value: float = 0.0


@dataclass(frozen=True)
class PointEstimate(Prior):
    """A parameter that is estimated by maximising the method's objective, without a posterior.

    Attributes:
        start: starting value of the search; None for the default of the term or family.
    """

    support: ClassVar[str] = "any"
    start: float | None = None

    def __post_init__(self) -> None:
        if self.start is not None:
            super().__post_init__()

    def __str__(self) -> str:
        return "PointEstimate()" if self.start is None else f"PointEstimate({self.start:.4g})"
