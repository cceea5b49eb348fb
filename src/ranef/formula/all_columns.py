"""Writes out the dots of a formula, which stand for all other columns of the table."""

import re
from collections.abc import Sequence

from ranef.errors import FormulaError
from ranef.formula.grammar import MAX_LENGTH

# A name that needs no backticks.
_PLAIN = re.compile(r"\.?[^\W\d][\w.]*")
# What may stand before and after a sum without changing what it is part of.
_BEFORE = ("", "~", "+", "(")
_AFTER = ("", "+", "-", ";", "|", ")")


def written_out(text: str, dots: Sequence[int], columns: Sequence[str]) -> str:
    """The formula with the columns in place of each dot.

    Args:
        text: the formula.
        dots: places of the dots in it.
        columns: the names of the columns.

    Raises:
        FormulaError: for no columns, names that a formula cannot hold, and a formula that would be
            too long.
    """
    if not columns:
        raise FormulaError.at(text, dots[0], "the table has no other columns for this dot")
    odd = next((name for name in columns if "`" in name or not name.strip()), None)
    if odd is not None:
        raise FormulaError.at(
            text, dots[0], f"the column {odd!r} cannot be written in a formula; rename it"
        )
    names = " + ".join(n if _PLAIN.fullmatch(n) else f"`{n}`" for n in columns)
    out, end = [], len(text)
    for place in sorted(dots, reverse=True):
        before, after = text[:place].rstrip()[-1:], text[place + 1 :].lstrip()[:1]
        alone = len(columns) == 1 or (before in _BEFORE and after in _AFTER)
        out += [text[place + 1 : end], names if alone else f"({names})"]
        end = place
    whole = text[:end] + "".join(reversed(out))
    if len(whole) > MAX_LENGTH:
        raise FormulaError.at(
            text,
            dots[0],
            f"this dot stands for {len(columns):,} columns, and a formula has at most "
            f"{MAX_LENGTH:,} characters; name the columns that matter",
        )
    return whole
