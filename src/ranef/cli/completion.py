"""The command `completion`, which prints what a shell needs to complete commands and options."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ranef import extras

if TYPE_CHECKING:
    from ranef.cli.arguments import Subparsers

_SHELLS = ("bash", "zsh", "fish")
# Arguments that are paths; so are all of the type Path.
_FILES = ("FILE", "DATA")


def add(commands: "Subparsers", whole: argparse.ArgumentParser) -> None:
    """Add the command to the parser `whole`, which the script is made from."""
    completion = commands.add_parser(
        "completion",
        help="print a script that completes commands and options in a shell",
        description=(
            "Print a script for SHELL. For bash put the line 'eval \"$(ranef completion bash)\"' "
            "in ~/.bashrc; for zsh write the script to a file _ranef in a folder of $fpath; for "
            "fish write it to ~/.config/fish/completions/ranef.fish."
        ),
    )
    completion.add_argument("shell", metavar="SHELL", choices=_SHELLS, help=", ".join(_SHELLS))
    completion.set_defaults(run=_completion, parser=completion, whole=whole, commands=commands)


def _completion(options: argparse.Namespace) -> int:
    extras.require("ranef completion", "shtab")
    import shtab

    for parser in options.commands.choices.values():
        for action in parser._actions:
            if action.metavar in _FILES or action.type is Path:
                action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
    print(shtab.complete(options.whole, options.shell))
    return 0
