"""The command `zillow`: fits the models of the 2017 post to house sales and writes a page."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ranef import extras
from ranef.cli.arguments import count, say, seed
from ranef.errors import FileError
from ranef.files.atomic_write import refuse_unwritable_folder, write_whole

if TYPE_CHECKING:
    from ranef.cli.arguments import Subparsers
    from ranef.datasets.zillow.preparation import Sales
    from ranef.datasets.zillow.results import Results


def add(commands: "Subparsers") -> None:
    """Add the command to the parser."""
    zillow = commands.add_parser(
        "zillow",
        help="the models of the 2017 post, on house sales",
        description=(
            "Fit a linear model, random intercepts by zip code, a network with random "
            "intercepts, several random effects, and a slope that varies by zip code to house "
            "sales, score them beside constants, and write a report. Without files, sales in "
            "Kaggle's schema are generated in OUT/generated."
        ),
    )
    zillow.add_argument("--properties", type=Path, help="Kaggle's properties_2016.csv")
    zillow.add_argument("--transactions", type=Path, help="Kaggle's train_2016_v2.csv")
    zillow.add_argument("--rows", type=count, help="sales to use, or to generate (30,000)")
    zillow.add_argument("--seed", type=seed, default=0, help="of everything (0)")
    zillow.add_argument(
        "--as-posted",
        action="store_true",
        help="the post's settings: noise sd 1, N(0, 1) priors, mean-field, sigma_zip a point",
    )
    zillow.add_argument(
        "--missing",
        action="store_true",
        help="also fit the sales with gaps that the post drops, their missing values parameters",
    )
    zillow.add_argument(
        "--beyond",
        action="store_true",
        help="also fit what the post left to others, to small generated tables, in a second page",
    )
    zillow.add_argument("--family", choices=("student", "gaussian"), help="of the noise (student)")
    zillow.add_argument("--out", type=Path, required=True, help="folder for what is written")
    zillow.add_argument("--json", action="store_true", help="print one JSON object")
    zillow.set_defaults(run=_zillow, parser=zillow)


def _zillow(options: argparse.Namespace) -> int:
    if (options.properties is None) != (options.transactions is None):
        options.parser.error("--properties and --transactions go together")
    if options.as_posted and options.family == "student":
        options.parser.error("--as-posted has Gaussian noise; leave --family out")

    extras.require("ranef zillow", "keras", *extras.REPORT)

    from ranef.datasets.beyond import page as beyond
    from ranef.datasets.zillow import generator, missing, preparation, report, study

    out = _folder(options.out)
    truth = None
    properties, transactions = options.properties, options.transactions
    if properties is None:
        data = _folder(out / "generated")
        properties, transactions = data / "properties_2016.csv", data / "train_2016_v2.csv"
        say("generating sales in Kaggle's schema")
        truth = generator.generate(properties, transactions, options.rows or 30_000, options.seed)
    say("preparing the sales")
    sales = preparation.prepare(properties, transactions, options.rows, options.seed)
    say(_preparation(sales))
    entries = {}
    family = options.family or ("gaussian" if options.as_posted else "student")
    for name, formula in study.FORMULAS.items():
        say(f"fitting {name}: {formula}")
        entries[name] = study.fit_model(
            sales,
            name,
            family=family,
            as_posted=options.as_posted,
            seed=options.seed,
            progress=sys.stderr.isatty(),
        )
    result: Results = {
        "data": {
            "source": "generated" if truth else str(Path(transactions).resolve()),
            "rows": sales.n,
            "train": int(sales.train.sum()),
            "validation": int((~sales.train).sum()),
            "zips": len(set(sales.columns["zip"])),
        },
        "constants": study.constants(sales),
        "models": [entries[name].as_json() for name in study.SCORED],
        "out": str(out.resolve()),
    }
    if options.missing:
        say("fitting the sales with gaps too")
        result["missing"] = missing.study(
            sales, family, seed=options.seed, progress=sys.stderr.isatty()
        )
    if truth:
        result["truth"] = study.truth_table(sales, truth, entries)
    pages = {}
    if options.beyond:
        say("going beyond the post")
        pages["beyond"] = beyond.page(options.seed, sys.stderr.isatty(), say)
    say("drawing the report")
    beside = {f"{name}.html": page.title for name, page in pages.items()}
    pages["report"] = report.page(sales, entries, result, beside)
    figures = _folder(out / "figures")
    result["figures"] = [
        str(write_whole(figures / f"{picture.name}.png", picture.png).resolve())
        for page in pages.values()
        for picture in page.pictures()
    ]
    written = {
        name: str(page.write(out / f"{name}.html").resolve()) for name, page in pages.items()
    }
    write_whole(out / "results.json", json.dumps({**result, **written}, indent=2) + "\n")
    print(json.dumps({**result, **written}) if options.json else _text(result, written))
    return 0


def _preparation(sales: "Sales") -> str:
    """A text on what was kept and dropped, and on the columns most correlated with the response."""
    strongest = list(sales.correlations.items())[:9]
    lines = [
        f"{sales.read:,} sales, {sales.joined:,} with their parcel, {sales.n:,} complete in the "
        f"{len(sales.kept)} columns kept; {len(sales.dropped)} columns with a quarter of nulls or "
        "more dropped",
        "correlation with logerror: " + ", ".join(f"{name} {r:+.4f}" for name, r in strongest),
    ]
    return "\n".join(lines)


def _text(result: "Results", written: Mapping[str, str]) -> str:
    """The result as tables for the terminal, and the pages that are written."""
    from ranef.datasets.zillow import tables

    data = result["data"]
    lines = [
        f"{data['rows']:,} sales in {data['zips']} zips: {data['train']:,} to fit on, "
        f"{data['validation']:,} to score on ({data['source']})",
        "",
        *_aligned(tables.scores(result)),
        "",
        *(f"{model['name']}: {model['formula']}" for model in result["models"]),
    ]
    if "missing" in result:
        head, *rows = tables.missing(result)
        lines += ["", tables.kept(result), "", *_aligned([head, *rows])]
    if "truth" in result:
        title = "The known truth of the generated sales:"
        lines += ["", title, "", *_aligned(tables.truths(result))]
    pages = [f"{name}: {page}" for name, page in written.items()]
    return "\n".join([*lines, "", f"written to {result['out']}", *pages])


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines of text, the first column aligned left and the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _folder(path: Path) -> Path:
    """The folder, which is created if it does not exist.

    Raises:
        FileError: if it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(
            f"the folder {str(path)!r} cannot be written to ({reason}); choose another"
        ) from None
    refuse_unwritable_folder(path)
    return path
