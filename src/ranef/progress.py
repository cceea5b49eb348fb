"""Progress bars on standard error, and as widgets in notebooks that have them.

A bar appears half a second after its work began, so that what is over by then shows none, and is
cleared when the work ends.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

# Seconds before a bar appears.
_DELAY = 0.5
# What a bar says where the end is known, and where it is not.
_OF_TOTAL = (
    "{desc} {percentage:3.0f}% |{bar}| {n_fmt} of {total_fmt} {unit} "
    "[{elapsed}, {remaining} left{postfix}]"
)
_COUNTED = "{desc}: {n_fmt} {unit} [{elapsed}{postfix}]"


def progress_bar(
    name: str,
    units: str,
    *,
    shown: bool,
    total: int | None = None,
    done: int = 0,
    scaled: bool = False,
) -> tqdm:
    """A bar whose `update(n)` counts n further units, and which `close` clears.

    Args:
        name: what is under way, such as a method.
        units: what is counted, in the plural.
        shown: whether there is a bar at all.
        total: the number of units in all; None if it is not known.
        done: the number of units that were done before.
        scaled: whether large numbers are written as 1.2M.
    """
    return _kind()(
        total=total,
        initial=done,
        desc=name,
        unit=units,
        unit_scale=scaled,
        delay=_DELAY,
        bar_format=_COUNTED if total is None else _OF_TOTAL,
        disable=not shown,
        leave=False,
    )


def _kind() -> type[tqdm]:
    """The class of bars: widgets in a notebook that has ipywidgets, or else text."""
    from tqdm import tqdm

    if "ipykernel" not in sys.modules or not find_spec("ipywidgets"):
        return tqdm
    from tqdm.notebook import tqdm as widget

    class Widget(widget):
        """A widget that goes at the end, even if the work was over before its total."""

        def close(self) -> None:
            self.total = self.n
            super().close()

    return Widget
