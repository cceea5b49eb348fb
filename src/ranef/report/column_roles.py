"""How columns of the table enter the predictors of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ranef.fit import Fit


@dataclass
class Role:
    """How a column enters the predictor of a parameter.

    Attributes:
        kinds: kinds of its terms.
        partners: the columns with which it stands in one product or term.
        groupings: the groupings by whose levels its effect varies.
    """

    kinds: set[str] = field(default_factory=set)
    partners: dict[str, None] = field(default_factory=dict)
    groupings: dict[str, None] = field(default_factory=dict)

    def joined(self, other: Role) -> Role:
        """The role in both of two predictors."""
        return Role(
            self.kinds | other.kinds,
            {**self.partners, **other.partners},
            {**self.groupings, **other.groupings},
        )


def roles(fit: Fit, parameter: str) -> dict[str, Role]:
    """The columns in the predictor of a family parameter; those of slopes by group alone left out.

    Args:
        fit: the fit.
        parameter: name of the parameter.
    """
    out: dict[str, Role] = {}
    for term in fit.program.terms.get(parameter, ()):
        kind, arguments = term.call.kind, term.call.arguments
        if kind in ("offset", "mf"):
            continue
        products = arguments if kind in ("common", "group") else [term.call.expressions()]
        for product in products:
            names = list(dict.fromkeys(n for e in product for n in e.columns()))
            for name in names:
                role = out.setdefault(name, Role())
                role.kinds.add(kind)
                by = dict.fromkeys(getattr(term, "groupings", ()))
                if kind == "group":
                    role.groupings.update(by)
                else:
                    role.partners.update(dict.fromkeys(n for n in (*names, *by) if n != name))
    return {name: role for name, role in out.items() if role.kinds != {"group"}}
