"""The command `predict`, which predicts the rows of a table from a saved fit."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ranef.cli import streams
from ranef.cli.arguments import groups, json_text, probabilities, probability, say, seed
from ranef.files.atomic_write import refuse_unwritable

if TYPE_CHECKING:
    from ranef.cli.arguments import Subparsers

# Columns of the table that `predict` writes.
_PREDICTIONS = ("mean", "sd", "lower", "upper")


def add(commands: "Subparsers") -> None:
    """Add the command to the parser."""
    predict = commands.add_parser(
        "predict",
        help="predict the rows of a table from a kept fit",
        description=(
            "Write mean, sd, lower and upper of each row of DATA to TABLE, in their order. DATA "
            "needs the columns of the formula, the response apart."
        ),
    )
    predict.add_argument("file", metavar="FILE", help="what ranef fit has written")
    predict.add_argument(
        "data",
        metavar="DATA",
        help="a CSV or Parquet file, a folder of them, or - for CSV on standard input",
    )
    predict.add_argument(
        "--out",
        metavar="TABLE",
        type=Path,
        required=True,
        help="a .csv or .parquet file, or - for CSV on standard output",
    )
    predict.add_argument(
        "--kind",
        choices=("mean", "response", "component"),
        default="mean",
        help="of the mean, of a response with its noise, or which component it is of (mean)",
    )
    predict.add_argument(
        "--interval", type=probability, default=0.9, help="between lower and upper (0.9)"
    )
    predict.add_argument(
        "--groups",
        metavar="none|all|G,H",
        type=groups,
        default="all",
        help="the groupings whose effects count: none of them is the population level, where "
        "their columns need not be in DATA (all)",
    )
    predict.add_argument(
        "--new-levels",
        choices=("error", "sample", "zero"),
        default="error",
        help="levels that the fit has not seen: refuse them, draw their effects, or none (error)",
    )
    predict.add_argument(
        "--quantiles",
        metavar="P,P",
        type=probabilities,
        help="probabilities of further quantiles, as in 0.1,0.5,0.9: columns q[0.1] and so on",
    )
    predict.add_argument(
        "--missing",
        choices=("error", "keep"),
        default="error",
        help="a row with a gap in a column that is needed: refuse it, or leave its prediction "
        "empty (error)",
    )
    predict.add_argument("--seed", type=seed, default=0, help="of what is drawn (0)")
    predict.add_argument(
        "--keep",
        metavar="COLUMN",
        action="append",
        default=[],
        help="of DATA, to stand before the predictions; may be given several times",
    )
    predict.add_argument("--json", action="store_true", help="print one JSON object")
    predict.set_defaults(run=_predict, parser=predict)


def _predict(options: argparse.Namespace) -> int:
    printed = str(options.out) == streams.STANDARD
    if not printed and options.out.suffix.lower() not in (".csv", ".parquet"):
        options.parser.error(
            f"--out must be a .csv or .parquet file, or -, not {options.out.name!r}"
        )
    if printed and options.json:
        options.parser.error("--json and --out - both print on standard output; leave one out")
    for name in options.keep:
        if name in _PREDICTIONS:
            options.parser.error(f"--keep {name}: the predictions have a column of that name")
    if not printed:
        refuse_unwritable(options.out)

    from ranef.data import tables
    from ranef.fit import load

    fit = load(options.file)
    source = "standard input" if options.data == streams.STANDARD else options.data
    say(f"predicting {source} from {options.file}")
    with streams.table(options.data) as data, streams.output(options.out) as place:
        found = fit.predict(
            data,
            kind=options.kind,
            interval=options.interval,
            new_levels=options.new_levels,
            seed=options.seed,
            groups=options.groups,
            quantiles=options.quantiles,
            missing=options.missing,
        )
        kept = dict(tables.read(data, options.keep).columns) if options.keep else {}
        predictions = {str(name): found[name].to_numpy() for name in found.columns}
        written = tables.write(place, {**kept, **predictions})
    if printed:
        return 0
    out = str(written.resolve())
    if options.json:
        print(json_text({"rows": len(found), "columns": [*kept, *predictions], "out": out}))
    else:
        print(f"{len(found):,} rows written to {out}")
    return 0
