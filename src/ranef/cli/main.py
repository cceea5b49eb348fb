"""The command line: progress on standard error, results on standard output.

Exit status: 0 done, 1 the fit or the data is at fault, 2 wrong usage, 130 interrupted.
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
        # Whoever read the output has had enough; Python must not try to flush it again.
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
