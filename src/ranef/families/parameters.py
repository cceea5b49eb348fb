"""Parameters of a response distribution and components of a mixture, as families list them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ranef.data.moments import Scale
from ranef.priors import Prior

# Symbols of parameters in printed equations.
_GREEK = {
    **{"mu": "μ", "sigma": "σ", "nu": "ν"},
    **{"alpha": "α", "kappa": "κ", "psi": "ψ", "threshold": "τ"},
}


@dataclass(frozen=True)
class FamilyParameter:
    """A parameter of a response distribution.

    Attributes:
        name: name in formulas, as in `sigma ~ x`.
        link: name of its link function, a key of `LINKS`.
        support: "real", "positive", "unit" or "ordered"; the set of its values where it has no
            predictor and is one number (or vector) for all rows.
        default: its default prior without a predictor, a function of the response's scale; None
            for a parameter that has none.
        labels: labels of the elements of a vector-valued parameter, which are its last axis; such
            a parameter has no predictor. Empty for a scalar.
        predicted: whether the first part of the formula is its predictor; this is always so for
            the location.
        stem: in a mixture, the name that addresses this parameter of all components at once, as
            "sigma" does for "sigma1" and "sigma2"; "" otherwise.
        implied: whether it has a predictor with an intercept alone where the formula gives none.
    """

    name: str
    link: str
    support: str
    default: Callable[[Scale], Prior] | None = None
    labels: tuple[str, ...] = ()
    predicted: bool = False
    stem: str = ""
    implied: bool = False

    @property
    def symbol(self) -> str:
        """Symbol in printed equations, such as "σ" for "sigma" and "σ1" for "sigma1"."""
        stem = self.stem or self.name
        return _GREEK.get(stem, stem) + self.name.removeprefix(stem)


@dataclass(frozen=True)
class Component:
    """A component of a mixture.

    Attributes:
        kind: name of its family.
        parameters: names of its free parameters in the mixture, by their name in the family, as
            {"mu": "mu1", "sigma": "sigma1"}.
        share: name of the parameter that is its log odds against the first component; "" for the
            first component.
    """

    kind: str
    parameters: Mapping[str, str]
    share: str
