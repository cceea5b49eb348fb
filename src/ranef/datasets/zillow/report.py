"""The page of `ranef zillow`: the models of the post, with scores on held-out sales."""

from collections.abc import Mapping

from ranef import plots
from ranef.datasets.zillow import tables
from ranef.datasets.zillow.preparation import NULL_LIMIT, PREDICTORS, RESPONSE, Sales
from ranef.datasets.zillow.results import GapStudy, Results
from ranef.datasets.zillow.study import FORMULAS, INTERCEPTS, SCORED, Entry
from ranef.fit import Fit
from ranef.report import sections
from ranef.report.page import Page
from ranef.report.parts import Part, Section, Table, Text, cells
from ranef.report.pictures import picture

_LEAD = (
    "Zillow's estimate of what a house sells for is sometimes too high and sometimes too low. "
    f"Can that error, {RESPONSE} = log(estimate) - log(price), be foreseen from the house, and "
    "does it differ between zip codes?"
)

# What each model adds to those before it; the first sentence of its section.
_ABOUT = {
    "linear": "A Bayesian linear regression on the house's area, bathrooms and year.",
    "random_intercepts": "The same, and an intercept of its own for each zip code.",
    "network": "The same intercepts beside a small Keras network in place of the linear part.",
    "several_effects": "Intercepts by zip code, by city and by county, all at once.",
    "varying_slope": "Not the intercept alone but also the slope of the area varies by zip code.",
}

# Which draws each model's section shows. All models with a linear part have the same prior draws of
# it, so that only the first of them shows these.
_UNDER = {name: ("prior", "posterior") for name in ("linear", "network")} | {
    name: ("posterior",) for name in ("random_intercepts", "several_effects", "varying_slope")
}


def page(
    sales: Sales,
    entries: Mapping[str, Entry],
    result: Results,
    beside: Mapping[str, str],
) -> Page:
    """Compose the page.

    Args:
        sales: the prepared table.
        entries: the fitted models of `study.FORMULAS`, by name.
        result: what `ranef zillow --json` prints.
        beside: titles of other pages in the same folder, by file name.
    """
    fits = {name: entry.fit for name, entry in entries.items()}
    return Page(
        "Errors of house price estimates",
        _LEAD,
        (
            Section("Data", _data(sales, result)),
            Section("Results", _results(result, {name: fits[name] for name in SCORED})),
            *(Section(_title(name), _model(name, fits[name])) for name in SCORED),
            Section("Shrinkage", _shrinkage(fits[INTERCEPTS])),
            *(
                [Section("Missing values", _missing(result, result["missing"]))]
                if "missing" in result
                else []
            ),
            Section("Made with", [Text(sections.made_with(fits["linear"]))]),
        ),
        beside,
    )


def _title(name: str) -> str:
    return f"Model: {name.replace('_', ' ')}"


def _data(sales: Sales, result: Results) -> list[Part]:
    data = result["data"]
    few = f"{NULL_LIMIT:.0%}"
    return [
        Text(
            f"{sales.read:,} sales were read and {sales.joined:,} of them found in the table of "
            f"properties. {len(sales.dropped)} columns without a value in {few} of the sales or "
            f"more were dropped, then {sales.joined - sales.n:,} sales with a gap in one of the "
            f"{len(sales.kept)} columns kept. Of the {sales.n:,} left, in {data['zips']:,} zip "
            f"codes, {data['train']:,} drawn at random are fitted and {data['validation']:,} are "
            f"for scoring. Source: {data['source']}."
        ),
        Text(
            f"The models use {', '.join(PREDICTORS)}, each scaled to mean 0 and sd 1 over the "
            "fitted sales."
        ),
        Table(
            ("column", f"correlation with {RESPONSE}"),
            [(name, f"{r:+.4f}") for name, r in list(sales.correlations.items())[:9]],
            "The columns that go with the error most; none does by much.",
        ),
        Text(
            "Columns dropped, with the share that has no value: "
            + ", ".join(f"{name} {share:.1%}" for name, share in sales.dropped.items())
            + "."
        ),
    ]


def _results(result: Results, fits: Mapping[str, Fit]) -> list[Part]:
    head, *rows = tables.scores(result)
    parts: list[Part] = [
        Table(("model", "formula"), [(name, FORMULAS[name]) for name in SCORED], words=True),
        Table(
            head,
            rows,
            "On the sales for scoring: mean absolute error of the posterior mean (lower is "
            "better), mean log predictive density (higher is better), and share inside the 90% "
            "interval (should be .900). ELBO, in nats, is of the fitted sales.",
        ),
        Text(
            "A constant has no predictors: the mean, the median, and the best Student-t. A model "
            "that does not beat them on a score has learned nothing that the score can see. "
            "The error of a sale is mostly noise, so the models differ little in the mean "
            "absolute error, and more in the log score, which also asks how sure they were."
        ),
    ]
    if "truth" in result:
        head, *rows = tables.truths(result)
        caption = "What generated these sales, and whether the 90% interval holds it."
        parts.append(Table(head, rows, caption))
    return [
        *parts,
        Table(
            ("model", "method", "how the fit ended", "verdict"),
            [
                (name, fit.method, sections.convergence(fit), fit.check(quick=True).verdict)
                for name, fit in fits.items()
            ],
            "Convergence.",
            words=True,
        ),
        picture(
            lambda: plots.residuals(fits),
            "residuals",
            "Residuals",
            "Response minus prediction on the sales for scoring. Narrower is better; the axis "
            "leaves out the outer 2%.",
        ),
        picture(
            lambda: plots.calibration(fits),
            "calibration",
            "Calibration",
            "Of all 50% intervals half should hold their response, and so for every other "
            "probability: left on the diagonal, right near zero and inside the band.",
        ),
    ]


def _model(name: str, fit: Fit) -> list[Part]:
    parts: list[Part] = [
        Text(_ABOUT[name]),
        Text(f"Method {fit.method}: {fit.why}."),
        *sections.verdict(fit),
        *sections.model(fit),
        sections.priors(fit),
        *sections.parameters(fit),
        sections.posterior(fit, name),
        *sections.data_fit(fit, name, _UNDER[name]),
        sections.partial_effects(fit, name),
        sections.posterior_predictive(fit, name),
    ]
    for factor in sections.groupings(fit):
        parts += sections.effects(fit, factor, name)
    return [*parts, *sections.elbo(fit, name)]


def _missing(result: Results, found: GapStudy) -> list[Part]:
    head, *rows = tables.missing(result)
    return [
        Text(
            "The post drops every sale with a gap in some column. Here a missing value is a "
            "parameter: an observed one is data of the normal distribution that it is drawn from, "
            f"and both inform the other coefficients. {tables.kept(result)}"
        ),
        Table(("formula",), [(found["formula"],)], words=True),
        Table(
            head,
            rows,
            "The sales for scoring are those of the other models; those with gaps only the second "
            "fit can predict.",
        ),
        Table(
            ("parameter", "dropped: mean", "sd", "kept: mean", "sd"),
            [(name, *cells(values)) for name, values in found["coefficients"].items()],
            "What the sales with gaps change.",
        ),
    ]


def _shrinkage(fit: Fit) -> list[Part]:
    mean, sd = (
        cells([float(fit.summary().loc[name, "mean"])])[0] for name in ("Intercept", "1|zip_sigma")
    )
    return [
        Text(
            "What pooling does is clearest without predictors: each zip code's estimate from its "
            "own sales alone, beside that of a model of intercepts by zip code, which draws it "
            f"towards the mean of {mean}; the sd between zip codes is {sd}."
        ),
        *sections.model(fit),
        Text(sections.convergence(fit)),
        sections.shrinkage(fit, "zip", INTERCEPTS),
    ]
