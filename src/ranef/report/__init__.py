"""One self-contained HTML page about a fit."""

from pathlib import Path
from typing import TYPE_CHECKING

from ranef.files.atomic_write import StrPath
from ranef.plots.canvas import label
from ranef.report.page import Page
from ranef.report.sections import of_fit, question

if TYPE_CHECKING:
    from ranef.fit import Fit


def write(fit: "Fit", path: StrPath) -> Path:
    """Write the page of a fit and return its path; see `Fit.report`."""
    response = label(fit.program.formula.response, 60)
    return Page(f"{response}: a fitted model", question(fit), tuple(of_fit(fit))).write(path)
