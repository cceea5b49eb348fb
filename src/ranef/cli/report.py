"""The command `report`, which writes a page about a saved fit."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ranef import extras
from ranef.cli.arguments import add_strict, json_text, say, status_of
from ranef.files.atomic_write import refuse_unwritable

if TYPE_CHECKING:
    from ranef.cli.arguments import Subparsers


def add(commands: "Subparsers") -> None:
    """Add the command to the parser."""
    report = commands.add_parser(
        "report",
        help="write a page about a kept fit",
        description="Write one self-contained HTML page about the fit in FILE.",
    )
    report.add_argument("file", metavar="FILE", help="what ranef fit has written")
    report.add_argument("--out", metavar="PAGE", type=Path, required=True, help="an .html file")
    add_strict(report)
    report.add_argument("--json", action="store_true", help="print one JSON object")
    report.set_defaults(run=_report, parser=report)


def _report(options: argparse.Namespace) -> int:
    extras.require("ranef report", *extras.REPORT)
    refuse_unwritable(options.out)

    from ranef.fit import load

    fit = load(options.file)
    say(f"checking {options.file}, and drawing its report")
    # A check with a second opinion, which the page then shows.
    check = fit.check()
    out = str(fit.report(options.out).resolve())
    print(json_text({"out": out}) if options.json else f"written to {out}")
    return status_of(check, options)
