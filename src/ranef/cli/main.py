"""The command line `ranef`. Progress goes to standard error, results go to standard output.

Exit status: 0 on success, 1 for an error in the data, the fit or the output, 2 for wrong usage,
3 with --strict where the verdict is distrust, 130 if interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial

from ranef.cli import compare, completion, fit, predict, report, show, zillow
from ranef.cli.words import in_words
from ranef.errors import RanefError

_STATUS = (
    "exit status: 0 done; 1 the data, the fit or the output is at fault; 2 wrong usage; "
    "3 with --strict, where the verdict on the fit is distrust; 130 interrupted"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser, commands = _parser()
    options = parser.parse_args(arguments)
    options.in_words = partial(in_words, command=options.command, parsers=commands)
    try:
        status = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of the output has closed the pipe. Standard output is redirected, so that
        # Python does not flush it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RanefError as error:
        print(f"ranef: {options.in_words(str(error))}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ranef: the output cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("ranef: interrupted", file=sys.stderr)
        return 130


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the command line, and that of each command by name."""
    parser = argparse.ArgumentParser(
        prog="ranef",
        description="Mixed-effects models with Keras networks in the mean, and a full posterior.",
        epilog=_STATUS,
    )
    parser.add_argument("--version", action=_Version, help="print the version, and exit")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for module in (fit, predict, show, report, compare):
        module.add(commands)
    completion.add(commands, parser)
    zillow.add(commands)
    return parser, dict(commands.choices)


class _Version(argparse.Action):
    """Prints the version that is installed, which is looked up only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import ranef

        print(f"ranef {ranef.__version__}")
        parser.exit()
