"""What a mask authority knows for good: one SQLite file, on the disk before anything is answered.

Who may ask, whose certificates count, the meters that it has taken, and every set that it answered.
"""

import fcntl
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from keyvault.masking.masks import Cell
from keyvault.masking.messages import SumRequest, split_titles
from mask_authority import witness
from mask_authority.keys import AuthorityStateError
from mask_authority.rules import Answered
from mask_authority.witness import Seen

FILE = "state.sqlite3"
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE certifiers (kid BLOB PRIMARY KEY, issuer TEXT NOT NULL, public BLOB NOT NULL, pinned_s INTEGER NOT NULL);
CREATE TABLE requesters (public BLOB PRIMARY KEY, name TEXT NOT NULL, pinned_s INTEGER NOT NULL);
CREATE TABLE meters (
    title BLOB PRIMARY KEY, public BLOB NOT NULL UNIQUE, certificate BLOB NOT NULL, taken_s INTEGER NOT NULL
);
CREATE TABLE sets (
    number INTEGER PRIMARY KEY, requester BLOB NOT NULL, code TEXT NOT NULL, start_s INTEGER NOT NULL,
    minutes INTEGER NOT NULL, titles BLOB NOT NULL, answer BLOB NOT NULL, at_s INTEGER NOT NULL
);
CREATE INDEX sets_by_start ON sets (start_s);
CREATE TABLE cells (
    title BLOB NOT NULL, code TEXT NOT NULL, start_s INTEGER NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (title, code, start_s)
) WITHOUT ROWID;
CREATE TABLE log (
    id INTEGER PRIMARY KEY, at_s INTEGER NOT NULL, requester BLOB NOT NULL, said TEXT NOT NULL, outcome TEXT NOT NULL
);
"""
# Made where it is not there: authorities from before know no revocations.
_REVOKED = """
CREATE TABLE IF NOT EXISTS revoked (
    kid BLOB NOT NULL, cti BLOB NOT NULL, revocation BLOB NOT NULL, at_s INTEGER NOT NULL, PRIMARY KEY (kid, cti)
) WITHOUT ROWID;
"""
_CHUNK = 500  # variables of one statement


class Certifier(NamedTuple):
    """An authority whose certificates of mask keys are taken: its kid, name, and Ed25519 public key."""

    kid: bytes
    issuer: str
    public: bytes


class State:
    """The state in an authority's folder. Threads may share it."""

    def __init__(self, folder: Path, witness_path: Path) -> None:
        self._folder, self._witness = folder, witness_path
        if not (folder / FILE).exists():
            raise AuthorityStateError(f"{folder / FILE} is not there: restore it, or make an authority anew with init")
        self._db = _connect(folder / FILE)
        self._db.executescript(_REVOKED)
        self._lock = threading.RLock()

    @classmethod
    def make(cls, folder: Path, witness_path: Path, now_s: int) -> "State":
        """A new state, which answers for starts from now on."""
        if witness_path.exists():
            raise AuthorityStateError(f"{witness_path} exists already: it is another authority's witness")
        seen = Seen(secrets.token_hex(8), 0, 0)
        witness.write(witness_path, seen)
        db = _connect(folder / FILE)
        os.chmod(folder / FILE, 0o600)  # noqa: PTH101 - a path of sqlite
        with db:
            db.executescript("BEGIN;" + _SCHEMA)
            facts = {"state": seen.state, "answers": 0, "began_s": now_s}
            db.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
        db.close()
        return cls(folder, witness_path)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def only_one(self) -> Iterator[None]:
        """AuthorityStateError where another process serves this state."""
        with (self._folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise AuthorityStateError(f"another process serves {self._folder}") from None
            yield

    # --- restores -------------------------------------------------------------------------------------

    @property
    def began_s(self) -> int:
        """Since when the state is whole: nothing is answered for starts before (Unix seconds)."""
        return int(self._fact("began_s"))

    def check_whole(self) -> None:
        """AuthorityStateError where the witness shows that the state was restored."""
        witness.check(witness.read(self._witness), self._fact("state"), self._fact("answers"), self._witness)

    def begin_anew(self, now_s: int) -> int:
        """After a restore: nothing is answered for starts before this; gives that time (Unix seconds).

        What was answered since the copy was of intervals that were over, so they began before now; the witness tells
        of later ones, should a clock have run ahead.
        """
        seen = witness.read(self._witness)
        with self._lock, self._db:
            began_s = max(now_s, self.began_s, seen.latest_s + 1 if seen else 0)
            state, answers = secrets.token_hex(8), max(self._fact("answers"), seen.answers if seen else 0)
            for name, value in (("state", state), ("answers", answers), ("began_s", began_s)):
                self._set(name, value)
        witness.write(self._witness, Seen(state, answers, began_s - 1))
        return began_s

    def forget_before(self, start_s: int) -> int:
        """Let go of what was answered for starts before a time, for which nothing is answered then; how many sets."""
        with self._lock, self._db:
            if start_s <= self.began_s:
                return 0
            self._set("began_s", start_s)
            self._db.execute("DELETE FROM cells WHERE start_s < ?", (start_s,))
            self._db.execute("DELETE FROM log WHERE at_s < ?", (start_s,))
            return self._db.execute("DELETE FROM sets WHERE start_s < ?", (start_s,)).rowcount

    # --- who and what is known ------------------------------------------------------------------------

    def pin_certifier(self, certifier: Certifier, now_s: int) -> None:
        self._insert("certifiers", (*certifier, now_s), f"an authority is pinned under kid {certifier.kid!r} already")

    def pin_requester(self, public: bytes, name: str, now_s: int) -> None:
        self._insert("requesters", (public, name, now_s), "this requester is pinned already")

    def take(self, title: bytes, public: bytes, certificate: bytes, now_s: int) -> bool:
        """Take a meter's mask key, for good; False where it was taken already. AuthorityStateError for another key."""
        with self._lock, self._db:
            row = self._db.execute("SELECT public FROM meters WHERE title = ?", (title,)).fetchone()
            if row is not None and row[0] == public:
                return False
        if row is not None:
            raise AuthorityStateError(f"meter {title.hex()} has another mask key already, and that is for good")
        self._insert(
            "meters",
            (title, public, certificate, now_s),
            f"the mask key of {title.hex()} is that of another meter",
        )
        return True

    def revoke(self, kid: bytes, cti: bytes, revocation: bytes, now_s: int) -> bool:
        """Take no meter by the certificate with a cti (8 octets) of the authority with a kid; False: it was revoked."""
        with self._lock, self._db:
            row = (kid, cti, revocation, now_s)
            return self._db.execute("INSERT OR IGNORE INTO revoked VALUES (?, ?, ?, ?)", row).rowcount > 0

    def is_revoked(self, kid: bytes, cti: bytes) -> bool:
        """Whether the certificate with a cti of the authority with a kid was revoked."""
        return bool(self._rows("SELECT 1 FROM revoked WHERE kid = ? AND cti = ?", kid, cti))

    @property
    def certificates(self) -> Iterator[tuple[bytes, bytes]]:
        """Titles of all meters that were taken, and the certificate (octets) of each."""
        yield from self._rows("SELECT title, certificate FROM meters ORDER BY title")

    @property
    def certifiers(self) -> dict[bytes, Certifier]:
        rows = self._rows("SELECT kid, issuer, public FROM certifiers ORDER BY issuer")
        return {row[0]: Certifier(*row) for row in rows}

    @property
    def requesters(self) -> dict[bytes, str]:
        """Names by Ed25519 public key."""
        return dict(self._rows("SELECT public, name FROM requesters ORDER BY name"))

    @property
    def counts(self) -> dict[str, int]:
        """How many meters were taken, certificates revoked, and sets known."""
        return {what: self._rows(f"SELECT count(*) FROM {what}")[0][0] for what in ("meters", "revoked", "sets")}

    def publics(self, titles: Sequence[bytes]) -> dict[bytes, bytes]:
        """The mask keys of those meters that were taken, by title."""
        return dict(self._of(titles, "SELECT title, public FROM meters WHERE title IN ({})"))

    # --- sets -----------------------------------------------------------------------------------------

    def answered(self, request: SumRequest) -> dict[bytes, Answered]:
        """What was answered before for meters of a request, at its register and start."""
        cell = request.cell
        query = "SELECT title, number FROM cells WHERE title IN ({}) AND code = ? AND start_s = ?"
        numbers = dict(self._of(request.titles, query, cell.obis_code, cell.start_s))
        sets = {}
        for number in set(numbers.values()):
            titles, minutes = self._rows("SELECT titles, minutes FROM sets WHERE number = ?", number)[0]
            sets[number] = Answered(number, split_titles(titles), minutes)
        return {title: sets[number] for title, number in numbers.items()}

    def answer_of(self, number: int) -> bytes:
        """The answer (octets) to a set, which the witness has seen when this returns."""
        with self._lock:
            self._tell_witness()
        octets: bytes = self._rows("SELECT answer FROM sets WHERE number = ?", number)[0][0]
        return octets

    def keep(self, request: SumRequest, answer: bytes, now_s: int) -> None:
        """Write a set down with its answer: on the disk, and with the witness, when this returns."""
        code, start_s, minutes = request.cell
        with self._lock:
            with self._db:
                number = self._db.execute(
                    "INSERT INTO sets (requester, code, start_s, minutes, titles, answer, at_s) VALUES (?,?,?,?,?,?,?)",
                    (request.requester, code, start_s, minutes, b"".join(request.titles), answer, now_s),
                ).lastrowid
                rows = [(title, code, start_s, number) for title in request.titles]
                self._db.executemany("INSERT INTO cells VALUES (?, ?, ?, ?)", rows)
                self._set("answers", self._fact("answers") + 1)
            self._tell_witness()

    def _tell_witness(self) -> None:
        """Before an answer leaves, the witness has seen as many as the state knows: whatever kept it from that once."""
        answers, seen = self._fact("answers"), witness.read(self._witness)
        if seen is None or seen.answers < answers:
            latest_s = self._rows("SELECT coalesce(max(start_s), 0) FROM sets")[0][0]
            latest_s = max(latest_s, seen.latest_s if seen else 0)
            witness.write(self._witness, Seen(self._fact("state"), answers, latest_s))

    # --- the log --------------------------------------------------------------------------------------

    def note(self, at_s: int, requester: bytes, said: str, outcome: str) -> None:
        """Log a request of a pinned requester, and what became of it."""
        with self._lock, self._db:
            row = (at_s, requester, said, outcome)
            self._db.execute("INSERT INTO log (at_s, requester, said, outcome) VALUES (?, ?, ?, ?)", row)

    def log(self, limit: int) -> list[tuple[int, bytes, str, str]]:
        """The newest entries of the log: time, requester, what it asked, what became of it."""
        return self._rows("SELECT at_s, requester, said, outcome FROM log ORDER BY id DESC LIMIT ?", limit)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else changes what this thread looks at and writes meanwhile."""
        with self._lock:
            yield

    def _insert(self, table: str, row: tuple[Any, ...], otherwise: str) -> None:
        try:
            with self._lock, self._db:
                self._db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        except sqlite3.IntegrityError:
            raise AuthorityStateError(otherwise) from None

    def _fact(self, name: str) -> Any:
        return self._rows("SELECT value FROM facts WHERE name = ?", name)[0][0]

    def _set(self, name: str, value: Any) -> None:
        self._db.execute("UPDATE facts SET value = ? WHERE name = ?", (value, name))

    def _rows(self, query: str, *params: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(query, params).fetchall()

    def _of(self, titles: Sequence[bytes], query: str, *params: Any) -> list[Any]:
        found = []
        for first in range(0, len(titles), _CHUNK):
            some = titles[first : first + _CHUNK]
            found += self._rows(query.format(", ".join("?" * len(some))), *some, *params)
        return found


def describe(cell: Cell, number: int) -> str:
    """A question as the log tells it."""
    return f"masks of {cell.obis_code} from {cell.start_s}, {cell.minutes} min, of {number} meters"


def _connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits are on the disk when they return, the journal's removal among them."""
    try:
        db = sqlite3.connect(path, timeout=30, check_same_thread=False)
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA synchronous = EXTRA")
        db.execute("PRAGMA fullfsync = ON")
    except sqlite3.Error as error:
        raise AuthorityStateError(f"{path} cannot be opened: {error}") from None
    return db
