"""What people write who come from other packages, and what to write here instead.

Only messages use it: a habit is refused with the words that it wants.
"""

import re
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import ParamSpec, TypeVar

from ranef.errors import OptionError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# What to write for (1 | p | g), which brms reads as effects that several parameters share.
TWO_BARS = "write (1 | g); effects of different predictors are not correlated"
# Families as lme4, glmmTMB, brms, bambi, statsmodels and scikit-learn call them.
FAMILIES = {
    "normal": "gaussian",
    "identity": "gaussian",
    "t": "student",
    "studentt": "student",
    "student_t": "student",
    "logistic": "bernoulli",
    "logit": "bernoulli",
    "binary": "bernoulli",
    "log": "poisson",
    "count": "poisson",
    "nb": "negative_binomial",
    "nbinom": "negative_binomial",
    "nbinom2": "negative_binomial",
    "negbin": "negative_binomial",
    "negbinomial": "negative_binomial",
    "negativebinomial": "negative_binomial",
    "neg_binomial_2": "negative_binomial",
    "beta_family": "beta",
    "lognorm": "lognormal",
    "clm": "ordinal",
    "ordered": "ordinal",
    "multinomial": "categorical",
    "multiclass": "categorical",
    "softmax": "categorical",
    "zip": "zero_inflated_poisson",
    "zinb": "zero_inflated_negative_binomial",
    "zero_inflated_negbinomial": "zero_inflated_negative_binomial",
    "zero_inflated_nbinom2": "zero_inflated_negative_binomial",
}

_SEED = "it is called seed"
_DRAWS = "it is called draws, the number in each chain"
_TUNE = "it is called tune, an option of method='nuts'"
_MODEL = "it is an argument of rf.Model"
_WEIGHTS = "write weights(y, w) on the left side of the formula"
_BAR = "it is called progress"

# Arguments of `Model.fit` that it does not have.
FIT = {
    "random_seed": _SEED,
    "random_state": _SEED,
    "rng_key": _SEED,
    "iter": _DRAWS,
    "n_iter": _DRAWS,
    "niter": _DRAWS,
    "iterations": _DRAWS,
    "num_samples": _DRAWS,
    "iter_sampling": _DRAWS,
    "ndraws": _DRAWS,
    "n_draws": _DRAWS,
    "warmup": _TUNE,
    "num_warmup": _TUNE,
    "iter_warmup": _TUNE,
    "burnin": _TUNE,
    "burn_in": _TUNE,
    "num_chains": "it is called chains, an option of method='nuts'",
    "adapt_delta": "it is called target_accept, an option of method='nuts'",
    "cores": "chains run beside each other by themselves",
    "n_jobs": "chains run beside each other by themselves",
    "threads": "chains run beside each other by themselves",
    "inference_method": "it is called method",
    "algorithm": "it is called method",
    "nAGQ": "it is called quadrature, an option of method='laplace'",
    "REML": "fit.maximum_likelihood(reml=True) has the REML estimates",
    "reml": "fit.maximum_likelihood(reml=True) has the REML estimates",
    "family": _MODEL,
    "formula": _MODEL,
    "prior": f"{_MODEL}, called priors",
    "priors": _MODEL,
    "networks": _MODEL,
    "weights": _WEIGHTS,
    "sample_weight": _WEIGHTS,
    "offset": "write offset(o) in the formula",
    "groups": "write (1 | g) in the formula",
    "verbose": _BAR,
    "refresh": _BAR,
    "silent": _BAR,
    "disp": _BAR,
    "progressbar": _BAR,
    "progress_bar": _BAR,
}

# Arguments of `Model` that it does not have.
MODEL = {
    "data": "the table goes to fit, as in rf.Model('y ~ x').fit(data)",
    "prior": "it is called priors, a dict such as {'x': rf.Normal(0, 1)}",
    "groups": "write (1 | g) in the formula",
    "re_formula": "write (1 + x | g) in the formula",
    "vc_formula": "write (1 | a) + (1 | b) in the formula",
    "weights": _WEIGHTS,
    "offset": "write offset(o) in the formula",
    "link": "every family has its own link, see docs/families.md",
    "method": "it is an argument of fit",
    "draws": "it is an argument of fit",
    "chains": "it is an argument of fit",
    "seed": "it is an argument of fit",
    "REML": "fit.maximum_likelihood(reml=True) has the REML estimates",
}

# What brms writes behind a bar on the left side, and the left side that stands for it.
_ADDITIONS = {
    "trials": "'{0} / {1} ~ ...', with family='binomial'",
    "weights": "'weights({0}, {1}) ~ ...'",
    "se": "'se({0}, {1}) ~ ...'",
    "mi": "'mi({0}) ~ ...'",
}
_ADDITION = re.compile(r"\s*(?P<left>[^|~;]*?)\s*\|\s*(?P<name>\w+)\((?P<inner>[^)]*)\)\s*~")


def refuse(arguments: Mapping[str, object], known: Mapping[str, str], what: str) -> None:
    """Refuse the first argument that is a habit from elsewhere.

    Raises:
        OptionError: with the words that stand for it here.
    """
    for name in arguments:
        if name in known:
            raise OptionError(f"{what} has no argument {name!r}; {known[name]}")


def refusing(
    known: Mapping[str, str], what: str
) -> Callable[[Callable[_Arguments, _Result]], Callable[_Arguments, _Result]]:
    """A decorator of a function that refuses habits in a sentence, with the same signature.

    Args:
        known: arguments that the function does not have, and what to write instead.
        what: what messages call the function.
    """

    def decorated(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
        names = set(signature(function).parameters)

        @wraps(function)
        def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
            refuse({name: None for name in kwargs if name not in names}, known, what)
            return function(*args, **kwargs)

        return call

    return decorated


def left_side(part: str) -> str | None:
    """What to write for the left side of a formula with an addition, as in ``s | trials(n) ~ x``.

    Args:
        part: the text of one part of a formula.

    Returns:
        The advice as the end of a sentence, or None for another text.
    """
    found = _ADDITION.match(part)
    if found is None:
        return None
    name = found["name"]
    if name not in _ADDITIONS:
        return f"{name}() on the left side is not supported"
    return f"write {_ADDITIONS[name].format(found['left'], found['inner'].strip())}"


def in_brackets(text: str, position: int) -> str | None:
    """What to write for a comma in brackets, as in ``(1 + x | g, correlated)``.

    Args:
        text: the formula.
        position: place of the comma.

    Returns:
        The advice as the end of a sentence, or None for another text.
    """
    opening = text.rfind("(", 0, position)
    if "|" not in text[opening + 1 : position] or opening < text.rfind(")", 0, position):
        return None
    return "write (1 + x | g) for correlated effects, and (1 + x || g) for uncorrelated ones"
