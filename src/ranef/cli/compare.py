"""The command `compare`: compares saved fits by their predictions of rows that were left out."""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ranef.cli.arguments import json_text, say, seed

if TYPE_CHECKING:
    from ranef.cli.arguments import Subparsers


def add(commands: "Subparsers") -> None:
    """Add the command to the parser."""
    compare = commands.add_parser(
        "compare",
        help="compare kept fits of the same rows, by what they predict of rows left out",
        description=(
            "Print the expected log predictive density (elpd) of each fit, the best first, with "
            "the difference from it, that difference's standard error, and stacking weights. "
            "Rows are left out one at a time, without refitting; with --group all rows of a level "
            "at once; with --data the fits are scored on rows they have not seen."
        ),
    )
    compare.add_argument("first", metavar="FILE", help="what ranef fit has written")
    compare.add_argument("others", metavar="FILE", nargs="+", help="further ones, of the same rows")
    what = compare.add_mutually_exclusive_group()
    what.add_argument("--group", metavar="G", help="leave out all rows of each level of this one")
    what.add_argument("--data", metavar="DATA", help="rows that no fit has seen, with the response")
    compare.add_argument("--seed", type=seed, default=0, help="of what is drawn (0)")
    compare.add_argument("--json", action="store_true", help="print one JSON object")
    compare.set_defaults(run=_compare, parser=compare)


def _compare(options: argparse.Namespace) -> int:
    from ranef.comparison import compare
    from ranef.fit import load

    paths = [options.first, *options.others]
    stems = Counter(Path(path).stem for path in paths)
    names = [Path(p).stem if stems[Path(p).stem] == 1 else str(p) for p in paths]
    if len(set(names)) < len(names):
        options.parser.error("a file is given twice")
    say(f"comparing {len(names)} fits")
    fits = {name: load(path) for name, path in zip(names, paths, strict=True)}
    table = compare(fits, options.group, data=options.data, seed=options.seed)
    if options.json:
        data = options.data and str(Path(options.data).resolve())
        files = {n: str(Path(path).resolve()) for n, path in zip(names, paths, strict=True)}
        records = [
            {**record, "formula": fits[name].program.formula.text, "file": files[name]}
            for name, record in zip(
                table.index, table.reset_index().to_dict("records"), strict=True
            )
        ]
        found = {"group": options.group, "data": data, "fits": records, "notes": table.notes}
        print(json_text(found))
        return 0
    print(table.to_string(float_format=lambda v: f"{v:,.3f}"))
    for note in table.notes:
        print(note)
    for name in table.index:
        print(f"{name}: {fits[name].program.formula.text}")
    return 0
