"""Tables of the console, as rows of cells; templatetags/console.py shows them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A column. Numbers are aligned right; a phone leaves out minor columns.

    ``url`` sorts by it; ``order`` says how the rows are sorted by it: ascending, descending, or not at all.
    """

    title: str
    is_number: bool = False
    is_minor: bool = False
    url: str = ""
    order: str = ""


class Cell(NamedTuple):
    """The content of one row in one column."""

    column: Column
    content: Any


class HtmlTable(NamedTuple):
    """Columns and rows. A cell's content is text (which is escaped) or HTML made by ``formatting``."""

    columns: list[Column]
    rows: list[list[Cell]]


def columns_of(*titles: str) -> list[Column]:
    """Columns by their titles: one that begins with - is minor, with # (or -#) a number."""
    shown = ((title.removeprefix("-"), title.startswith("-")) for title in titles)
    return [Column(text.removeprefix("#"), text.startswith("#"), is_minor) for text, is_minor in shown]


def table(columns: list[Column], rows: Iterable[Sequence[Any]]) -> HtmlTable:
    """Make a table; every row has one content for each column."""
    return HtmlTable(columns, [[Cell(*pair) for pair in zip(columns, row, strict=True)] for row in rows])
