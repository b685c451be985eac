"""Single figures of the console, each on a card (console/components/figures.html)."""

from typing import NamedTuple


class Figure(NamedTuple):
    """A figure with its meaning. ``url`` leads to the rows behind it; ``tone`` is good, unsure, bad or empty."""

    title: str
    value: str
    note: str
    icon: str
    url: str = ""
    tone: str = ""
