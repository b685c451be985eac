"""What a listener counts, told to the database every few seconds, so that /metrics shows it."""

from collections import Counter
from typing import NamedTuple

from ami_headend.core.sql import execute, fetch_rows

COUNTED = ("accepted", "refused", "cut_off", "notifications", "committed", "dropped")
TOLD_EVERY_S = 10.0
_LIVES_S = 60  # a listener that has told nothing for this long has no connections
_SHOWN_DAYS = 7
_ADD = f"""
    INSERT INTO concentrators_listenerfigures AS f (name, told_at, connections, {", ".join(COUNTED)})
    VALUES (%s, statement_timestamp(), %s{", %s" * len(COUNTED)})
    ON CONFLICT (name) DO UPDATE SET told_at = excluded.told_at, connections = excluded.connections,
        {", ".join(f"{name} = f.{name} + excluded.{name}" for name in COUNTED)}
"""
_RECENT = f"""
    SELECT name, CASE WHEN told_at > statement_timestamp() - make_interval(secs => %s) THEN connections ELSE 0 END,
           {", ".join(COUNTED)}
    FROM concentrators_listenerfigures WHERE told_at > statement_timestamp() - make_interval(days => %s) ORDER BY name
"""


class ListenerNumbers(NamedTuple):
    """A listener by name, its open connections, and what it has counted by the names in COUNTED."""

    name: str
    connections: int
    counts: dict[str, int]


class Figures:
    """Counts of a listener under a name. Each count is added once, however often telling fails, and only grows."""

    def __init__(self, name: str) -> None:
        self._name = name[:120]
        self._told = Counter(dict.fromkeys(COUNTED, 0))
        self.counts = Counter(self._told)

    def tell(self, connections: int) -> None:
        """Add what was counted since the last time, and say how many connections are open. One statement."""
        now = Counter(self.counts)
        execute(_ADD, self._name, connections, *(now[name] - self._told[name] for name in COUNTED))
        self._told = now


def recent() -> list[ListenerNumbers]:
    """Return the listeners that ran within a week, by name. One query."""
    rows = fetch_rows(_RECENT, _LIVES_S, _SHOWN_DAYS)
    return [
        ListenerNumbers(name, connections, dict(zip(COUNTED, counts, strict=True)))
        for name, connections, *counts in rows
    ]
