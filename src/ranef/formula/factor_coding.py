"""`FactorCoding`: how a factor is coded, as C(f, ref=..., levels=[...], contrast=...) says."""

from dataclasses import dataclass
from functools import lru_cache

from ranef.errors import suggestion
from ranef.formula import contrasts
from ranef.formula.expression import Column, Expression, Function, Text
from ranef.formula.grammar import error_at
from ranef.formula.literals import Literal, literal

_OPTIONS = ("ref", "levels", "contrast")


@dataclass(frozen=True)
class FactorCoding:
    """How a factor is coded.

    Attributes:
        ref: the level without a coefficient of its own; None for the first, or for sum contrasts
            the last.
        levels: all levels in order; () if they are not given.
        contrast: the contrasts that stand for the factor beside an intercept.
    """

    ref: str | None = None
    levels: tuple[str, ...] = ()
    contrast: contrasts.Contrast = "treatment"


@lru_cache(maxsize=256)
def coding_of(call: Function, text: str = "") -> FactorCoding:
    """The coding that a call of C() asks for.

    Args:
        call: the call of C().
        text: the formula, for the message.

    Raises:
        FormulaError: for unknown options, values that are not levels, and unknown contrasts.
    """
    options = dict(call.options)
    unknown = next((name for name in options if name not in _OPTIONS), None)
    if unknown is not None:
        listed = "ref, levels and contrast"
        raise error_at(text, call, f"C() has no option {unknown!r}; it takes {listed}")
    if len(options) < len(call.options):
        raise error_at(text, call, "an option of C() is given twice")
    contrast, own = _contrast(call, options.get("contrast"), text)
    given = {name: literal(value, text) for name, value in options.items() if name != "contrast"}
    if own is not None:
        given.setdefault("ref", own)
    levels = given.get("levels", [])
    if not isinstance(levels, list) or ("levels" in given and len(levels) < 2):
        raise error_at(text, call, 'C(levels=...) must list the levels, as in levels=["a", "b"]')
    if any(isinstance(level, list) for level in levels):
        raise error_at(text, call, 'C(levels=...) must list the levels, as in levels=["a", "b"]')
    named = tuple(_level(value) for value in levels)
    ref = _level(given["ref"]) if "ref" in given else None
    if isinstance(given.get("ref"), list):
        raise error_at(text, call, 'C(ref=...) must be one level, as in ref="a"')
    if len(set(named)) < len(named):
        raise error_at(text, call, "C(levels=...) names a level twice")
    if ref is not None and named and ref not in named:
        raise error_at(text, call, f"C(ref={ref!r}) is none of its levels")
    if ref is not None and contrast not in contrasts.WITH_REFERENCE:
        kind = contrast if isinstance(contrast, str) else "one's own"
        raise error_at(
            text,
            call,
            f"C(ref=...) is for treatment and sum contrasts; {kind} contrasts take the order of "
            'the levels, as in levels=["a", "b"]',
        )
    return FactorCoding(ref, named, contrast)


def _contrast(
    call: Function, node: Expression | None, text: str
) -> tuple[contrasts.Contrast, Literal]:
    """The contrasts, and the reference in a call such as Treatment("b"), or None."""
    if node is None:
        return "treatment", None
    reference: Literal = None
    if isinstance(node, Function) and contrasts.named(node.name) is not None:
        values = [*node.arguments, *(value for _, value in node.options)]
        if len(values) > 1 or any(name not in ("reference", "base") for name, _ in node.options):
            raise error_at(text, node, f'write contrast="{contrasts.named(node.name)}"')
        reference = literal(values[0], text) if values else None
        node = Text(node.name, node.position)
    if isinstance(node, (Text, Column)):
        word = node.value if isinstance(node, Text) else node.name
        kind = contrasts.named(word)
        if kind is None:
            hint = suggestion(word, contrasts.KINDS)
            raise error_at(text, node, f"there are no contrasts {word!r}; {hint}")
        return kind, reference
    rows = literal(node, text)
    listed = rows if isinstance(rows, list) else []
    matrix = [row if isinstance(row, list) else [row] for row in listed]
    numbers = [[float(v) for v in row if isinstance(v, (int, float))] for row in matrix]
    plain = all(type(value) in (int, float) for row in matrix for value in row)
    wrong = None if plain else "it lists something else than numbers"
    wrong = wrong or contrasts.why_no_matrix(numbers)
    if wrong is not None:
        raise error_at(
            text,
            call,
            f"contrast={node} is no contrast matrix: {wrong}; write one such as "
            "[[0, 0], [1, 0], [0, 1]] for three levels, or a name such as 'sum'",
        )
    return tuple(map(tuple, numbers)), None


def _level(value: Literal) -> str:
    """The name of a level in a table: "1" for the number 1, "True" for true."""
    return repr(value) if isinstance(value, float) else str(value)
