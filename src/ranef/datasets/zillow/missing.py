"""Fits the Zillow sales with gaps, which the post drops, with missing values as parameters.

    logerror ~ mi(x) + ... + (1 | zip);   mi(x) ~ predictors without gaps + (1 | zip)

The post writes down such a model, N(nu, sigma_N) for a missing predictor, and says that its author
failed to build it.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ranef.datasets.zillow.preparation import PREDICTORS, RESPONSE, Sales
from ranef.datasets.zillow.results import GapScores, GapStudy
from ranef.fit import Fit
from ranef.model import Model
from ranef.names import FamilyName
from ranef.numerics.shapes import Bool, Shaped

Table = dict[str, Shaped[NDArray, "rows"]]

_COLUMNS = (RESPONSE, *PREDICTORS, "zip")


def formula(missing: tuple[str, ...]) -> str:
    """The formula of the post's random intercepts, with a model of each predictor in `missing`."""
    known = [name for name in PREDICTORS if name not in missing]
    terms = [f"mi({name})" if name in missing else name for name in PREDICTORS]
    model = " + ".join([*known, "(1 | zip)"])
    parts = [f"{RESPONSE} ~ {' + '.join(terms)} + (1 | zip)"]
    return "; ".join([*parts, *(f"mi({name}) ~ {model}" for name in missing)])


def study(sales: Sales, family: FamilyName, *, seed: int, progress: bool) -> GapStudy:
    """Fit the post's random intercepts to the sales without gaps, and to those with gaps too.

    Half of the sales with gaps are fitted, as half of the others are. Both fits are scored on the
    same sales without gaps. The second fit is also scored on the other half of the sales with gaps,
    which the first cannot predict.

    Args:
        sales: the prepared table.
        family: of the response.
        seed: of the split of the sales with gaps and of the fits.
        progress: whether to show progress bars.

    Returns:
        The formula, numbers of sales, scores and coefficients, as JSON has them.
    """
    n = len(sales.gaps[RESPONSE])
    fitted = np.zeros(n, dtype=bool)
    fitted[np.random.default_rng([seed, 1]).permutation(n)[: n // 2]] = True
    train, valid = ({k: sales.part(own)[k] for k in _COLUMNS} for own in (True, False))
    more, others = (_rows(sales.gaps, rows) for rows in (fitted, ~fitted))
    whole = {name: np.concatenate([train[name], more[name]]) for name in _COLUMNS}
    missing = tuple(name for name in PREDICTORS if np.isnan(whole[name]).any())
    plain = Model(f"{RESPONSE} ~ {' + '.join(PREDICTORS)} + (1 | zip)", family)
    dropped = plain.fit(train, seed=seed, progress=progress)
    kept = Model(formula(missing), family).fit(whole, seed=seed, progress=progress)
    scores = [
        _scored("rows dropped", dropped, valid, "without gaps", seed),
        _scored("rows kept", kept, valid, "without gaps", seed),
    ]
    if len(others[RESPONSE]):
        scores.append(_scored("rows kept", kept, others, "with gaps", seed))
    return {
        "formula": kept.program.formula.text,
        "complete": len(train[RESPONSE]),
        "kept": len(whole[RESPONSE]),
        "missing": {name: int(np.isnan(whole[name]).sum()) for name in missing},
        "scores": scores,
        "coefficients": _coefficients(dropped, kept, missing),
    }


def _rows(table: Mapping[str, NDArray], rows: Bool[NDArray, "n"]) -> Table:
    """Some rows of the columns that the models use."""
    return {name: table[name][rows] for name in _COLUMNS}


def _scored(name: str, fit: Fit, table: Table, scored_on: str, seed: int) -> GapScores:
    """The scores of a fit on a table."""
    tree = fit.extend("validation", data=table, new_levels="sample", seed=seed)
    rows = tree["validation"].to_dataset()
    return {
        "fit": name,
        "fitted": fit.rows.used,
        "scored_on": scored_on,
        "scored": len(table[RESPONSE]),
        "mae": float(np.abs(rows["observed"] - rows["mean"]).mean()),
        "log_score": float(rows["log_score"].mean()),
        "coverage_90": float((np.abs(2 * rows["pit"] - 1) <= 0.9).mean()),
        "method": fit.method,
        "seconds": fit.seconds,
    }


def _coefficients(dropped: Fit, kept: Fit, missing: tuple[str, ...]) -> dict[str, list[float]]:
    """Mean and sd of each parameter without the sales with gaps, then with them."""
    before, after = dropped.summary(), kept.summary()
    names = {name: f"mi({name})" if name in missing else name for name in PREDICTORS}
    return {
        name: [
            float(table.loc[own, part])
            for table, own in ((before, name), (after, names.get(name, name)))
            for part in ("mean", "sd")
        ]
        for name in ("Intercept", *PREDICTORS, "1|zip_sigma", "sigma")
    }
