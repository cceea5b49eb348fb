"""The command `show`, which prints what a saved fit holds."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ranef.cli.arguments import add_strict, json_text, probability, status_of
from ranef.cli.fit import as_lines, as_record

if TYPE_CHECKING:
    from ranef.cli.arguments import Subparsers


def add(commands: "Subparsers") -> None:
    """Add the command to the parser."""
    show = commands.add_parser(
        "show",
        help="print what a kept fit holds: formula, parameters, rows, verdict",
        description=(
            "Print the formula of the fit in FILE, its family and method, its rows, its "
            "parameters and what speaks against it."
        ),
    )
    show.add_argument("file", metavar="FILE", help="what ranef fit has written")
    show.add_argument(
        "--interval",
        type=probability,
        default=0.9,
        help="probability between lower and upper of the table (0.9)",
    )
    add_strict(show)
    show.add_argument("--json", action="store_true", help="print one JSON object")
    show.set_defaults(run=_show, parser=show)


def _show(options: argparse.Namespace) -> int:
    from ranef.fit import load

    fit = load(options.file)
    check = fit.check()
    if options.json:
        file = str(Path(options.file).resolve())
        print(json_text({**as_record(fit, check, options.interval), "file": file}))
    else:
        notes = fit.program.family.notes(fit.training.state.family)
        print(f"{fit.program.formula.text}, family {fit.program.family.name}")
        print("\n".join([*notes, *as_lines(fit, check, options)]))
    return status_of(check, options)
