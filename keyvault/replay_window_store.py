"""Keys with their invocation counters, as the database has them: read for a batch, written back by compare-and-set."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from django.conf import settings

from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array
from keyvault.ciphers import KeptCiphers, KeyRow, key_row
from keyvault.cose.forms import KID_OCTETS
from keyvault.cose.structures import make_kid
from keyvault.device_keys.provisioning import TRANSFER_EPOCH
from keyvault.replay_window import CounterSet, Take, format_gaps, parse_gaps
from keyvault.replay_window_sql import (
    ANY_EPOCH,
    BEGIN_SESSIONS,
    LOCKED,
    NOT_FORESEEN,
    READ_KEYS_OF_TITLES,
    READ_NAMED,
    READ_UNFORESEEN,
    SAVE_AHEAD,
    SAVE_GAPS,
    SAVE_SESSIONS_AHEAD,
    SAVE_SESSIONS_GAPS,
)
from keyvault.schemes.lines import Cipher
from keyvault.schemes.session import opened_at

_TRANSFER_EPOCH = TRANSFER_EPOCH.to_bytes(2, "big")


class Care(Enum):
    """How much is known of counters before frames are judged; the write back holds for all three."""

    TRUST = "what the frames foresee of kept keys is taken for true"
    LOOK = "what the frames foresee is compared with the database"
    LOCK = "counters are read under their row locks, taken in title order"


class ContendedError(Exception):
    """Another transaction took counters or moved keys of these uplinks meanwhile: roll back and try again."""


class CountedKey(CounterSet):
    """A device key's row and counters as this transaction sees them, and what they were when it looked.

    ``cipher`` opens its frames; None where it is not kept, yet.

    ``floor`` None: only ``highest`` is known, since it is what the frames foresaw (``is_foreseen``). That does for
    counters that follow it one by one, and for no others.

    ``opened_s`` is when the session began that the counters are of (Unix seconds), 0 where they are the key's own.
    """

    context = b""
    opened_s = 0

    __slots__ = (
        "alg",
        "cipher",
        "content",
        "envelope",
        "floor_was",
        "gaps_were",
        "heard_at",
        "heard_via",
        "highest_was",
        "id",
        "is_foreseen",
        "row",
        "scheme",
        "state",
        "version",
    )

    def __init__(
        self,
        max_gap_runs: int,
        row: KeyRow,
        cipher: Cipher | None,
        highest: int,
        floor: int | None = None,
        gaps: str | None = None,
    ) -> None:
        super().__init__(max_gap_runs, highest, floor or 0, parse_gaps(gaps) if gaps else None)
        self.row, self.cipher = row, cipher
        self.id, self.version, self.state, self.alg, self.envelope, self.content, self.scheme = row
        self.highest_was, self.floor_was, self.gaps_were = highest, floor, gaps
        self.is_foreseen = floor is None
        self.heard_at: datetime | None = None
        self.heard_via = 0

    @property
    def moved(self) -> bool:
        """Whether a counter was taken."""
        return self.highest != self.highest_was or self.gaps_changed

    def know(self, highest: int, floor: int, gaps: str | None) -> None:
        """Go on from the counters as they stand, where they were foreseen; none may have been taken yet."""
        self.highest = self.highest_was = highest
        self.floor = self.floor_was = floor
        self.gaps, self.gaps_were = parse_gaps(gaps) if gaps else [], gaps
        self.is_foreseen = False


class CountedSession(CountedKey):
    """A session of a device key: its counters, where it is known already, beside the key's row.

    ``is_known`` where it has a row. One that has none is a new one, or, where its kid context is not above the
    key's ``session_floor``, was given up: then it takes nothing.
    """

    __slots__ = ("context", "is_closed", "is_known", "opened_s")

    def __init__(
        self,
        max_gap_runs: int,
        row: KeyRow,
        cipher: Cipher | None,
        context: bytes,
        highest: int | None,
        floor: int | None = None,
        gaps: str | None = None,
        session_floor: bytes = b"",
    ) -> None:
        self.is_known = highest is not None
        if highest is None:
            highest, floor = -1, 0
        super().__init__(max_gap_runs, row, cipher, highest, floor, gaps)
        self.context = context
        self.opened_s = opened_at(context)
        self.is_closed = not self.is_known and context <= session_floor

    def look(self, counter: int) -> Take:
        """As of any counters; CLOSED where the session was given up."""
        return Take.CLOSED if self.is_closed else super().look(counter)

    def take(self, counter: int) -> Take:
        """As of any counters; CLOSED where the session was given up."""
        return Take.CLOSED if self.is_closed else super().take(counter)


def read_keys(
    names: Collection[bytes], foreseen: Mapping[bytes, int], care: Care, ciphers: KeptCiphers
) -> dict[bytes, CountedKey]:
    """The keys that frames name, with their counters, by kid.

    A name is a kid (10 octets, or 22 with the kid context of a session), or a title alone (8): then it means every
    key that its device may use. The transfer key protects no uplink and is never among them. ``foreseen`` is what the
    highest counter of a kid ought to be: where it is, and the key is kept, nothing more is read of it; nothing at all
    with Care.TRUST.
    """
    wanted = [name for name in names if name[8:KID_OCTETS] != _TRANSFER_EPOCH]
    keys = {} if care is Care.LOCK else _read_kept(wanted, foreseen, care, ciphers)
    if len(keys) < len(wanted):
        _read_rows([name for name in wanted if name not in keys], keys, care)
    return keys


def _read_rows(names: Sequence[bytes], keys: dict[bytes, CountedKey], care: Care) -> None:
    """Add the keys of those names, as one query finds them; as two under locks, where sessions are among them.

    What a statement waited for, it sees of the rows that it locks alone.
    """
    epochs = [int.from_bytes(name[8:KID_OCTETS], "big") if len(name) > 8 else ANY_EPOCH for name in names]
    contexts = _contexts(names)
    both = READ_KEYS_OF_TITLES if ANY_EPOCH in epochs else READ_NAMED
    named = [octets_array(name[:8] for name in names), int_array(epochs)]
    if care is Care.LOCK and contexts:
        fetch_rows(both.of_keys + LOCKED, *named)
    if contexts:
        rows = fetch_rows(both.with_sessions, *named, *contexts)
    else:
        rows = fetch_rows(both.of_keys + LOCKED if care is Care.LOCK else both.of_keys, *named)
    runs = settings.COUNTER_GAP_RUNS
    for n, epoch, key_id, version, state, algorithm, scheme, *counters in rows:
        row = key_row(key_id, version, state, algorithm, scheme)
        name = names[n - 1]
        kid = name if len(name) > KID_OCTETS else make_kid(name[:8], epoch)
        keys[kid] = _counted(kid, runs, row, None, counters)


def _contexts(names: Iterable[bytes]) -> list[str]:
    """The parameter of statements that read sessions: the kid contexts in names; none where no session is named."""
    contexts = [name[KID_OCTETS:] for name in names]
    return [octets_array(contexts)] if any(contexts) else []


def _counted(kid: bytes, runs: int, row: KeyRow, cipher: Cipher | None, counters: Sequence[Any]) -> CountedKey:
    """A key with its counters, or those of the session that the kid names: highest, floor, gaps, session floor."""
    context = kid[KID_OCTETS:]
    if context:
        return CountedSession(runs, row, cipher, context, *counters)
    return CountedKey(runs, row, cipher, *counters[:3])


def _read_kept(
    kids: Collection[bytes], foreseen: Mapping[bytes, int], care: Care, ciphers: KeptCiphers
) -> dict[bytes, CountedKey]:
    """The keys whose ciphers are kept and whose rows still stand, with their counters: one look at a narrow table."""
    kept = ciphers.kept(kids)
    runs = settings.COUNTER_GAP_RUNS
    highest = foreseen.get
    keys: dict[bytes, CountedKey] = {
        kid: CountedKey(runs, row, cipher, highest(kid, NOT_FORESEEN))
        if len(kid) == KID_OCTETS
        else CountedSession(runs, row, cipher, kid[KID_OCTETS:], highest(kid, NOT_FORESEEN))
        for kid, (row, cipher) in kept.items()
    }
    looked_at = list(keys)
    if care is Care.TRUST:
        looked_at = [kid for kid in looked_at if kid not in foreseen]
    if not looked_at:
        return keys
    contexts = _contexts(looked_at)
    unforeseen = fetch_rows(
        READ_UNFORESEEN.with_sessions if contexts else READ_UNFORESEEN.of_keys,
        int_array([keys[kid].id for kid in looked_at]),
        int_array([keys[kid].version for kid in looked_at]),
        int_array([keys[kid].highest for kid in looked_at]),
        *contexts,
    )
    for n, stands, *counters in unforeseen:
        kid = looked_at[n - 1]
        if stands:
            keys[kid] = _counted(kid, runs, *kept[kid], counters)
        else:
            del keys[kid]
            ciphers.forget(kid)
    return keys


def know_foreseen(keys: Collection[CountedKey]) -> None:
    """Read what stands of keys (no sessions) whose counters were foreseen, before any of those is taken; one query.

    ContendedError where the row of one no longer stands as it was taken for.
    """
    foreseen = [key for key in keys if key.is_foreseen]
    if not foreseen:
        return
    rows = fetch_rows(
        READ_UNFORESEEN.of_keys,
        int_array([key.id for key in foreseen]),
        int_array([key.version for key in foreseen]),
        int_array([NOT_FORESEEN] * len(foreseen)),
    )
    for n, stands, *counters in rows:
        if not stands:
            raise ContendedError("a key moved since its cipher was kept")
        foreseen[n - 1].know(*counters)


def save_keys(keys: Sequence[CountedKey]) -> None:
    """Write back the counters that keys took, in title order, by compare-and-set on counter and key version.

    Raises ContendedError where one moved since it was read, or did not go on as it was foreseen.
    """
    with_gaps = [key for key in keys if key.gaps_changed]
    if any(key.is_foreseen for key in with_gaps):
        raise ContendedError("a frame did not open, and a counter that was foreseen was not taken")
    sessions = [key for key in keys if isinstance(key, CountedSession)]
    only_ahead = not with_gaps
    if sessions:
        _save_with_sessions(keys, sessions, only_ahead=only_ahead)
    elif only_ahead:
        _save(SAVE_AHEAD, keys, [])
    else:
        # All in one statement: two of them would lock rows in another order than title order, and deadlock.
        _save(SAVE_GAPS, keys, _gaps_of(keys))


def _gaps_of(keys: "Sequence[CountedKey | _Heard]") -> list[list[Any]]:
    """What gaps and floors of keys were, and are; nothing of those whose highest counter alone is known."""
    known = [None if isinstance(key, _Heard) or key.is_foreseen else key for key in keys]
    return [
        [key and (key.gaps_were or "{}") for key in known],
        [key and format_gaps(key.gaps) for key in known],
        [key and key.floor_was for key in known],
        [key and key.floor for key in known],
    ]


def _save(statement: str, keys: Sequence[CountedKey], more: list[list[Any]]) -> None:
    if not keys:
        return
    saved = execute(statement, *_moves(keys), *more)
    if saved != len(keys):
        raise ContendedError(f"{len(keys) - saved} of {len(keys)} counters moved meanwhile")


def _moves(keys: "Sequence[CountedKey | _Heard]") -> list[Any]:
    """How keys moved, as the parameters that all statements begin with."""
    times = sorted({key.heard_at for key in keys if key.heard_at is not None})
    place_of: dict[datetime | None, int] = {None: 0} | {at: place for place, at in enumerate(times, 1)}
    return [
        times,
        int_array([key.id for key in keys]),
        int_array([key.version for key in keys]),
        int_array([key.highest_was for key in keys]),
        int_array([key.highest for key in keys]),
        int_array([place_of[key.heard_at] for key in keys]),
        int_array([key.heard_via for key in keys]),
    ]


def _save_with_sessions(keys: Sequence[CountedKey], sessions: Sequence[CountedSession], *, only_ahead: bool) -> None:
    """As save_keys: all keys, in one statement with the sessions that are known; then those that begin."""
    held = _held(keys)
    known = [session for session in sessions if session.is_known]
    ((saved, advanced),) = fetch_rows(
        SAVE_SESSIONS_AHEAD if only_ahead else SAVE_SESSIONS_GAPS,
        *_moves(held),
        *(() if only_ahead else _gaps_of(held)),
        int_array([session.id for session in known]),
        octets_array([session.context for session in known]),
        int_array([session.highest_was for session in known]),
        int_array([session.highest for session in known]),
        *(() if only_ahead else _gaps_of(known)),
    )
    moved = len(held) - saved + len(known) - advanced
    if moved:
        raise ContendedError(f"{moved} of {len(held)} keys and {len(known)} sessions moved meanwhile")
    beginning = [session for session in sessions if not session.is_known]
    if beginning:
        _begin(beginning)


def _held(keys: Sequence[CountedKey]) -> list["CountedKey | _Heard"]:
    """The keys whose own rows are written, in their order, one each: where sessions moved alone, the key is heard."""
    held: dict[int, CountedKey | _Heard] = {}
    for key in keys:
        if not key.context:
            held[key.id] = key
            continue
        own = held.get(key.id)
        if own is None:
            held[key.id] = _Heard(key.id, key.version, key.heard_at, key.heard_via)
        elif key.heard_at is not None and (own.heard_at is None or own.heard_at < key.heard_at):
            own.heard_at, own.heard_via = key.heard_at, key.heard_via
    return list(held.values())


class _Heard:
    """A key of which sessions moved, and none of its own counters."""

    __slots__ = ("heard_at", "heard_via", "id", "version")

    highest_was = highest = NOT_FORESEEN

    def __init__(self, key_id: int, version: int, heard_at: datetime | None, heard_via: int) -> None:
        self.id, self.version, self.heard_at, self.heard_via = key_id, version, heard_at, heard_via


def _begin(sessions: Sequence[CountedSession]) -> None:
    """Keep new sessions, in the transaction that holds the rows of their keys; ContendedError where one is not new.

    The statement is one of its own, to see what stood before those rows were held.
    """
    ((taken,),) = fetch_rows(
        BEGIN_SESSIONS,
        int_array([session.id for session in sessions]),
        octets_array([session.context for session in sessions]),
        int_array([session.highest for session in sessions]),
        int_array([session.floor for session in sessions]),
        [format_gaps(session.gaps) for session in sessions],
        settings.SESSIONS_KEPT,
    )
    if taken:
        raise ContendedError(f"{taken} of {len(sessions)} sessions began, or were given up, meanwhile")
