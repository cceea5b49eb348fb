"""Tables of the results of `ranef zillow`, as rows of texts, for the terminal and the page."""

from ranef.datasets.zillow.results import GapStudy, Results

Rows = list[tuple[str, ...]]


def scores(result: Results) -> Rows:
    """Scores of the constants and of the models; the first row is the head."""
    rows: Rows = [("model", "MAE", "log score", "90% covers", "method", "ELBO", "seconds")]
    for name, values in result["constants"].items():
        score = f"{values['log_score']:.4f}" if "log_score" in values else ""
        rows.append((f"constant: {name}", f"{values['mae']:.5f}", score, "", "", "", ""))
    for model in result["models"]:
        rows.append(
            (
                model["name"],
                f"{model['mae']:.5f}",
                f"{model['log_score']:.4f}",
                f"{model['coverage_90']:.3f}",
                model["method"] + ("" if model["converged"] else " (not converged)"),
                "" if model["elbo"] is None else f"{model['elbo']:,.1f}",
                f"{model['seconds']:.1f}",
            )
        )
    return rows


def missing(result: Results) -> Rows:
    """Scores of the fits that drop and keep sales with gaps; the first row is the head."""
    head = ("fit", "sales fitted", "scored on", "sales", "MAE", "log score", "method", "seconds")
    return [
        head,
        *(
            (
                row["fit"],
                f"{row['fitted']:,}",
                row["scored_on"],
                f"{row['scored']:,}",
                f"{row['mae']:.5f}",
                f"{row['log_score']:.4f}",
                row["method"],
                f"{row['seconds']:.1f}",
            )
            for row in _gap_study(result)["scores"]
        ),
    ]


def _gap_study(result: Results) -> GapStudy:
    assert "missing" in result
    return result["missing"]


def kept(result: Results) -> str:
    """A sentence on how many sales are kept and what they lack."""
    found = _gap_study(result)
    gaps = ", ".join(f"{name} in {count:,}" for name, count in found["missing"].items())
    return (
        f"{found['kept']:,} sales to fit where the post keeps {found['complete']:,}; of the "
        f"predictors are missing {gaps or 'none'}."
    )


def truths(result: Results) -> Rows:
    """True parameters of generated sales beside estimates; the first row is the head."""
    assert "truth" in result
    head = ("model", "parameter", "truth", "mean", "90% interval", "")
    return [
        head,
        *(
            (
                row["model"],
                row["parameter"],
                f"{row['truth']:.4f}",
                f"{row['mean']:.4f}",
                f"{row['lower']:.4f} to {row['upper']:.4f}"
                if "lower" in row and "upper" in row
                else "",
                {True: "inside", False: "outside", None: ""}[row.get("inside")],
            )
            for row in result["truth"]
        ),
    ]
