"""Pictures of the gallery: figures of pyplot, and those that an example holds in a variable.

`rf.plots` returns figures, which need not be known to pyplot; sphinx-gallery itself looks for those
of pyplot alone.
"""

from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst, matplotlib_scraper


def _scrape(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Saves the figures of one block of an example, and returns the text that shows them."""
    import matplotlib.pyplot as plt

    names = block_vars["example_globals"]
    known = {plt.figure(number) for number in plt.get_fignums()}
    saved = names.setdefault("__saved__", set())
    shown = matplotlib_scraper(block, block_vars, gallery_conf)
    saved.update(id(figure) for figure in known)
    paths = []
    for value in [v for v in names.values() if isinstance(v, Figure) and id(v) not in saved]:
        path = next(block_vars["image_path_iterator"])
        value.savefig(path, dpi=gallery_conf.get("dpi", 100))
        saved.add(id(value))
        paths.append(path)
    return shown + (figure_rst(paths, gallery_conf["src_dir"]) if paths else "")


def _get_sg_image_scraper() -> Any:
    """What sphinx-gallery asks a module for."""
    return _scrape
