"""Keys with their invocation counters, as the database has them: read for a batch, written back by compare-and-set."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple

from django.conf import settings

from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array
from keyvault.ciphers import KeptCiphers, KeyRow, key_row
from keyvault.cose.forms import KID_OCTETS
from keyvault.cose.structures import make_kid
from keyvault.device_keys.provisioning import TRANSFER_EPOCH
from keyvault.replay_window import CounterSet, Take, format_gaps, parse_gaps
from keyvault.schemes.lines import Cipher
from keyvault.schemes.session import opened_at

_TRANSFER_EPOCH = TRANSFER_EPOCH.to_bytes(2, "big")
_NOT_FORESEEN = -2


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


class _Statement(NamedTuple):
    """A statement that reads counters: those of keys alone, or also those of sessions that frames name.

    ``with_sessions`` takes the kid contexts as one parameter more, empty where a key's own counters are meant, and
    gives the key's session floor as well.
    """

    of_keys: str
    with_sessions: str


_GAPS = "CASE WHEN isempty({0}.gaps) THEN NULL ELSE {0}.gaps::text END"
_X = """LEFT JOIN keyvault_session s ON s.key_id = c.key_id AND s.context = t.context
    CROSS JOIN LATERAL (SELECT CASE WHEN t.context = '' THEN c.highest ELSE s.highest END AS highest,
                               CASE WHEN t.context = '' THEN c.floor ELSE s.floor END AS floor,
                               CASE WHEN t.context = '' THEN c.gaps ELSE s.gaps END AS gaps) AS x"""


def _statement(template: str) -> _Statement:
    """Both forms of a statement: {0} is the table of counters, {1} to {4} are contexts, their name, floor and joins."""
    more = _GAPS.format("x") + ", c.session_floor"
    return _Statement(
        template.format("c", "", "", _GAPS.format("c"), ""),
        template.format("x", ", %s::bytea[]", "context, ", more, _X),
    )


_READ_KEYS = """
    SELECT t.n, k.epoch, k.id, k.version, k.state, k.algorithm, k.scheme, {{0}}.highest, {{0}}.floor, {{3}}
    FROM unnest(%s::bytea[], %s::int[]{{1}}) WITH ORDINALITY AS t(title, epoch, {{2}}n)
    JOIN keyvault_devicekey k ON k.system_title = t.title AND {epochs}
    JOIN keyvault_invocationcounter c ON c.key_id = k.id
    {{4}}
"""
_READ_NAMED = _statement(_READ_KEYS.format(epochs="k.epoch = t.epoch"))
# Where frames name titles alone (epoch -1): every key that those devices may use.
_ANY_EPOCH = -1
_USABLE = "t.epoch = -1 AND k.epoch > 0 AND k.state IN ('pending', 'active', 'retiring')"
_READ_KEYS_OF_TITLES = _statement(_READ_KEYS.format(epochs=f"(k.epoch = t.epoch OR {_USABLE})"))
_LOCKED = "ORDER BY k.system_title, k.epoch FOR UPDATE OF c"
# Of a key that is kept, the counter's copy of its version tells whether it still is what it was. Of one whose highest
# counter was foreseen (-2: it was not), nothing is said where that holds.
_READ_UNFORESEEN = _statement("""
    SELECT t.n, c.key_version IS NOT DISTINCT FROM t.version, {0}.highest, {0}.floor, {3}
    FROM unnest(%s::int[], %s::int[], %s::bigint[]{1}) WITH ORDINALITY AS t(key_id, version, foreseen, {2}n)
    LEFT JOIN keyvault_invocationcounter c ON c.key_id = t.key_id
    {4}
    WHERE {0}.highest IS DISTINCT FROM t.foreseen OR c.key_version IS DISTINCT FROM t.version
""")

# The usual uplink only goes ahead, and leaves the gaps alone.
# Uplinks may be verified in another order than they came in: "last heard" never goes back.
_HEARD = """
        heard_at = greatest(c.heard_at, t.times[n.heard]),
        heard_via = CASE WHEN n.heard > 0 AND (c.heard_at > t.times[n.heard]) IS NOT TRUE
                         THEN n.via ELSE c.heard_via END
    FROM (SELECT %s::timestamptz[] AS times) AS t,
"""
_UNMOVED = "WHERE c.key_id = n.key_id AND c.key_version = n.version AND c.highest = n.was"
_SAVE_AHEAD = f"""
    UPDATE keyvault_invocationcounter c
    SET highest = n.highest, {_HEARD}
         unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::int[], %s::int[])
         AS n(key_id, version, was, highest, heard, via)
    {_UNMOVED}
"""
_SAVE_GAPS = f"""
    UPDATE keyvault_invocationcounter c
    SET highest = n.highest, gaps = coalesce(n.gaps, c.gaps), floor = coalesce(n.floor, c.floor), {_HEARD}
         unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::int[], %s::int[],
                %s::int8multirange[], %s::int8multirange[], %s::bigint[], %s::bigint[])
         AS n(key_id, version, was, highest, heard, via, gaps_were, gaps, floor_was, floor)
    {_UNMOVED} AND (n.gaps_were IS NULL OR (c.gaps = n.gaps_were AND c.floor = n.floor_was))
"""
_SAVE_WITH_SESSIONS = f"""
    WITH saved AS (
        UPDATE keyvault_invocationcounter c
        SET highest = greatest(n.highest, c.highest), gaps = coalesce(n.gaps, c.gaps),
            floor = coalesce(n.floor, c.floor), {_HEARD}
             unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::int[], %s::int[],
                    %s::int8multirange[], %s::int8multirange[], %s::bigint[], %s::bigint[])
             AS n(key_id, version, was, highest, heard, via, gaps_were, gaps, floor_was, floor)
        WHERE c.key_id = n.key_id AND c.key_version = n.version AND n.was IN (c.highest, {_NOT_FORESEEN})
            AND (n.gaps_were IS NULL OR (c.gaps = n.gaps_were AND c.floor = n.floor_was))
        RETURNING 1),
    advanced AS (
        UPDATE keyvault_session s
        SET highest = n.highest, gaps = coalesce(n.gaps, s.gaps), floor = coalesce(n.floor, s.floor)
        FROM unnest(%s::int[], %s::bytea[], %s::bigint[], %s::bigint[],
                    %s::int8multirange[], %s::int8multirange[], %s::bigint[], %s::bigint[])
             AS n(key_id, context, was, highest, gaps_were, gaps, floor_was, floor)
        WHERE s.key_id = n.key_id AND s.context = n.context AND s.highest = n.was
            AND (n.gaps_were IS NULL OR (s.gaps = n.gaps_were AND s.floor = n.floor_was))
            AND (SELECT count(*) FROM saved) > 0
        RETURNING 1)
    SELECT (SELECT count(*) FROM saved), (SELECT count(*) FROM advanced)
"""
# With the rows of their keys' counters held. Of more than are kept the lowest go, and the floor rises to the highest of
# those. Gives how many of the new ones are there already, or were given up.
_BEGIN_SESSIONS = """
    WITH n AS (
        SELECT * FROM unnest(%s::int[], %s::bytea[], %s::bigint[], %s::bigint[], %s::int8multirange[])
                      AS n(key_id, context, highest, floor, gaps)),
    ranked AS (
        SELECT key_id, context, row_number() OVER (PARTITION BY key_id ORDER BY context DESC) AS place
        FROM (SELECT key_id, context FROM n
              UNION ALL
              SELECT key_id, context FROM keyvault_session WHERE key_id IN (SELECT key_id FROM n)) AS any_session),
    given_up AS (SELECT key_id, context AS floor FROM ranked WHERE place = %s + 1),
    raised AS (
        UPDATE keyvault_invocationcounter c SET session_floor = g.floor FROM given_up g WHERE c.key_id = g.key_id),
    gone AS (
        DELETE FROM keyvault_session s USING given_up g WHERE s.key_id = g.key_id AND s.context <= g.floor),
    begun AS (
        INSERT INTO keyvault_session (key_id, context, highest, floor, gaps)
        SELECT n.key_id, n.context, n.highest, n.floor, n.gaps FROM n LEFT JOIN given_up g ON g.key_id = n.key_id
        WHERE g.floor IS NULL OR n.context > g.floor
        ON CONFLICT (key_id, context) DO NOTHING)
    SELECT count(*) FROM n JOIN keyvault_invocationcounter c ON c.key_id = n.key_id
    WHERE n.context <= c.session_floor
       OR EXISTS (SELECT 1 FROM keyvault_session s WHERE s.key_id = n.key_id AND s.context = n.context)
"""


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
    epochs = [int.from_bytes(name[8:KID_OCTETS], "big") if len(name) > 8 else _ANY_EPOCH for name in names]
    contexts = _contexts(names)
    both = _READ_KEYS_OF_TITLES if _ANY_EPOCH in epochs else _READ_NAMED
    named = [octets_array(name[:8] for name in names), int_array(epochs)]
    if care is Care.LOCK and contexts:
        fetch_rows(both.of_keys + _LOCKED, *named)
    if contexts:
        rows = fetch_rows(both.with_sessions, *named, *contexts)
    else:
        rows = fetch_rows(both.of_keys + _LOCKED if care is Care.LOCK else both.of_keys, *named)
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
        kid: CountedKey(runs, row, cipher, highest(kid, _NOT_FORESEEN))
        if len(kid) == KID_OCTETS
        else CountedSession(runs, row, cipher, kid[KID_OCTETS:], highest(kid, _NOT_FORESEEN))
        for kid, (row, cipher) in kept.items()
    }
    looked_at = list(keys)
    if care is Care.TRUST:
        looked_at = [kid for kid in looked_at if kid not in foreseen]
    if not looked_at:
        return keys
    contexts = _contexts(looked_at)
    unforeseen = fetch_rows(
        _READ_UNFORESEEN.with_sessions if contexts else _READ_UNFORESEEN.of_keys,
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


def save_keys(keys: Sequence[CountedKey]) -> None:
    """Write back the counters that keys took, in title order, by compare-and-set on counter and key version.

    Raises ContendedError where one moved since it was read, or did not go on as it was foreseen.
    """
    if any(key.gaps_changed and key.is_foreseen for key in keys):
        raise ContendedError("a frame did not open, and a counter that was foreseen was not taken")
    sessions = [key for key in keys if isinstance(key, CountedSession)]
    if sessions:
        _save_with_sessions(keys, sessions)
    elif not any(key.gaps_changed for key in keys):
        _save(_SAVE_AHEAD, keys, [])
    else:
        # All in one statement: two of them would lock rows in another order than title order, and deadlock.
        _save(_SAVE_GAPS, keys, _gaps_of(keys))


def _gaps_of(keys: Sequence[CountedKey]) -> list[list[Any]]:
    """What gaps and floors of keys were, and are; nothing of those whose highest counter alone is known."""
    return [
        [None if key.is_foreseen else key.gaps_were or "{}" for key in keys],
        [None if key.is_foreseen else format_gaps(key.gaps) for key in keys],
        [None if key.is_foreseen else key.floor_was for key in keys],
        [None if key.is_foreseen else key.floor for key in keys],
    ]


def _save(statement: str, keys: Sequence[CountedKey], more: list[list[Any]]) -> None:
    if not keys:
        return
    saved = execute(statement, *_moves(keys), *more)
    if saved != len(keys):
        raise ContendedError(f"{len(keys) - saved} of {len(keys)} counters moved meanwhile")


def _moves(keys: Sequence[CountedKey]) -> list[Any]:
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


def _save_with_sessions(keys: Sequence[CountedKey], sessions: Sequence[CountedSession]) -> None:
    """As save_keys: all keys, in one statement with the sessions that are known; then those that begin."""
    held = _held(keys)
    known = [session for session in sessions if session.is_known]
    ((saved, advanced),) = fetch_rows(
        _SAVE_WITH_SESSIONS,
        *_moves(held),
        *_gaps_of(held),
        int_array([session.id for session in known]),
        octets_array([session.context for session in known]),
        int_array([session.highest_was for session in known]),
        int_array([session.highest for session in known]),
        *_gaps_of(known),
    )
    moved = len(held) - saved + len(known) - advanced
    if moved:
        raise ContendedError(f"{moved} of {len(held)} keys and {len(known)} sessions moved meanwhile")
    beginning = [session for session in sessions if not session.is_known]
    if beginning:
        _begin(beginning)


def _held(keys: Sequence[CountedKey]) -> list[CountedKey]:
    """The keys whose own rows are written, in their order, one each: where sessions moved alone, the key is heard."""
    held: dict[int, CountedKey] = {}
    for key in keys:
        if not isinstance(key, CountedSession):
            held[key.id] = key
            continue
        own = held.setdefault(key.id, CountedKey(key.max_gap_runs, key.row, None, _NOT_FORESEEN))
        if key.heard_at is not None and (own.heard_at is None or own.heard_at < key.heard_at):
            own.heard_at, own.heard_via = key.heard_at, key.heard_via
    return list(held.values())


def _begin(sessions: Sequence[CountedSession]) -> None:
    """Keep new sessions, in the transaction that holds the rows of their keys; ContendedError where one is not new.

    The statement is one of its own, to see what stood before those rows were held.
    """
    ((taken,),) = fetch_rows(
        _BEGIN_SESSIONS,
        int_array([session.id for session in sessions]),
        octets_array([session.context for session in sessions]),
        int_array([session.highest for session in sessions]),
        int_array([session.floor for session in sessions]),
        [format_gaps(session.gaps) for session in sessions],
        settings.SESSIONS_KEPT,
    )
    if taken:
        raise ContendedError(f"{taken} of {len(sessions)} sessions began, or were given up, meanwhile")
