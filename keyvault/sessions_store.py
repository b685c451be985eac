"""Sessions of device keys in the database: inserts new sessions and deletes the lowest.

The counters of stored sessions are read and saved with those of keys (replay_window_store.py).
"""

from collections.abc import Mapping, Sequence

from django.conf import settings
from django.db import transaction

from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array
from keyvault.counted_keys import ContendedError, CountedSession
from keyvault.replay_window import format_gaps
from keyvault.sessions import can_begin, floor_over

_KEPT = """
    SELECT c.key_id, c.session_floor, ARRAY(SELECT s.context FROM keyvault_session s WHERE s.key_id = c.key_id)
    FROM keyvault_invocationcounter c WHERE c.key_id = ANY(%s::int[])
"""
_INSERT = """
    INSERT INTO keyvault_session (key_id, key_version, context, highest, floor, gaps, heard_at, heard_via)
    SELECT n.key_id, n.version, n.context, n.highest, n.floor, n.gaps, n.heard_at, n.heard_via
    FROM unnest(%s::int[], %s::int[], %s::bytea[], %s::bigint[], %s::bigint[], %s::int8multirange[],
                %s::timestamptz[], %s::int[])
         AS n(key_id, version, context, highest, floor, gaps, heard_at, heard_via)
"""
# The time of the last frame of a deleted session is kept with the key's own counter.
_GIVE_UP = """
    WITH n AS (SELECT * FROM unnest(%s::int[], %s::bytea[]) AS n(key_id, floor)),
    gone AS (
        DELETE FROM keyvault_session s USING n WHERE s.key_id = n.key_id AND s.context <= n.floor
        RETURNING s.key_id, s.heard_at, s.heard_via),
    heard AS (
        SELECT DISTINCT ON (key_id) key_id, heard_at, heard_via FROM gone ORDER BY key_id, heard_at DESC NULLS LAST),
    raised AS (
        UPDATE keyvault_invocationcounter c
        SET session_floor = n.floor,
            heard_at = greatest(c.heard_at, h.heard_at),
            heard_via = CASE WHEN c.heard_at IS NULL OR c.heard_at < h.heard_at THEN h.heard_via ELSE c.heard_via END
        FROM n LEFT JOIN heard h ON h.key_id = n.key_id WHERE c.key_id = n.key_id)
    SELECT count(*) FROM gone
"""
# A retired or compromised key keeps its newest session, which shows the last counter of the device.
_OF_ENDED_KEYS = """
    SELECT c.key_id, s.contexts[2] FROM (
        SELECT s.key_id, array_agg(s.context ORDER BY s.context DESC) AS contexts
        FROM keyvault_session s JOIN keyvault_devicekey e ON e.id = s.key_id
        WHERE e.state IN ('retired', 'compromised') GROUP BY s.key_id HAVING count(*) > 1 LIMIT %s) AS s
    JOIN keyvault_invocationcounter c ON c.key_id = s.key_id JOIN keyvault_devicekey k ON k.id = c.key_id
    ORDER BY k.system_title, k.epoch FOR UPDATE OF c
"""
_PRUNED_AT_ONCE = 1000


def begin(sessions: Sequence[CountedSession]) -> None:
    """Insert new sessions. The caller's transaction holds locks on the rows of their keys' counters.

    ContendedError if a session is not new: another transaction inserted or deleted it before those rows were locked.
    """
    by_key: dict[int, list[bytes]] = {}
    for session in sessions:
        by_key.setdefault(session.id, []).append(session.context)
    floors: dict[int, bytes] = {}
    for key_id, floor, kept in fetch_rows(_KEPT, int_array(by_key)):
        new = by_key[key_id]
        if not can_begin(floor, kept, new):
            raise ContendedError("another transaction inserted or deleted a session meanwhile")
        raised = floor_over(floor, [*kept, *new], settings.SESSIONS_KEPT)
        if raised != floor:
            floors[key_id] = raised
    execute(
        _INSERT,
        int_array(session.id for session in sessions),
        int_array(session.version for session in sessions),
        octets_array(session.context for session in sessions),
        int_array(session.highest for session in sessions),
        int_array(session.floor for session in sessions),
        [format_gaps(session.gaps) for session in sessions],
        [session.heard_at for session in sessions],
        [session.heard_via for session in sessions],
    )
    if floors:
        _give_up(floors)


def prune() -> int:
    """Delete the sessions of retired and compromised keys, except the newest of each key; return how many.

    No verdict depends on them: frames under such keys are refused before sessions are checked.
    """
    pruned = 0
    while True:
        with transaction.atomic():
            floors = dict(fetch_rows(_OF_ENDED_KEYS, _PRUNED_AT_ONCE))
            pruned += _give_up(floors) if floors else 0
        if len(floors) < _PRUNED_AT_ONCE:
            return pruned


def _give_up(floors: Mapping[int, bytes]) -> int:
    """Delete the sessions of keys, by id, up to a floor (12 octets) each; return how many. The caller holds locks."""
    ((gone,),) = fetch_rows(_GIVE_UP, int_array(floors), octets_array(floors.values()))
    return int(gone)
