"""Converts matplotlib figures to pictures of a page, with the positions of their points."""

import io
import textwrap
import warnings
from collections.abc import Callable, Sequence

from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.text import Text as Writing

from ranef.errors import ColumnError, OptionError
from ranef.plots.canvas import POINTS
from ranef.report.parts import Picture, Point, Text

# Pixels per inch.
_DPI = 160
# Largest width of a figure in inches. Scaled down to a phone, its letters can still be read.
_WIDTH = 5.2
# Width of a letter of a title, as a share of the size of its font.
_LETTER = 0.68


def picture(
    draw: Callable[[], Figure], name: str, title: str, reading: str, texts: Sequence[str] = ()
) -> Picture | Text:
    """Draw a figure and return it as a picture, or the reason why this model has none.

    Args:
        draw: makes the figure.
        name: as in `Picture`.
        title: as in `Picture`.
        reading: as in `Picture`.
        texts: the text of each point, in the order in which the figure draws them.
    """
    try:
        figure = draw()
    except (ColumnError, OptionError) as error:
        return Text(f"{title}: not drawn, because {error}")
    return _saved(figure, name, title, reading, texts)


def _saved(figure: Figure, name: str, title: str, reading: str, texts: Sequence[str]) -> Picture:
    across, down = figure.get_size_inches()
    if across > _WIDTH:
        figure.set_size_inches(_WIDTH, down)
    _wrap_titles(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes. Hover texts and tables have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    width, height = (round(inches * _DPI) for inches in figure.get_size_inches())
    points = _points(figure, texts) if len(texts) else ()
    return Picture(name, title, reading, buffer.getvalue(), width, height, points)


def _wrap_titles(figure: Figure) -> None:
    """Break titles of panels into lines that are no longer than the panel is wide."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.draw_without_rendering()
    for axes in figure.axes:
        titles = {axes.get_title(place) for place in ("left", "center")} - {""}
        for text in axes.get_children():
            if isinstance(text, Writing) and text.get_text() in titles:
                size = float(text.get_fontsize()) * figure.dpi / 72
                letters = max(8, int(axes.bbox.width / (_LETTER * size)))
                lines = (textwrap.fill(line, letters) for line in text.get_text().split("\n"))
                text.set_text("\n".join(lines))


def _points(figure: Figure, texts: Sequence[str]) -> tuple[Point, ...]:
    """The points of the artists with the gid `POINTS`, with their positions in the picture."""
    places: list[tuple[float, float]] = []
    for artist in figure.findobj(Collection):
        if artist.get_gid() == POINTS:
            inside = artist.get_offset_transform().transform(artist.get_offsets())
            places.extend((float(x), float(y)) for x, y in inside)
    across, down = figure.bbox.width, figure.bbox.height
    return tuple(
        Point(round(x / across, 5), round(1 - y / down, 5), text)
        for (x, y), text in zip(places, texts, strict=True)
    )
