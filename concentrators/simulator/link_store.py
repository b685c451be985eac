"""Concentrators that hold keys in the file of a run: their states, and what they have yet to report. No Django."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from concentrators.simulator.hop_concentrator import SumPlace
from concentrators.simulator.spool import Spool

_SCHEMA = """
CREATE TABLE IF NOT EXISTS links (concentrator INTEGER PRIMARY KEY, state BLOB NOT NULL, failures TEXT);
CREATE TABLE IF NOT EXISTS hop_keys (concentrator INTEGER PRIMARY KEY, octets BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS next_keys (concentrator INTEGER PRIMARY KEY, octets BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS dropped (
    concentrator INTEGER NOT NULL, reason TEXT NOT NULL, frames INTEGER NOT NULL, PRIMARY KEY (concentrator, reason)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sums (
    concentrator INTEGER NOT NULL, register TEXT NOT NULL, minutes INTEGER NOT NULL, start_s INTEGER NOT NULL,
    value INTEGER NOT NULL, meters INTEGER NOT NULL, PRIMARY KEY (concentrator, register, minutes, start_s)
) WITHOUT ROWID;
"""


class LinkStore:
    """The part of the file of a run for concentrators with keys; threads may share it."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        spool.db().executescript(_SCHEMA)

    # --- what the head-end gave ------------------------------------------------------------------

    def keep_keys(self, concentrator: int, octets: bytes) -> None:
        """Store hop keys, sealed as they came."""
        with self._spool.transaction() as db:
            db.execute("INSERT OR REPLACE INTO hop_keys VALUES (?, ?)", [concentrator, octets])

    def keys(self, concentrator: int) -> bytes:
        """Return the last hop keys, sealed; empty before any came."""
        row = self._spool.db().execute("SELECT octets FROM hop_keys WHERE concentrator = ?", [concentrator]).fetchone()
        return b"" if row is None else row[0]

    def keep_next_key(self, concentrator: int, octets: bytes) -> None:
        """Keep the command with a concentrator's own next key as it came, sealed."""
        with self._spool.transaction() as db:
            db.execute("INSERT OR REPLACE INTO next_keys VALUES (?, ?)", [concentrator, octets])

    def next_key(self, concentrator: int) -> bytes | None:
        """The command with a concentrator's own next key that came last, sealed; None before any did."""
        query = "SELECT octets FROM next_keys WHERE concentrator = ?"
        row = self._spool.db().execute(query, [concentrator]).fetchone()
        return None if row is None else row[0]

    # --- what a concentrator keeps, and says --------------------------------------------------------

    def states(self) -> dict[int, bytes]:
        """Return the state of each concentrator that has one."""
        return dict(self._spool.db().execute("SELECT concentrator, state FROM links"))

    @staticmethod
    def write(
        db: sqlite3.Connection,
        states: Mapping[int, tuple[bytes, list[dict[str, Any]]]],
        dropped: Mapping[tuple[int, str], int],
        sums: Iterable[tuple[int, SumPlace, int, int]],
    ) -> None:
        """Write what went on: states with what was dropped so far, how much more is to be dropped, and sums said."""
        db.executemany(
            "INSERT INTO links VALUES (?1, ?2, ?3) ON CONFLICT (concentrator) DO UPDATE SET state = ?2, failures = ?3",
            [(number, state, json.dumps(failures)) for number, (state, failures) in states.items()],
        )
        db.executemany(
            "INSERT INTO dropped VALUES (?1, ?2, ?3)"
            " ON CONFLICT (concentrator, reason) DO UPDATE SET frames = frames + ?3",
            [(*place, frames) for place, frames in dropped.items()],
        )
        db.executemany(
            "INSERT OR REPLACE INTO sums VALUES (?, ?, ?, ?, ?, ?)",
            [(number, *place, value, meters) for number, place, value, meters in sums],
        )

    def failures(self, concentrator: int) -> str:
        """Return what a concentrator dropped so far, as JSON."""
        query = "SELECT failures FROM links WHERE concentrator = ?"
        row = self._spool.db().execute(query, [concentrator]).fetchone()
        return "[]" if row is None else row[0]

    # --- the truth ----------------------------------------------------------------------------------

    def dropped(self) -> dict[tuple[int, str], int]:
        """Return how many frames each concentrator had to drop, by reason."""
        rows = self._spool.db().execute("SELECT concentrator, reason, frames FROM dropped")
        return {(number, reason): frames for number, reason, frames in rows}

    def sums(self) -> dict[tuple[int, SumPlace], tuple[int, int]]:
        """The sums that concentrators said: value and meters."""
        rows = self._spool.db().execute("SELECT concentrator, register, minutes, start_s, value, meters FROM sums")
        return {(number, SumPlace(*place)): (value, meters) for number, *place, value, meters in rows}
