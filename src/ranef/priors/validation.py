"""Checks that what a user gives for a prior is one, and that it suits the parameter."""

from collections.abc import Mapping

from ranef.errors import OptionError
from ranef.priors.kinds import (
    LKJ,
    Beta,
    Cauchy,
    Fixed,
    Flat,
    Normal,
    PowerPrior,
    Prior,
    RescaledDefault,
    StudentT,
    Uniform,
    is_number,
)


def checked(priors: object) -> dict[str, Prior]:
    """The user's `priors` by parameter name, with numbers turned into `Fixed`.

    Raises:
        OptionError: for `priors` that are not a mapping, and a value that is neither a prior nor
            a number.
    """
    if priors is None:
        return {}
    if not isinstance(priors, Mapping):
        raise OptionError(
            f"priors must be a dict of parameter name to prior, not {type(priors).__name__}"
        )
    return {str(name): _as_prior(name, value) for name, value in priors.items()}


def _as_prior(name: str, value: object) -> Prior:
    if isinstance(value, RescaledDefault):
        return value.prior
    if isinstance(value, Prior):
        return value
    if is_number(value):
        return Fixed(float(value))
    raise OptionError(
        f"the prior of {name!r} must be a prior such as rf.Normal(0, 1), or a number that "
        f"fixes the parameter, not {value!r}"
    )


def allowed(name: str, prior: Prior, support: str, size: int = 1) -> Prior:
    """Check that `prior` suits a parameter.

    Args:
        name: name of the parameter, for the message.
        prior: the prior.
        support: support of the parameter: "real", "positive", "unit" (between 0 and 1), "ordered"
            (increasing elements) or "correlation".
        size: number of elements of the parameter.

    Returns:
        `prior`.

    Raises:
        OptionError: if the prior has another support or length, naming the parameter and the
            priors that would be accepted.
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
        # `Fixed` or `PointEstimate` would give all elements one value, which is not increasing.
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
