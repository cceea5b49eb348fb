"""Converts matplotlib figures to pictures of a page, with the positions of their points."""

import io
import warnings
from collections.abc import Callable, Sequence

from matplotlib.collections import Collection
from matplotlib.figure import Figure

from ranef.errors import ColumnError, OptionError
from ranef.plots.canvas import POINTS
from ranef.report.parts import Picture, Point, Text

# Pixels per inch.
_DPI = 120


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
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes. Hover texts and tables have them.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    width, height = (round(inches * _DPI) for inches in figure.get_size_inches())
    points = _points(figure, texts) if len(texts) else ()
    return Picture(name, title, reading, buffer.getvalue(), width, height, points)


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
