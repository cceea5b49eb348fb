"""HTML of texts and small tables, for notebooks. Every text is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape


def lines(*texts: str) -> str:
    """A paragraph of lines; "" is left out."""
    return f"<p>{'<br>'.join(escape(text) for text in texts if text)}</p>"


def listed(texts: Iterable[str]) -> str:
    """An unordered list; "" if it is empty."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a row of headings."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def named(values: Mapping[str, object], header: Sequence[str]) -> str:
    """A table of names and values."""
    return table(header, ((name, str(value)) for name, value in values.items()))
