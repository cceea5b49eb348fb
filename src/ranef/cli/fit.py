"""The commands `fit`, which saves a fit to a file, and `predict` and `report`, which read it."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ranef import extras, registry
from ranef.cli.arguments import count, family, json_text, probability, say, seed
from ranef.files.atomic_write import refuse_unwritable

if TYPE_CHECKING:
    from ranef.cli.arguments import Subparsers

# Columns of the table that `predict` writes.
_PREDICTIONS = ("mean", "sd", "lower", "upper")


def add(commands: "Subparsers") -> None:
    """Add the three commands to the parser."""
    fit = commands.add_parser(
        "fit",
        help="fit a formula to a table, and keep the fit in a file",
        description=(
            "Fit FORMULA, such as 'y ~ x + (1 | g)', to DATA and write the fit to FILE, print "
            "its parameters and what speaks against it. FILE holds the rows it used of the "
            "columns it used."
        ),
    )
    fit.add_argument("data", metavar="DATA", help="a CSV or Parquet file, or a folder of them")
    fit.add_argument("formula", metavar="FORMULA", help="in Wilkinson notation")
    fit.add_argument("--out", metavar="FILE", type=Path, required=True, help="the fit, one file")
    fit.add_argument(
        "--family",
        type=family,
        default="gaussian",
        help=f"of the response: {', '.join(registry.FAMILIES)}, the last as in "
        "'mixture(gaussian, gaussian)' (gaussian)",
    )
    fit.add_argument("--method", choices=("auto", *registry.METHODS), default="auto")
    fit.add_argument("--draws", type=count, default=1000, help="in each chain (1,000)")
    fit.add_argument("--seed", type=seed, default=0, help="of everything (0)")
    fit.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=Path,
        help="of svi: its state, from which it goes on if it was killed and is started again",
    )
    fit.add_argument(
        "--missing",
        metavar="TEXT",
        action="append",
        default=[],
        help="a text that means a missing level, such as NA; may be given several times",
    )
    _finish(fit, _fit)
    predict = commands.add_parser(
        "predict",
        help="predict the rows of a table from a kept fit",
        description=(
            "Write mean, sd, lower and upper of each row of DATA to TABLE, in their order. DATA "
            "needs the columns of the formula, the response apart."
        ),
    )
    predict.add_argument("file", metavar="FILE", help="what ranef fit has written")
    predict.add_argument("data", metavar="DATA", help="a CSV or Parquet file, or a folder of them")
    predict.add_argument(
        "--out", metavar="TABLE", type=Path, required=True, help="a .csv or .parquet file"
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
        "--new-levels",
        choices=("error", "sample", "zero"),
        default="error",
        help="levels that the fit has not seen: refuse them, draw their effects, or none (error)",
    )
    predict.add_argument("--seed", type=seed, default=0, help="of what is drawn (0)")
    predict.add_argument(
        "--keep",
        metavar="COLUMN",
        action="append",
        default=[],
        help="of DATA, to stand before the predictions; may be given several times",
    )
    _finish(predict, _predict)
    report = commands.add_parser(
        "report",
        help="write a page about a kept fit",
        description="Write one self-contained HTML page about the fit in FILE.",
    )
    report.add_argument("file", metavar="FILE", help="what ranef fit has written")
    report.add_argument("--out", metavar="PAGE", type=Path, required=True, help="an .html file")
    _finish(report, _report)


def _finish(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run, parser=parser)


def _fit(options: argparse.Namespace) -> int:
    refuse_unwritable(options.out)

    from ranef.model import Model

    model = Model(options.formula, family=options.family, missing=options.missing)
    fit = model.fit(
        options.data,
        method=options.method,
        seed=options.seed,
        draws=options.draws,
        progress=sys.stderr.isatty(),
        **({} if options.checkpoint is None else {"checkpoint": options.checkpoint}),
    )
    out = str(fit.save(options.out).resolve())
    summary, check = fit.summary(), fit.check()
    if options.json:
        rows = {"read": fit.rows.read, "used": fit.rows.used, "dropped": dict(fit.rows.dropped)}
        _print(
            {
                "formula": model.formula,
                "family": fit.program.family.name,
                "method": fit.method,
                "why": fit.why,
                "converged": fit.converged,
                "message": fit.message,
                "seconds": fit.seconds,
                "rows": rows,
                "parameters": summary.reset_index().to_dict("records"),
                "verdict": check.verdict,
                "reasons": list(check.reasons),
                "out": out,
            }
        )
        return 0
    lines = [
        f"{fit.method}: {fit.message}",
        str(fit.rows),
        "",
        summary.to_string(),
        "",
        str(check),
        "",
        f"written to {out}",
    ]
    print("\n".join(lines))
    return 0


def _predict(options: argparse.Namespace) -> int:
    if options.out.suffix.lower() not in (".csv", ".parquet"):
        options.parser.error(f"--out must be a .csv or .parquet file, not {options.out.name!r}")
    for name in options.keep:
        if name in _PREDICTIONS:
            options.parser.error(f"--keep {name}: the predictions have a column of that name")
    refuse_unwritable(options.out)

    from ranef.data import tables
    from ranef.fit import load

    fit = load(options.file)
    say(f"predicting {options.data} from {options.file}")
    found = fit.predict(
        options.data,
        kind=options.kind,
        interval=options.interval,
        new_levels=options.new_levels,
        seed=options.seed,
    )
    kept = dict(tables.read(options.data, options.keep).columns) if options.keep else {}
    predictions = {str(name): found[name].to_numpy() for name in found.columns}
    out = str(tables.write(options.out, {**kept, **predictions}).resolve())
    result = {"rows": len(found), "columns": [*kept, *predictions], "out": out}
    if options.json:
        _print(result)
    else:
        print(f"{len(found):,} rows written to {out}")
    return 0


def _report(options: argparse.Namespace) -> int:
    extras.require("ranef report", *extras.REPORT)
    refuse_unwritable(options.out)

    from ranef.fit import load

    fit = load(options.file)
    say(f"drawing the report of {options.file}")
    out = str(fit.report(options.out).resolve())
    if options.json:
        _print({"out": out})
    else:
        print(f"written to {out}")
    return 0


def _print(result: Mapping[str, object]) -> None:
    print(json_text(result))
