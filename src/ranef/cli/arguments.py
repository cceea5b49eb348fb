"""Types of arguments, progress messages and JSON output that the commands share."""

import argparse
import json
import math
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from ranef import registry
from ranef.errors import suggestion

if TYPE_CHECKING:
    from ranef.check import Check

    Subparsers: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


def count(text: str) -> int:
    """A number of rows or draws, at least 8."""
    return _whole(text, 8)


def seed(text: str) -> int:
    """A whole number below 2^32."""
    return _whole(text, 0)


def chains(text: str) -> int:
    """A number of chains, at least 1."""
    return _whole(text, 1)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or not least <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text}")
    return int(text)


def probability(text: str) -> float:
    """A number between 0 and 1, both excluded."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, not {text}")
    return value


def probabilities(text: str) -> list[float]:
    """Probabilities between commas, each between 0 and 1."""
    return [probability(each.strip()) for each in text.split(",")]


def groups(text: str) -> str | list[str] | None:
    """Groupings: "all", None for "none", or a list of those between commas."""
    if text in ("none", "all"):
        return None if text == "none" else text
    return [name.strip() for name in text.split(",")]


def family(text: str) -> str:
    """The name of a family, or of a mixture of families."""
    for name in registry.parts(text):
        if name not in registry.FAMILIES:
            hint = suggestion(name, registry.FAMILIES)
            raise argparse.ArgumentTypeError(f"there is no family {name!r}; {hint}")
    return text


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Add the option --strict, which `status_of` reads."""
    parser.add_argument(
        "--strict",
        action="store_true",
        help="exit with status 3 where the verdict is distrust, after all is written",
    )


def status_of(check: "Check", options: argparse.Namespace) -> int:
    """The exit status: 3 for a fit that is not to be used, with --strict, and else 0."""
    return 3 if options.strict and check.verdict == "distrust" else 0


def say(text: str) -> None:
    """Print progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def json_text(result: Mapping[str, object]) -> str:
    """A result as one JSON object, with null for infinite values and NaN, which JSON lacks."""
    return json.dumps(_finite(dict(result)), allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
