"""The results of `ranef zillow` as rows of texts, for the terminal and for the page."""

from typing import Any

Rows = list[tuple[str, ...]]


def scores(result: dict[str, Any]) -> Rows:
    """The constants and the models with their scores, under a head."""
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


def truths(result: dict[str, Any]) -> Rows:
    """What generated the sales beside what each model found, under a head."""
    head = ("model", "parameter", "truth", "mean", "90% interval", "")
    return [
        head,
        *(
            (
                row["model"],
                row["parameter"],
                f"{row['truth']:.4f}",
                f"{row['mean']:.4f}",
                f"{row['lower']:.4f} to {row['upper']:.4f}" if "lower" in row else "",
                {True: "inside", False: "outside", None: ""}[row.get("inside")],
            )
            for row in result["truth"]
        ),
    ]
