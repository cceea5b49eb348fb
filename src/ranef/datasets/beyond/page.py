"""The page "beyond the post": what the post left as future work, on small simulated tables."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ranef.data.row_labels import Table as Predictions
from ranef.datasets.beyond import tables
from ranef.datasets.beyond.tables import SimulatedTable
from ranef.families.mixture_spec import Mixture
from ranef.fit import Fit
from ranef.model import Model
from ranef.names import FamilyName
from ranef.numerics.shapes import Float
from ranef.plots.canvas import BLUE, COLOURS, INK, RED, panels, styled
from ranef.report import sections
from ranef.report.page import Page
from ranef.report.parts import Part, Section, Table, Text, cells
from ranef.report.pictures import picture

_LEAD = (
    "The post named what it could not do or left as future work. Here each of these is a formula, "
    "on a small generated table, so that what is found can be held against the truth."
)


@dataclass(frozen=True)
class Example:
    """A kind of model that the post left as future work.

    Attributes:
        name: of its picture's file.
        title: of its section.
        about: what the post says about it, and how it is written here.
        formula: of the model.
        known: the table and the parameters that generated it.
        draw: makes the figure from the fit and the simulated table.
        reading: how to read the figure.
        family: of the response.
        found: makes further parts of the section from the same arguments.
    """

    name: str
    title: str
    about: str
    formula: str
    known: SimulatedTable
    draw: Callable[[Fit, SimulatedTable], Figure]
    reading: str
    family: FamilyName | Mixture = "gaussian"
    found: Callable[[Fit, SimulatedTable], list[Part]] = lambda fit, known: []

    def section(self, seed: int, progress: bool) -> Section:
        """Fit the model and return the section about it."""
        fit = Model(self.formula, self.family).fit(self.known.rows, seed=seed, progress=progress)
        parts: list[Part] = [
            Text(self.about),
            *sections.model(fit),
            Text(f"Method {fit.method}: {fit.why}. {sections.convergence(fit)}"),
            *sections.verdict(fit),
            picture(lambda: self.draw(fit, self.known), self.name, self.title, self.reading),
            *self.found(fit, self.known),
        ]
        return Section(self.title, parts)


def examples(seed: int = 0) -> tuple[Example, ...]:
    """All examples, in the order in which the post names them."""
    return (
        Example(
            "missing",
            "Missing values",
            "The post writes a missing predictor as a parameter with the distribution that the "
            "observed ones are drawn from, and says it failed to build it. mi(area) is that "
            "model. Here the area is missing mostly of dear houses, so that those without a gap "
            "are not like the others.",
            "price ~ mi(area) + age; mi(area) ~ age",
            tables.houses(seed=seed),
            _imputed,
            "Each missing area with its 90% interval, given the house's age and price, against "
            "the area it had. Nine in ten of the intervals should reach the diagonal.",
            found=_dropped,
        ),
        Example(
            "weights",
            "Posteriors over a network's weights",
            "Keras' weights are points, and the post sees no way to give them posteriors without "
            "leaving Keras. weights='full' puts a prior on every weight of any Keras model.",
            "y ~ nn(x, hidden=[32, 32], weights='full')",
            tables.gap(seed=seed),
            _gap,
            "The mean with its 90% interval, and the truth. Where there are no rows the "
            "interval is wide.",
        ),
        Example(
            "slopes",
            "Varying slopes",
            "Not the intercept alone: each district has a slope of its own, and the two are "
            "correlated. A district of three houses takes most of what it says from the others.",
            "price ~ area + (1 + area | district)",
            tables.slopes(seed=seed),
            _slopes,
            "Each district's slope with its 90% interval and the truth, from the district "
            "of fewest houses to that of most.",
        ),
        Example(
            "process",
            "Gaussian processes",
            "A function without a formula, for the mean and for the noise: each is a Gaussian "
            "process with an amplitude and a length scale of its own.",
            "index ~ gp(day); sigma ~ gp(day)",
            tables.market(seed=seed),
            _process,
            "The mean of the index with the central 90% of its values, and the same of what "
            "generated them.",
        ),
        Example(
            "mixture",
            "Mixtures",
            "Two kinds of sale that no column tells apart: the days that they take and how common "
            "each kind is both depend on the price. A network may stand for any of these lines, "
            "which makes it a mixture density network.",
            "days ~ price; mix ~ price",
            tables.offers(seed=seed),
            _kinds,
            "Each sale, the redder the more probably it is of the second kind, and the mean of "
            "either kind.",
            family=Mixture("gaussian", k=2),
            found=_assigned,
        ),
        Example(
            "factors",
            "Matrix factorization",
            "What users and items say beyond an intercept each: the product of a few numbers for "
            "each of both. Six are allowed, two made the ratings; the scales of those that are "
            "not needed go to zero.",
            "rating ~ (1 | user) + (1 | item) + mf(user, item, rank=6)",
            tables.ratings(seed=seed),
            _ratings,
            "Pairs that were not seen in training: the prediction against the truth, with the "
            "intercepts alone and with the factors. Closer to the diagonal is better.",
        ),
    )


def page(seed: int = 0, progress: bool = False, say: Callable[[str], None] = print) -> Page:
    """Fit all examples and return the page.

    Args:
        seed: of the tables and fits.
        progress: whether to show progress bars.
        say: is called with a line of text before each fit.
    """
    found = []
    for example in examples(seed):
        say(f"fitting {example.title.lower()}: {example.formula}")
        found.append(example.section(seed, progress))
    return Page("Beyond the post", _LEAD, found)


@styled
def _imputed(fit: Fit, known: SimulatedTable) -> Figure:
    figure, (axes,) = panels(1, height=4.0)
    rows = fit.imputed("area")
    truth = known.truth["areas"][rows["row"]]
    _intervals(axes, truth, rows)
    axes.set(xlabel="true area", ylabel="imputed area")
    _diagonal(axes, truth)
    return figure


def _dropped(fit: Fit, known: SimulatedTable) -> list[Part]:
    """The slope of the area if rows with a gap are dropped, beside the truth and `mi(area)`."""
    without = Model("price ~ area + age").fit(known.rows, progress=False)
    rows = fit.imputed("area")
    truth = known.truth["areas"][rows["row"]]
    inside = np.mean((rows["lower"] <= truth) & (truth <= rows["upper"]))
    kept, dropped = fit.summary(0.9).loc["mi(area)"], without.summary(0.9).loc["area"]
    columns = ["mean", "sd", "lower", "upper"]
    table = Table(
        ("slope of area", "rows", *columns),
        [
            ("truth", "", *cells([float(known.truth["area"])]), "", "", ""),
            (
                "rows dropped",
                f"{without.rows.used:,}",
                *cells([float(v) for v in dropped[columns]]),
            ),
            ("mi(area)", f"{fit.rows.used:,}", *cells([float(v) for v in kept[columns]])),
        ],
        "What dropping the houses with a gap does to the slope.",
    )
    return [table, Text(f"Of the intervals of the missing areas {inside:.0%} hold the truth.")]


@styled
def _gap(fit: Fit, known: SimulatedTable) -> Figure:
    figure, (axes,) = panels(1, height=4.0)
    grid = known.more["x"]
    _band(axes, grid, fit.predict(known.more), "90% interval of the mean")
    axes.plot(grid, known.truth["f"], "--", color=INK, linewidth=1, label="truth")
    axes.plot(known.rows["x"], known.rows["y"], ".", color=INK, markersize=3, alpha=0.5)
    axes.set(xlabel="x", ylabel="y", ylim=(-4.5, 4.5))
    axes.legend(loc="upper left")
    return figure


@styled
def _slopes(fit: Fit, known: SimulatedTable) -> Figure:
    figure, (axes,) = panels(1, height=4.0)
    draws = fit.posterior["area|district"]
    named = [str(name) for name in draws["district__factor_dim"].to_numpy()]
    places = [named.index(f"d{j}") for j in range(len(named))]
    common = fit.posterior["area"].to_numpy().reshape(-1, 1)
    slopes = common + draws.to_numpy().reshape(-1, len(named))[:, places]
    low, high = np.quantile(slopes, [0.05, 0.95], axis=0)
    middle, at = slopes.mean(axis=0), np.arange(len(named))
    axes.errorbar(at, middle, [middle - low, high - middle], fmt="o", color=BLUE, label="estimate")
    axes.plot(at, known.truth["slope"], "x", color=RED, label="truth")
    counts = [int((known.rows["district"] == f"d{j}").sum()) for j in at]
    axes.set_xticks(at, [str(count) for count in counts])
    axes.set(xlabel="houses in the district", ylabel="slope of area")
    axes.legend()
    return figure


@styled
def _process(fit: Fit, known: SimulatedTable) -> Figure:
    figure, (axes,) = panels(1, height=4.0)
    grid, (mean, sd) = known.more["day"], (known.truth[name] for name in ("mean", "sd"))
    _band(axes, grid, fit.predict(known.more, kind="response"), "90% of the values")
    for line in (mean, mean - 1.645 * sd, mean + 1.645 * sd):
        axes.plot(grid, line, "--", color=INK, linewidth=1)
    axes.plot(known.rows["day"], known.rows["index"], ".", color=INK, markersize=3, alpha=0.5)
    axes.plot([], [], "--", color=INK, linewidth=1, label="truth")
    axes.set(xlabel="day", ylabel="index")
    axes.legend(loc="upper right")
    return figure


@styled
def _kinds(fit: Fit, known: SimulatedTable) -> Figure:
    figure, (axes,) = panels(1, height=4.0)
    price, second = known.rows["price"], fit.predict(known.rows, kind="component")["p[2]"]
    drawn = axes.scatter(price, known.rows["days"], c=second, cmap="coolwarm", s=9, vmin=0, vmax=1)
    figure.colorbar(drawn, ax=axes, label="probability of the second kind")
    ends, summary = np.array([price.min(), price.max()]), fit.summary()["mean"]
    for k, colour in zip((1, 2), COLOURS, strict=False):
        line = summary[f"mu{k}_Intercept"] + summary[f"mu{k}_price"] * ends
        axes.plot(ends, line, color=colour)
    axes.set(xlabel="price", ylabel="days")
    return figure


def _assigned(fit: Fit, known: SimulatedTable) -> list[Part]:
    """The share of sales whose component is found."""
    guessed = fit.predict(known.rows, kind="component")["component"] == 2
    right = np.mean(guessed == known.truth["second"])
    return [Text(f"Of the sales {right:.0%} are given to the kind that they are of.")]


@styled
def _ratings(fit: Fit, known: SimulatedTable) -> Figure:
    figure, both = panels(2, 2, height=3.6, sharex=True, sharey=True)
    intercepts = "rating ~ (1 | user) + (1 | item)"
    plain = Model(intercepts).fit(known.rows, progress=False)
    truth = known.truth["mean"]
    for axes, each, title in zip(both, (plain, fit), ("intercepts", "with factors"), strict=True):
        found = each.predict(known.more)["mean"].to_numpy()
        error = float(np.sqrt(np.mean((found - truth) ** 2)))
        axes.plot(truth, found, ".", color=BLUE, markersize=2, alpha=0.5)
        axes.set(title=f"{title}: off by {error:.2f}", xlabel="truth")
        _diagonal(axes, truth)
    both[0].set_ylabel("prediction")
    return figure


def _band(axes: Axes, x: Float[NDArray, "n"], found: Predictions, text: str) -> None:
    """A mean curve with its interval."""
    axes.fill_between(x, found["lower"], found["upper"], color=BLUE, alpha=0.25, label=text)
    axes.plot(x, found["mean"], color=BLUE, label="mean")


def _intervals(axes: Axes, truth: Float[NDArray, "n"], rows: Predictions) -> None:
    """Means with their intervals over the true values."""
    below, above = rows["mean"] - rows["lower"], rows["upper"] - rows["mean"]
    axes.errorbar(
        truth, rows["mean"], [below, above], fmt="o", color=BLUE, markersize=2, elinewidth=0.4
    )


def _diagonal(axes: Axes, values: Float[NDArray, "n"]) -> None:
    """The line on which estimates equal the truth."""
    ends = [float(np.min(values)), float(np.max(values))]
    axes.plot(ends, ends, color=RED, linewidth=1)
