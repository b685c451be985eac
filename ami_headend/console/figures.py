"""Single figures of the console, each a card (console/components/figures.html)."""

from typing import NamedTuple


class Figure(NamedTuple):
    """A figure with what it means; ``url`` leads to the rows behind it, ``tone`` is good, unsure, bad or nothing."""

    title: str
    value: str
    note: str
    icon: str
    url: str = ""
    tone: str = ""
