"""Pictures of the gallery: figures of pyplot, and those that an example holds in a variable.

`rf.plots` returns figures, which need not be known to pyplot; sphinx-gallery itself looks for those
of pyplot alone.
"""

from typing import Any
from weakref import WeakSet

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst, matplotlib_scraper

# Figures that a page shows already; a variable may hold one for several blocks.
_SHOWN: WeakSet[Figure] = WeakSet()


def _scrape(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Saves the figures of one block of an example, and returns the text that shows them."""
    held = [v for v in block_vars["example_globals"].values() if isinstance(v, Figure)]
    _SHOWN.update(plt.figure(number) for number in plt.get_fignums())
    text = matplotlib_scraper(block, block_vars, gallery_conf)
    paths = []
    for figure in held:
        if figure not in _SHOWN:
            _SHOWN.add(figure)
            paths.append(next(block_vars["image_path_iterator"]))
            figure.savefig(paths[-1])
    return text + (figure_rst(paths, gallery_conf["src_dir"]) if paths else "")


def _get_sg_image_scraper() -> Any:
    """What sphinx-gallery asks a module for."""
    return _scrape
