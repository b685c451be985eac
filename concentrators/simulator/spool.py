"""The state of a run on disk: what each concentrator has buffered and posted, and its receipts. No Django.

One SQLite file. Meters' memories, their frames and the position of the simulation are written in one
transaction. A batch is fixed before it is first posted, and its receipt ends it. So after a kill -9 at
any instruction nothing is lost, and a batch that is posted again has the same octets.
"""

import fcntl
import json
import os
import sqlite3
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from concentrators.simulator.meter import Memory, lengths_in
from concentrators.simulator.nonvolatile import NonVolatile
from keyvault.cose.structures import encode_sequence

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS memories (number INTEGER PRIMARY KEY, register_wh INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS nonvolatile (number INTEGER PRIMARY KEY, cells BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS frames (
    concentrator INTEGER NOT NULL, seq INTEGER NOT NULL, verdict TEXT NOT NULL, octets BLOB NOT NULL,
    PRIMARY KEY (concentrator, seq)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS frames_by_seq ON frames (seq);
CREATE TABLE IF NOT EXISTS held (
    id INTEGER PRIMARY KEY, concentrator INTEGER NOT NULL, verdict TEXT NOT NULL, octets BLOB NOT NULL,
    not_before_s INTEGER, behind_seq INTEGER, behind_held INTEGER
);
CREATE INDEX IF NOT EXISTS held_by_time ON held (not_before_s) WHERE not_before_s IS NOT NULL;
CREATE INDEX IF NOT EXISTS held_by_seq ON held (concentrator, behind_seq) WHERE behind_seq IS NOT NULL;
CREATE INDEX IF NOT EXISTS held_by_held ON held (behind_held) WHERE behind_held IS NOT NULL;
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY, concentrator INTEGER NOT NULL, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    frames INTEGER NOT NULL, verdicts TEXT NOT NULL, body BLOB, uplink INTEGER, verified INTEGER NOT NULL DEFAULT 0,
    repeated INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS batches_unsent ON batches (concentrator, id) WHERE uplink IS NULL;
CREATE INDEX IF NOT EXISTS batches_unverified ON batches (concentrator, id) WHERE verified = 0;
CREATE INDEX IF NOT EXISTS batches_by_uplink ON batches (uplink);
CREATE TABLE IF NOT EXISTS mail (
    id INTEGER PRIMARY KEY, concentrator INTEGER NOT NULL, title BLOB NOT NULL, octets BLOB NOT NULL,
    fault TEXT NOT NULL, due_s REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS said (
    meter INTEGER NOT NULL, register TEXT NOT NULL, at_s INTEGER NOT NULL, value INTEGER NOT NULL,
    PRIMARY KEY (meter, register, at_s)
) WITHOUT ROWID;
"""


@dataclass(slots=True, eq=False)
class Outgoing:
    """A frame on its way to a concentrator, with the verdict it must end with.

    It waits until the simulation's clock has passed ``not_before_s``, or until the frame ``behind``
    (of the same concentrator, handed over before or with this one) and all before it were verified.
    """

    concentrator: int
    octets: bytes
    verdict: str
    not_before_s: int | None = None
    behind: "Outgoing | None" = None
    place: int = field(default=-1, init=False)  # its seq, or its id among the held

    @property
    def waits(self) -> bool:
        return self.not_before_s is not None or self.behind is not None


class Batch(NamedTuple):
    """The body of an uplink, to be posted until there is a receipt for it."""

    id: int
    concentrator: int
    frames: int
    body: bytes


class Mail(NamedTuple):
    """A command on its way to a meter, and what goes wrong with it there, if anything."""

    id: int
    concentrator: int
    system_title: bytes
    octets: bytes
    fault: str


class ExtraValue(NamedTuple):
    """A value that a meter sent only because of a command: a register at a time that is not in its plan."""

    meter: int
    register: str
    at_s: int
    value: int


class SpoolError(Exception):
    """The state cannot be used: not ours, damaged, or its folder cannot be written."""


class Spool:
    """One run's state in ``folder``, for one process; its threads may share it (a connection each)."""

    FILE = "meters.sqlite3"

    def __init__(self, folder: Path) -> None:
        self.path = folder / self.FILE
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT, 0o600)
            self._close = weakref.finalize(self, _close, self._connections, lock)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.path.touch(mode=0o600)  # it holds the simulated meters' keys and the tokens
            self.db().executescript(_SCHEMA)
        except BlockingIOError:
            raise SpoolError(f"another simulation is at work in {folder}") from None
        except (OSError, sqlite3.DatabaseError) as error:
            raise SpoolError(f"{self.path} cannot hold the state of a simulation: {error}") from None

    def close(self) -> None:
        """Release the folder; another simulation may continue in it."""
        self._close()

    @classmethod
    def discard(cls, folder: Path) -> None:
        """Remove the run in a folder, and nothing else."""
        for path in folder.glob(f"{cls.FILE}*"):
            path.unlink()

    # --- facts and meters -------------------------------------------------------------------------

    def fact(self, name: str) -> Any:
        """A fact of the run, or None."""
        row = self.db().execute("SELECT value FROM facts WHERE name = ?", [name]).fetchone()
        return None if row is None else json.loads(row[0])

    def set_facts(self, **facts: Any) -> None:
        with self.transaction() as db:
            self._write_facts(db, facts)

    def memories(self) -> dict[int, Memory]:
        rows = self.db().execute("SELECT number, register_wh, cells FROM memories LEFT JOIN nonvolatile USING (number)")
        return {
            number: Memory(number, register_wh, NonVolatile.load(cells) if cells else NonVolatile())
            for number, register_wh, cells in rows
        }

    def lengths(self) -> dict[int, list[tuple[int, int]]]:
        """The interval lengths that commands set, by meter."""
        return {number: lengths_in(memory.nonvolatile) for number, memory in self.memories().items()}

    # --- commands ---------------------------------------------------------------------------------

    def post_mail(self, concentrator: int, system_title: bytes, octets: bytes, fault: str, due_s: float) -> None:
        """A concentrator passes a command on, at a time (Unix seconds)."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO mail (concentrator, title, octets, fault, due_s) VALUES (?, ?, ?, ?, ?)",
                [concentrator, system_title, octets, fault, due_s],
            )

    def mail(self, now_s: float) -> list[Mail]:
        """Return the commands that have reached their meters, in order; ``hand_over`` removes them."""
        rows = self.db().execute(
            "SELECT id, concentrator, title, octets, fault FROM mail WHERE due_s <= ? ORDER BY id", [now_s]
        )
        return [Mail(*row) for row in rows]

    def said(self) -> list[ExtraValue]:
        rows = self.db().execute("SELECT meter, register, at_s, value FROM said")
        return [ExtraValue(*row) for row in rows]

    # --- frames in --------------------------------------------------------------------------------

    def hand_over(
        self,
        frames: list[Outgoing],
        memories: list[Memory],
        taken: Sequence[Mail] = (),
        said: Sequence[ExtraValue] = (),
        beside: Callable[[sqlite3.Connection], None] = lambda _: None,
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Buffer frames, and with them write the meters' memories and the run's facts: all or nothing.

        ``taken`` are the commands whose results are in these frames; ``beside`` writes more in the same transaction.
        """
        with self.transaction() as db:
            seq = self._next_seq(db, sum(not frame.waits for frame in frames))
            ready = []
            for frame in frames:
                if frame.waits:
                    self._hold(db, frame)
                else:
                    frame.place = seq
                    ready.append((frame.concentrator, seq, frame.verdict, frame.octets))
                    seq += 1
            db.executemany("INSERT INTO frames VALUES (?, ?, ?, ?)", ready)
            db.executemany(
                "INSERT OR REPLACE INTO memories VALUES (?, ?)",
                [(memory.number, memory.register_wh) for memory in memories],
            )
            written = [memory for memory in memories if memory.nonvolatile.changed]
            db.executemany(
                "INSERT OR REPLACE INTO nonvolatile VALUES (?, ?)",
                [(memory.number, memory.nonvolatile.dump()) for memory in written],
            )
            db.executemany("DELETE FROM mail WHERE id = ?", [(one.id,) for one in taken])
            db.executemany("INSERT OR REPLACE INTO said VALUES (?, ?, ?, ?)", said)
            self._write_facts(db, facts)
            beside(db)
        for memory in written:
            memory.nonvolatile.changed = False

    def release_due(self, clock_s: float) -> int:
        """Hand over the frames that are due; return how many."""
        if not self.db().execute("SELECT 1 FROM held WHERE not_before_s <= ? LIMIT 1", [clock_s]).fetchone():
            return 0
        with self.transaction() as db:
            return self._release(db, "not_before_s <= ?", [clock_s])

    def release_behind(self, concentrator: int) -> int:
        """Hand over the frames that waited for frames now verified; return how many."""
        with self.transaction() as db:
            row = db.execute(
                "SELECT coalesce((SELECT min(first_seq) - 1 FROM batches WHERE concentrator = ?1 AND verified = 0),"
                " (SELECT max(last_seq) FROM batches WHERE concentrator = ?1), -1)",
                [concentrator],
            ).fetchone()
            return self._release(db, "concentrator = ? AND behind_seq <= ?", [concentrator, row[0]])

    # --- batches out ------------------------------------------------------------------------------

    def next_batch(self, concentrator: int, size: int, *, partial: bool) -> Batch | None:
        """Return the batch without a receipt, as it was posted before; if there is none, a new one of ``size`` frames.

        With ``partial``, it may have fewer frames. None if there is nothing to post.
        """
        unsent = "SELECT id, concentrator, frames, body FROM batches WHERE concentrator = ? AND uplink IS NULL LIMIT 1"
        row = self.db().execute(unsent, [concentrator]).fetchone()
        if row is not None:
            return Batch(*row)
        select = "SELECT seq, verdict, octets FROM frames WHERE concentrator = ? ORDER BY seq LIMIT ?"
        rows = self.db().execute(select, [concentrator, size]).fetchall()
        if not rows or (len(rows) < size and not partial):
            return None
        first_seq, last_seq = rows[0][0], rows[-1][0]
        body = encode_sequence([octets for _, _, octets in rows])
        verdicts = json.dumps(Counter(verdict for _, verdict, _ in rows))
        with self.transaction() as db:
            batch_id = db.execute(
                "INSERT INTO batches (concentrator, first_seq, last_seq, frames, verdicts, body)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                [concentrator, first_seq, last_seq, len(rows), verdicts, body],
            ).lastrowid
            db.execute("DELETE FROM frames WHERE concentrator = ? AND seq <= ?", [concentrator, last_seq])
        return Batch(batch_id or 0, concentrator, len(rows), body)

    def keep_receipt(self, batch: Batch, uplink: int) -> None:
        """Note that the head-end has the batch. If an equal batch had the same receipt, it was a retransmission."""
        with self.transaction() as db:
            known = db.execute("SELECT 1 FROM batches WHERE uplink = ? LIMIT 1", [uplink]).fetchone()
            db.execute(
                "UPDATE batches SET uplink = ?, body = NULL, repeated = ? WHERE id = ?",
                [uplink, known is not None, batch.id],
            )

    def awaited_uplink(self, concentrator: int) -> int | None:
        """Return the oldest uplink that may not be verified, if frames wait for one; None otherwise."""
        row = (
            self.db()
            .execute(
                "SELECT uplink FROM batches WHERE concentrator = ?1 AND verified = 0 AND EXISTS"
                " (SELECT 1 FROM held WHERE concentrator = ?1 AND behind_seq IS NOT NULL) ORDER BY id LIMIT 1",
                [concentrator],
            )
            .fetchone()
        )
        return None if row is None else row[0]

    def mark_verified(self, uplink: int) -> None:
        with self.transaction() as db:
            db.execute("UPDATE batches SET verified = 1 WHERE uplink = ?", [uplink])

    # --- how it stands ----------------------------------------------------------------------------

    def backlog(self) -> int:
        """Return how many frames were handed over since the oldest that is in no batch yet."""
        row = self.db().execute("SELECT value - (SELECT min(seq) FROM frames) FROM facts WHERE name = 'next_seq'")
        return int((row.fetchone() or (0,))[0] or 0)

    def progress(self) -> tuple[int, int]:
        """Return how many frames were handed over, with those that are held back, and how many have a receipt."""
        row = self.db().execute(
            "SELECT coalesce((SELECT value FROM facts WHERE name = 'next_seq'), 0) + (SELECT count(*) FROM held),"
            " coalesce((SELECT sum(frames) FROM batches WHERE uplink IS NOT NULL), 0)"
        )
        handed_over, posted = row.fetchone()
        return int(handed_over), int(posted)

    def is_drained(self, concentrator: int) -> bool:
        """Whether everything was handed over and posted, has a receipt, and nothing is held back."""
        row = self.db().execute(
            "SELECT NOT EXISTS (SELECT 1 FROM frames WHERE concentrator = ?1)"
            " AND NOT EXISTS (SELECT 1 FROM held WHERE concentrator = ?1)"
            " AND NOT EXISTS (SELECT 1 FROM batches WHERE concentrator = ?1 AND uplink IS NULL)",
            [concentrator],
        )
        return bool(row.fetchone()[0])

    def posted(self) -> Iterator[tuple[int, int, dict[str, int]]]:
        """Yield (concentrator, uplink, frames by expected verdict) of every receipt; retransmissions only once."""
        rows = self.db().execute(
            "SELECT concentrator, uplink, verdicts FROM batches WHERE uplink IS NOT NULL AND NOT repeated ORDER BY id"
        )
        for concentrator, uplink, verdicts in rows:
            yield concentrator, uplink, json.loads(verdicts)

    # --- inside -----------------------------------------------------------------------------------

    def db(self) -> sqlite3.Connection:
        """Return the connection of the calling thread."""
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            self._local.db = db
            self._connections.append(db)
        return db

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write everything in the block, or nothing."""
        db = self.db()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    @staticmethod
    def _write_facts(db: sqlite3.Connection, facts: Mapping[str, Any]) -> None:
        db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", [(k, json.dumps(v)) for k, v in facts.items()])

    @staticmethod
    def _next_seq(db: sqlite3.Connection, count: int) -> int:
        """Return the first of ``count`` sequence numbers that are never used again."""
        row = db.execute("SELECT value FROM facts WHERE name = 'next_seq'").fetchone()
        seq = 0 if row is None else int(row[0])
        db.execute("INSERT OR REPLACE INTO facts VALUES ('next_seq', ?)", [str(seq + count)])
        return seq

    @staticmethod
    def _hold(db: sqlite3.Connection, frame: Outgoing) -> None:
        behind = frame.behind
        seq = behind.place if behind is not None and not behind.waits else None
        held = behind.place if behind is not None and behind.waits else None
        cursor = db.execute(
            "INSERT INTO held (concentrator, verdict, octets, not_before_s, behind_seq, behind_held)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [frame.concentrator, frame.verdict, frame.octets, frame.not_before_s, seq, held],
        )
        frame.place = cursor.lastrowid or -1

    def _release(self, db: sqlite3.Connection, condition: str, values: list[Any]) -> int:
        """Move held rows into the buffers; frames that wait for one of them now wait for its new place."""
        select = f"SELECT id, concentrator, verdict, octets FROM held WHERE {condition} ORDER BY id"
        held = db.execute(select, values).fetchall()
        seq = self._next_seq(db, len(held))
        placed = [(row, seq + index) for index, row in enumerate(held)]
        db.executemany("INSERT INTO frames VALUES (?, ?, ?, ?)", [(row[1], s, row[2], row[3]) for row, s in placed])
        ids = [(row[0],) for row in held]
        db.executemany("DELETE FROM held WHERE id = ?", ids)
        follow = "UPDATE held SET behind_seq = ?, behind_held = NULL WHERE behind_held = ?"
        db.executemany(follow, [(s, row[0]) for row, s in placed])
        return len(held)


def _close(connections: list[sqlite3.Connection], lock: int) -> None:
    for connection in connections:
        connection.close()
    os.close(lock)
