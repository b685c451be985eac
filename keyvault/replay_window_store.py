"""Replay windows in the database: keys and counters are read for a batch, and written back by compare-and-set."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from django.conf import settings

from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array
from keyvault import sessions_store
from keyvault.ciphers import KeptCiphers, KeyRow, key_row
from keyvault.cose.forms import KID_OCTETS
from keyvault.cose.structures import make_kid
from keyvault.counted_keys import ContendedError, CountedKey, CountedSession, CountedSet
from keyvault.device_keys.key_rows import TRANSFER_EPOCH
from keyvault.replay_window import format_gaps
from keyvault.replay_window_sql import (
    ANY_EPOCH,
    LOCK_SESSIONS,
    LOCKED,
    NOT_FORESEEN,
    READ_ENDED,
    READ_KEYS_OF_TITLES,
    READ_NAMED,
    READ_UNFORESEEN,
    SAVE_AHEAD,
    SAVE_GAPS,
    SAVE_SESSIONS_AHEAD,
    SAVE_SESSIONS_GAPS,
)
from keyvault.schemes.dlms.envelope import DLMS_ENVELOPE
from keyvault.schemes.lines import Cipher

_TRANSFER_EPOCH = TRANSFER_EPOCH.to_bytes(2, "big")
_OF_KEY_SETS = DLMS_ENVELOPE.name


class Care(Enum):
    """How counters are read before frames are judged. All are safe: writing back compares and sets."""

    TRUST = "the counters of cached keys are predicted from the frames, and not read"
    LOOK = "predicted counters are compared with the database"
    READ = "as LOOK, and nothing is written or locked: frames are on trial"
    LOCK = "counters are read under row locks, taken in title order"


def read_keys(
    names: Collection[bytes], foreseen: Mapping[bytes, int], care: Care, ciphers: KeptCiphers
) -> dict[bytes, CountedKey]:
    """Return the keys that frames name, with their counters, by kid.

    A name is a kid (10 octets, or 22 with the kid context of a session), or only a title (8 octets), which stands for
    every usable key of its device. The transfer key protects no uplink and is never returned. ``foreseen`` has the
    predicted highest counter by kid. If it is right and the key is cached, no other column is read; with Care.TRUST
    nothing is read at all.
    """
    wanted = [name for name in names if name[8:KID_OCTETS] != _TRANSFER_EPOCH]
    keys = {} if care is Care.LOCK else _read_kept(wanted, foreseen, care, ciphers)
    if len(keys) < len(wanted):
        _read_rows([name for name in wanted if name not in keys], keys, care)
    return keys


def _read_rows(names: Sequence[bytes], keys: dict[bytes, CountedKey], care: Care) -> None:
    """Add the keys of names to ``keys``: one query, or three if sessions are read under locks.

    Locking takes statements of its own, because a statement that waited for a lock sees the changes of others only in
    the rows that it locks.
    """
    epochs = [int.from_bytes(name[8:KID_OCTETS], "big") if len(name) > 8 else ANY_EPOCH for name in names]
    contexts = _contexts(names)
    both = READ_KEYS_OF_TITLES if ANY_EPOCH in epochs else READ_NAMED
    named = [octets_array(name[:8] for name in names), int_array(epochs)]
    if care is Care.LOCK and contexts:
        fetch_rows(both.of_keys + LOCKED, *named)
        fetch_rows(LOCK_SESSIONS, *named, *contexts)
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
    """Return the extra parameter of statements that read sessions: the kid contexts. Empty if no name has one."""
    contexts = [name[KID_OCTETS:] for name in names]
    return [octets_array(contexts)] if any(contexts) else []


def _counted(kid: bytes, runs: int, row: KeyRow, cipher: Cipher | None, counters: Sequence[Any]) -> CountedKey:
    """Make a key from its counters, or those of the session in the kid: highest, floor, gaps, session floor."""
    context = kid[KID_OCTETS:]
    if context:
        return CountedSession(runs, row, cipher, context, *counters)
    if row.envelope == _OF_KEY_SETS:
        return CountedSet(runs, row, cipher, *counters[:3])
    return CountedKey(runs, row, cipher, *counters[:3])


def _read_kept(
    kids: Collection[bytes], foreseen: Mapping[bytes, int], care: Care, ciphers: KeptCiphers
) -> dict[bytes, CountedKey]:
    """Return the keys that have a cached cipher and an unchanged row, with their counters; one query."""
    kept = ciphers.kept(kids)
    runs = settings.COUNTER_GAP_RUNS
    highest = foreseen.get
    keys: dict[bytes, CountedKey] = {}
    for kid, (row, cipher) in kept.items():
        if len(kid) > KID_OCTETS:
            keys[kid] = CountedSession(runs, row, cipher, kid[KID_OCTETS:], highest(kid, NOT_FORESEEN))
        else:
            kind = CountedSet if row.envelope == _OF_KEY_SETS else CountedKey
            keys[kid] = kind(runs, row, cipher, highest(kid, NOT_FORESEEN))
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


def read_ended(titles: Collection[bytes]) -> dict[bytes, KeyRow]:
    """The rows of keys of some titles that may be used no more, by kid: the two newest of each title. One query."""
    return {
        make_kid(title, epoch): key_row(*row) for title, epoch, *row in fetch_rows(READ_ENDED, octets_array(titles))
    }


def know_foreseen(keys: Collection[CountedKey]) -> None:
    """Read the counters of keys (no sessions) that were only predicted, before any of them is taken; one query.

    ContendedError if the row of a key changed since it was cached.
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
            raise ContendedError("a key changed since its cipher was cached")
        foreseen[n - 1].know(*counters)


def save_keys(keys: Sequence[CountedKey]) -> None:
    """Write back the counters that keys took, in title order, by compare-and-set on counter and key version.

    ContendedError if one changed since it was read, or was predicted wrongly.
    """
    with_gaps = [key for key in keys if key.gaps_changed]
    if any(key.is_foreseen for key in with_gaps):
        raise ContendedError("a frame did not open, so a predicted counter was not taken")
    sessions = [key for key in keys if isinstance(key, CountedSession)]
    only_ahead = not with_gaps
    if sessions:
        _save_with_sessions(keys, sessions, only_ahead=only_ahead)
    elif only_ahead:
        _save(SAVE_AHEAD, keys, [])
    else:
        # All in one statement: two of them would lock rows in another order than title order, and deadlock.
        _save(SAVE_GAPS, keys, _gaps_of(keys))


def _gaps_of(keys: "Sequence[CountedKey | _Held]") -> list[list[Any]]:
    """Return old and new gaps and floors of keys; None for keys of which only the highest counter is known."""
    known = [None if isinstance(key, _Held) or key.is_foreseen else key for key in keys]
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


def _moves(keys: "Sequence[CountedKey | _Held]") -> list[Any]:
    """Return the first parameters of all statements that save: the old and new counters of keys."""
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
    """Save keys and stored sessions in one statement, as ``save_keys``; then insert new sessions."""
    held = _own_rows(keys)
    known = [session for session in sessions if session.is_known]
    ((saved, advanced),) = fetch_rows(
        SAVE_SESSIONS_AHEAD if only_ahead else SAVE_SESSIONS_GAPS,
        *_moves(held),
        *(() if only_ahead else _gaps_of(held)),
        *_moves(known),
        *(() if only_ahead else _gaps_of(known)),
        octets_array([session.context for session in known]),
    )
    moved = len(held) - saved + len(known) - advanced
    if moved:
        raise ContendedError(f"{moved} of {len(held)} keys and {len(known)} sessions moved meanwhile")
    if len(known) < len(sessions):
        sessions_store.begin([session for session in sessions if not session.is_known])


def _own_rows(keys: Sequence[CountedKey]) -> list["CountedKey | _Held"]:
    """Return the keys whose own row is written, each once and in order; if a session begins, the row is only locked."""
    rows: dict[int, CountedKey | _Held] = {}
    for key in keys:
        if not isinstance(key, CountedSession):
            rows[key.id] = key
        elif not key.is_known:
            rows.setdefault(key.id, _Held(key.id, key.version))
    return list(rows.values())


class _Held:
    """A key whose row is locked while its own counter does not change."""

    __slots__ = ("id", "version")

    highest_was = highest = NOT_FORESEEN
    heard_at: datetime | None = None
    heard_via = 0

    def __init__(self, key_id: int, version: int) -> None:
        self.id, self.version = key_id, version
