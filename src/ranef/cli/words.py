"""Says in the words of the command line what the library says in those of Python.

The library's messages name its keyword arguments, as in "use new_levels='zero'". Destinations of
argparse are these keywords, so that the parsers themselves say which option each stands for, here
"--new-levels zero".
"""

import argparse
import re
import shlex
from collections.abc import Mapping

# The value behind a keyword: a text in quotes, what stands in brackets, a call, a number or a word.
_VALUE = re.compile(
    r"""'[^']*' | "[^"]*" | \[[^\]]*\] | \{[^{}]*\} | \([^()]*\)
    | [\w.]+\([^()]*\) | -?\d[\d,]*(?:\.\d+)? | \w+""",
    re.VERBOSE,
)
_KEYWORD = re.compile(r"(?<![\w'\".])([a-z_]+)=(?!=)")


def options_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The option, such as --new-levels, of each keyword argument that a command has one for."""
    return {
        action.dest: max(action.option_strings, key=len)
        for action in parser._actions
        if action.option_strings
    }


def in_words(message: str, command: str, parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """The message with options in place of keyword arguments.

    Arguments of calls, such as `mi(x, family=poisson)`, are parts of formulas and stay. So do all
    lines but the first, which show the user's formula.

    Args:
        message: a message of the library.
        command: the command that was run.
        parsers: the parser of each command. Keywords that the command has no option for are
            given those of the first other one, as in "ranef fit --method nuts".
    """
    options = {
        keyword: f"ranef {name} {option}"
        for name in reversed(list(parsers))
        for keyword, option in options_of(parsers[name]).items()
    }
    options |= options_of(parsers[command])
    first, newline, rest = message.partition("\n")
    return _replaced(first, options) + newline + rest


def _replaced(text: str, options: Mapping[str, str]) -> str:
    parts, end = [], 0
    for match in _KEYWORD.finditer(text):
        keyword = match[1]
        if match.start() < end or keyword not in options or _in_call(text[: match.start()]):
            continue
        value = _VALUE.match(text, match.end())
        parts += [text[end : match.start()], _option(options[keyword], value[0] if value else "")]
        end = value.end() if value else match.end()
    text = "".join([*parts, text[end:]])
    named = re.match(r"([a-z_]+) must ", text)
    if named and named[1] in options:
        text = options[named[1]] + text[named.end(1) :]

    def option(match: re.Match[str]) -> str:
        return f"option {options[match[1]]}" if match[1] in options else match[0]

    # rf.Normal is plain normal in --prior.
    return re.sub(r"\brf\.(?=[A-Z])", "", re.sub(r"option '(\w+)'", option, text))


def _in_call(before: str) -> bool:
    """Whether a text ends within the brackets of a call, such as "C(f, "."""
    depth = 0
    for place in range(len(before) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(before[place], 0)
        if depth < 0:
            return place > 0 and (before[place - 1].isalnum() or before[place - 1] == "_")
    return False


def _option(option: str, value: str) -> str:
    """An option with a value of Python as the command line takes it."""
    if not value:
        return option
    quoted = re.findall(r"'([^']*)'|\"([^\"]*)\"", value)
    texts = [a or b for a, b in quoted]
    if value.startswith("{"):
        pairs = re.findall(r"'([^']*)': *(.*?)(?=, *'|\}$)", value)
        return " ".join(f"{option} {shlex.quote(f'{name}={prior}')}" for name, prior in pairs)
    if value.startswith("rf.Mixture("):
        count = re.search(r"k=(\d+)", value)
        names = ", ".join(texts * int(count[1]) if count else texts)
        return f"{option} {shlex.quote(f'mixture({names})')}"
    if value[0] in "([":
        return f"{option} {shlex.quote(','.join(texts) or value[1:-1].strip(', '))}"
    if texts:
        return f"{option} {shlex.quote(texts[0])}"
    if value[0].isdigit() or value[0] == "-":
        return f"{option} {value.replace(',', '')}"
    return f"{option} {value.lower() if value == 'None' else value}"
