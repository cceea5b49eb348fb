"""The command line `ranef`. Progress goes to standard error, results go to standard output.

Exit status: 0 on success, 1 for an error in the data, the fit or the output, 2 for wrong usage,
130 if interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from ranef.cli import compare, fit, zillow
from ranef.errors import RanefError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = _parser().parse_args(arguments)
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
        print(f"ranef: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ranef: the output cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("ranef: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ranef",
        description="Mixed-effects models with Keras networks in the mean, and a full posterior.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    zillow.add(commands)
    fit.add(commands)
    compare.add(commands)
    return parser
