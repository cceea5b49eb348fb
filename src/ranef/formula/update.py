"""Changes a formula as R's `update` does: a "." stands for what the formula had there."""

import re

from ranef.errors import FormulaError
from ranef.formula.grammar import split_parts

# A "." that is no part of a name or number, and the texts and quoted names in which none is one.
_DOT = re.compile(r"`[^`]*`|\"[^\"\n]*\"|'[^'\n]*'|(?<![\w.])\.(?![\w.])")
# A name, a quoted name or a call without inner brackets, which need no brackets around them.
_SIMPLE = re.compile(r"(`[^`]+`|[\w.]+)(\([^()]*\))?")


def updated(old: str, new: str) -> str:
    """The formula `new`, with each "." replaced by what `old` has in that place.

    As in R, `. ~ . + x` adds a term, `. ~ . - x` takes one away, and `log(.) ~ .` changes the
    response. A further part, such as `sigma ~ . + x`, is about the part of `old` with the same
    left side. The further parts of `old` that `new` does not mention are kept if there is a "."
    in `new`; a formula without one is taken as it is written.

    Raises:
        FormulaError: for a text that is no formula, and a "." in a further part that `old` does
            not have.
    """
    if not isinstance(new, str):
        raise FormulaError(f"a formula is a text such as '. ~ . + x', not {type(new).__name__}")
    changes = split_parts(new)
    if not any(_has_dot(side) for sides in changes for side in sides):
        return new
    known = split_parts(old)
    (response, terms), further = known[0], dict(known[1:])
    out = []
    for i, (left, right) in enumerate(changes):
        before = terms if i == 0 else further.pop(left, None)
        if before is None and _has_dot(right):
            raise FormulaError(
                f"the '.' in {left} ~ {right} has nothing to stand for: the formula {old!r} has no "
                f"part {left!r}"
            )
        own = _filled(left, response) if i == 0 else left
        out.append(f"{own} ~ {_filled(right, before or '')}")
    out += [f"{left} ~ {right}" for left, right in further.items()]
    return "; ".join(out)


def _has_dot(text: str) -> bool:
    return any(found.group() == "." for found in _DOT.finditer(text))


def _filled(text: str, own: str) -> str:
    """`text` with each "." replaced by `own`, in brackets where its terms would come apart."""

    def put(found: re.Match[str]) -> str:
        if found.group() != ".":
            return found.group()
        before, after = text[: found.start()].rstrip(), text[found.end() :].lstrip()
        apart = (not before or before.endswith("+")) and (not after or after[0] in "+-")
        bare = _SIMPLE.fullmatch(own) or (apart and before.count("(") == before.count(")"))
        return own if bare else f"({own})"

    return _DOT.sub(put, text)
