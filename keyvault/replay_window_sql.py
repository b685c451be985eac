"""The statements of the replay window: counters of keys and of their sessions, read and written back.

Each works on a whole batch: its parameters are arrays, so that its text and plan stay the same.
"""

from typing import NamedTuple

NOT_FORESEEN = -2  # as a predicted highest counter: no row has it


class Statement(NamedTuple):
    """A statement that reads counters, in two forms: of keys only, and of keys and sessions.

    ``with_sessions`` has one more parameter, the kid contexts (empty for a key's own counters), and also returns the
    key's session floor.
    """

    of_keys: str
    with_sessions: str


_GAPS = "CASE WHEN isempty({0}.gaps) THEN NULL ELSE {0}.gaps::text END"
_X = """LEFT JOIN keyvault_session s ON s.key_id = c.key_id AND s.context = t.context
    CROSS JOIN LATERAL (SELECT CASE WHEN t.context = '' THEN c.highest ELSE s.highest END AS highest,
                               CASE WHEN t.context = '' THEN c.floor ELSE s.floor END AS floor,
                               CASE WHEN t.context = '' THEN c.gaps ELSE s.gaps END AS gaps) AS x"""


def _statement(template: str) -> Statement:
    """Make both forms: {0} is the table of counters, {1} to {4} are contexts, their name, floor and joins."""
    more = _GAPS.format("x") + ", c.session_floor"
    return Statement(
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
READ_NAMED = _statement(_READ_KEYS.format(epochs="k.epoch = t.epoch"))
# For frames that name only a title (epoch -1): every usable key of that device.
ANY_EPOCH = -1
_USABLE = "t.epoch = -1 AND k.epoch > 0 AND k.state IN ('pending', 'active', 'retiring')"
READ_KEYS_OF_TITLES = _statement(_READ_KEYS.format(epochs=f"(k.epoch = t.epoch OR {_USABLE})"))
# The two newest key sets of each title that may be used no more.
READ_ENDED = """
    SELECT k.system_title, k.epoch, k.id, k.version, k.state, k.algorithm, k.scheme
    FROM unnest(%s::bytea[]) AS t(title)
    CROSS JOIN LATERAL (SELECT * FROM keyvault_devicekey d
        WHERE d.system_title = t.title AND d.epoch > 0 AND d.state IN ('retired', 'compromised')
        ORDER BY d.epoch DESC LIMIT 2) AS k
"""
LOCKED = "ORDER BY k.system_title, k.epoch FOR UPDATE OF c"
# Locks sessions, after the rows of their keys.
LOCK_SESSIONS = """
    SELECT 1 FROM unnest(%s::bytea[], %s::int[], %s::bytea[]) AS t(title, epoch, context)
    JOIN keyvault_devicekey k ON k.system_title = t.title AND k.epoch = t.epoch
    JOIN keyvault_session s ON s.key_id = k.id AND s.context = t.context
    ORDER BY k.system_title, k.epoch, s.context FOR UPDATE OF s
"""
# The counter's copy of the key version shows whether a cached key is still valid. Rows of which version and predicted
# highest counter are right (-2: not predicted) are left out.
READ_UNFORESEEN = _statement("""
    SELECT t.n, c.key_version IS NOT DISTINCT FROM t.version, {0}.highest, {0}.floor, {3}
    FROM unnest(%s::int[], %s::int[], %s::bigint[]{1}) WITH ORDINALITY AS t(key_id, version, foreseen, {2}n)
    LEFT JOIN keyvault_invocationcounter c ON c.key_id = t.key_id
    {4}
    WHERE {0}.highest IS DISTINCT FROM t.foreseen OR c.key_version IS DISTINCT FROM t.version
""")

# Most uplinks only raise the highest counter, and leave the gaps unchanged.
# Uplinks may be verified in another order than they were received, so "last heard" is never set back.
_AHEAD = """
    UPDATE {table} c
    SET highest = {highest}, {gaps_set}
        heard_at = greatest(c.heard_at, t.times[n.heard]),
        heard_via = CASE WHEN n.heard > 0 AND (c.heard_at > t.times[n.heard]) IS NOT TRUE
                         THEN n.via ELSE c.heard_via END
    FROM (SELECT %s::timestamptz[] AS times) AS t,
         unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::int[], %s::int[]{arrays})
         AS n(key_id, version, was, highest, heard, via{names})
    WHERE c.key_id = n.key_id AND c.key_version = n.version {unmoved}
"""


def _moving(table: str, *, gaps: bool, is_of_sessions: bool = False, may_hold: bool = False) -> str:
    """Make a statement that saves counters if they are still what they were; with ``gaps``, also gaps and floor.

    For sessions the last parameter has their kid contexts. With ``may_hold``, a key whose counter ``was``
    NOT_FORESEEN is only locked.
    """
    arrays, names, gaps_set, unmoved = "", "", "", "AND c.highest = n.was"
    highest = "n.highest"
    if may_hold:
        unmoved, highest = f"AND n.was IN (c.highest, {NOT_FORESEEN})", "greatest(n.highest, c.highest)"
    if gaps:
        arrays = ", %s::int8multirange[], %s::int8multirange[], %s::bigint[], %s::bigint[]"
        names = ", gaps_were, gaps, floor_was, floor"
        gaps_set = "gaps = coalesce(n.gaps, c.gaps), floor = coalesce(n.floor, c.floor),"
        unmoved += " AND (n.gaps_were IS NULL OR (c.gaps = n.gaps_were AND c.floor = n.floor_was))"
    if is_of_sessions:
        arrays, names, unmoved = f"{arrays}, %s::bytea[]", f"{names}, context", f"AND c.context = n.context {unmoved}"
    return _AHEAD.format(table=table, highest=highest, gaps_set=gaps_set, arrays=arrays, names=names, unmoved=unmoved)


_COUNTERS, _SESSIONS = "keyvault_invocationcounter", "keyvault_session"
SAVE_AHEAD = _moving(_COUNTERS, gaps=False)
SAVE_GAPS = _moving(_COUNTERS, gaps=True)


def _with_sessions(*, gaps: bool) -> str:
    """Make a statement that saves counters of keys, then of sessions: rows of keys are always locked first."""
    return f"""
        WITH saved AS ({_moving(_COUNTERS, gaps=gaps, may_hold=True)} RETURNING 1),
        advanced AS ({_moving(_SESSIONS, gaps=gaps, is_of_sessions=True)}
            AND (SELECT count(*) FROM saved) >= 0 RETURNING 1)
        SELECT (SELECT count(*) FROM saved), (SELECT count(*) FROM advanced)
    """


SAVE_SESSIONS_AHEAD = _with_sessions(gaps=False)
SAVE_SESSIONS_GAPS = _with_sessions(gaps=True)
