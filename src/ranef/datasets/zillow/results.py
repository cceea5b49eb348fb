"""The types of the results of `ranef zillow`, which its JSON output holds."""

from typing import NotRequired, TypedDict

__all__ = [
    "ConstantScores",
    "GapScores",
    "GapStudy",
    "ModelScores",
    "Results",
    "SalesCounts",
    "TruthRow",
]


class SalesCounts(TypedDict):
    """Where the sales come from, and how many there are."""

    source: str
    rows: int
    train: int
    validation: int
    zips: int


class ConstantScores(TypedDict):
    """Scores of a constant prediction; the median has no log score."""

    mae: float
    log_score: NotRequired[float]


class ModelScores(TypedDict):
    """The fit of a model and its scores; `elbo` is None unless it was optimised."""

    name: str
    formula: str
    mae: float
    log_score: float
    coverage_90: float
    method: str
    elbo: float | None
    converged: bool
    steps: int
    seconds: float


class GapScores(TypedDict):
    """Scores of a fit that drops or keeps the sales with gaps."""

    fit: str
    fitted: int
    scored_on: str
    scored: int
    mae: float
    log_score: float
    coverage_90: float
    method: str
    seconds: float


class GapStudy(TypedDict):
    """The study of sales with gaps.

    `complete` and `kept` are the numbers of sales that are fitted without gaps and in all,
    `missing` is predictor to its number of gaps, and `coefficients` is parameter to its mean and
    sd without the sales with gaps, then with them.
    """

    formula: str
    complete: int
    kept: int
    missing: dict[str, int]
    scores: list[GapScores]
    coefficients: dict[str, list[float]]


class TruthRow(TypedDict):
    """A true parameter and its estimate; a share of intervals has no interval itself."""

    model: str
    parameter: str
    truth: float
    mean: float
    lower: NotRequired[float]
    upper: NotRequired[float]
    inside: NotRequired[bool]


class Results(TypedDict):
    """All results; `missing` and `truth` are there if they were asked for and are known."""

    data: SalesCounts
    constants: dict[str, ConstantScores]
    models: list[ModelScores]
    out: str
    missing: NotRequired[GapStudy]
    truth: NotRequired[list[TruthRow]]
    figures: NotRequired[list[str]]
