"""Priors as texts of the command line: `x=normal(0, 1)`, `sigma=2.5`.

A grammar of numbers and names reads them, so that no text is ever run as Python.
"""

import argparse
from dataclasses import fields

import lark

from ranef import priors
from ranef.errors import OptionError, suggestion
from ranef.priors import Prior

_GRAMMAR = r"""
start: number | prior
prior: NAME "(" [_argument ("," _argument)* ","?] ")"
_argument: named | value
named: NAME "=" value
value: number | several | prior
several: "[" number ("," number)* ","? "]"
number: NUMBER
NAME: /[^\W\d]\w*/
NUMBER: /[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?/
%ignore /\s+/
"""

# Priors that are no kinds of their own: base classes, what a number stands for, and the marginal
# of a default.
_NO_KINDS = ("Prior", "PowerPrior", "Fixed", "RescaledDefault")


def assignment(text: str) -> tuple[str, Prior | float]:
    """A parameter and its prior from NAME=PRIOR, for argparse.

    The name may have equals signs of its own, as `I(x == 3)` has: it ends at the first one behind
    which a prior stands.

    Raises:
        argparse.ArgumentTypeError: for a text without a name, a kind of prior that does not
            exist, and numbers that the kind does not take.
    """
    first: lark.exceptions.UnexpectedInput | None = None
    for place in (i for i, char in enumerate(text) if char == "="):
        name, stated = text[:place].strip(), text[place + 1 :]
        try:
            tree = lark.Lark(_GRAMMAR, parser="lalr").parse(stated)
        except lark.exceptions.UnexpectedInput as error:
            first = first or error
            continue
        if name:
            return name, _Kinds(name).transform_or_refuse(tree)
    raise argparse.ArgumentTypeError(
        f"must be NAME=PRIOR, such as 'x=normal(0, 1)' or 'sigma=2.5', not {text!r}"
    ) from first


class _Kinds(lark.Transformer):
    """Makes the prior from its syntax tree."""

    def __init__(self, parameter: str) -> None:
        super().__init__()
        self._parameter = parameter

    def transform_or_refuse(self, tree: lark.Tree) -> Prior | float:
        """The prior or number of a tree.

        Raises:
            argparse.ArgumentTypeError: in place of an `OptionError`.
        """
        try:
            return self.transform(tree)
        except lark.exceptions.VisitError as error:
            if isinstance(error.orig_exc, OptionError):
                said = str(error.orig_exc).replace("rf.", "")
                raise argparse.ArgumentTypeError(f"{self._parameter}: {said}") from None
            raise

    def start(self, found: list) -> Prior | float:
        return found[0]

    def value(self, found: list) -> object:
        return found[0]

    def number(self, found: list[lark.Token]) -> float:
        return float(found[0])

    def several(self, found: list[float]) -> tuple[float, ...]:
        return tuple(found)

    def named(self, found: list) -> tuple[str, object]:
        return str(found[0]), found[1]

    def prior(self, found: list) -> Prior:
        """A prior of the kind that is named, whichever way its name is capitalised.

        Raises:
            OptionError: for an unknown kind, and arguments that it does not take.
        """
        kind = _kind(str(found[0]))
        takes = [field.name for field in fields(kind)]
        given: dict[str, object] = {}
        for place, argument in enumerate(a for a in found[1:] if a is not None):
            # A named argument is a pair that begins with a text; a list is a tuple of numbers.
            is_named = isinstance(argument, tuple) and isinstance(argument[0], str)
            name = argument[0] if is_named else takes[place] if place < len(takes) else ""
            if name not in takes or name in given:
                raise OptionError(
                    f"{kind.__name__} takes {' and '.join(takes) or 'no numbers'}, each once"
                )
            given[name] = argument[1] if is_named else argument
        try:
            return kind(**given)
        except TypeError:
            raise OptionError(f"{kind.__name__} needs {' and '.join(takes)}") from None


def _kind(name: str) -> type[Prior]:
    """The kind of prior with this name, letters in either case and underscores left out.

    Raises:
        OptionError: for a name that no kind has.
    """
    kinds = {
        each: getattr(priors, each)
        for each in priors.__all__
        if each not in _NO_KINDS and isinstance(getattr(priors, each), type)
    }
    known = {each.lower(): kind for each, kind in kinds.items()}
    plain = name.replace("_", "").lower()
    if plain not in known:
        raise OptionError(f"there is no prior {name!r}; {suggestion(name, kinds)}")
    return known[plain]
