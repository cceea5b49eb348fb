"""The command `fit`, which fits a formula to a table and saves the fit to a file."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ranef import registry
from ranef.cli import streams
from ranef.cli.arguments import (
    add_strict,
    chains,
    count,
    family,
    json_text,
    probability,
    seed,
    status_of,
)
from ranef.cli.prior_texts import assignment
from ranef.files.atomic_write import refuse_unwritable

if TYPE_CHECKING:
    from ranef.check import Check
    from ranef.cli.arguments import Subparsers
    from ranef.fit import Fit


def add(commands: "Subparsers") -> None:
    """Add the command to the parser."""
    fit = commands.add_parser(
        "fit",
        help="fit a formula to a table, and keep the fit in a file",
        description=(
            "Fit FORMULA, such as 'y ~ x + (1 | g)', to DATA and write the fit to FILE, print "
            "its parameters and what speaks against it. FILE holds the rows it used of the "
            "columns it used."
        ),
    )
    fit.add_argument(
        "data",
        metavar="DATA",
        help="a CSV or Parquet file, a folder of them, or - for CSV on standard input",
    )
    fit.add_argument("formula", metavar="FORMULA", help="in Wilkinson notation")
    fit.add_argument("--out", metavar="FILE", type=Path, required=True, help="the fit, one file")
    fit.add_argument(
        "--family",
        type=family,
        default="gaussian",
        help=f"of the response: {', '.join(registry.FAMILIES)}, the last as in "
        "'mixture(gaussian, gaussian)' (gaussian)",
    )
    fit.add_argument(
        "--prior",
        dest="priors",
        metavar="NAME=PRIOR",
        type=assignment,
        action="append",
        default=[],
        help="of a parameter, as in 'x=normal(0, 1)'; a number fixes it; may be given several "
        "times",
    )
    fit.add_argument("--method", choices=("auto", *registry.METHODS), default="auto")
    fit.add_argument("--draws", type=count, default=1000, help="in each chain (1,000)")
    fit.add_argument("--chains", type=chains, help="of nuts, which it chooses (4)")
    fit.add_argument(
        "--interval",
        type=probability,
        default=0.9,
        help="probability between lower and upper of the table (0.9)",
    )
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
    add_strict(fit)
    fit.add_argument("--json", action="store_true", help="print one JSON object")
    fit.set_defaults(run=_fit, parser=fit)


def _fit(options: argparse.Namespace) -> int:
    priors = dict(options.priors)
    if len(priors) < len(options.priors):
        options.parser.error("--prior: a parameter has two priors; give it one")
    refuse_unwritable(options.out)

    from ranef.model import Model

    model = Model(options.formula, options.family, priors, missing=options.missing)
    given = {"checkpoint": options.checkpoint, "chains": options.chains}
    with streams.table(options.data) as data:
        fit = model.fit(
            data,
            method=options.method,
            seed=options.seed,
            draws=options.draws,
            progress=sys.stderr.isatty(),
            **{name: value for name, value in given.items() if value is not None},
        )
    out = str(fit.save(options.out).resolve())
    check = fit.check()
    if options.json:
        print(json_text({**as_record(fit, check, options.interval), "out": out}))
    else:
        print("\n".join([*as_lines(fit, check, options), "", f"written to {out}"]))
    return status_of(check, options)


def as_record(fit: "Fit", check: "Check", interval: float) -> Mapping[str, object]:
    """A fit as one JSON object."""
    return {
        "formula": fit.program.formula.text,
        "family": fit.program.family.name,
        "method": fit.method,
        "why": fit.why,
        "converged": fit.converged,
        "message": fit.message,
        "seconds": fit.seconds,
        "rows": {"read": fit.rows.read, "used": fit.rows.used, "dropped": dict(fit.rows.dropped)},
        "parameters": fit.summary(interval).reset_index().to_dict("records"),
        "verdict": check.verdict,
        "reasons": list(check.reasons),
    }


def as_lines(fit: "Fit", check: "Check", options: argparse.Namespace) -> list[str]:
    """A fit as lines for a person: how it ended, its rows, its parameters and the verdict."""
    return [
        f"{fit.method}: {fit.message}",
        str(fit.rows),
        "",
        fit.summary(options.interval).to_string(),
        "",
        *(options.in_words(line) for line in str(check).splitlines()),
    ]
