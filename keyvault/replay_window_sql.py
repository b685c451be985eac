"""The statements of the replay window: counters of keys and of their sessions, read and written back.

Each holds for a whole batch, and its plan is kept: what it takes are arrays.
"""

from typing import NamedTuple

NOT_FORESEEN = -2  # as a highest counter: it is another in every row


class Statement(NamedTuple):
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


def _statement(template: str) -> Statement:
    """Both forms of a statement: {0} is the table of counters, {1} to {4} are contexts, their name, floor and joins."""
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
# Where frames name titles alone (epoch -1): every key that those devices may use.
ANY_EPOCH = -1
_USABLE = "t.epoch = -1 AND k.epoch > 0 AND k.state IN ('pending', 'active', 'retiring')"
READ_KEYS_OF_TITLES = _statement(_READ_KEYS.format(epochs=f"(k.epoch = t.epoch OR {_USABLE})"))
LOCKED = "ORDER BY k.system_title, k.epoch FOR UPDATE OF c"
# Of a key that is kept, the counter's copy of its version tells whether it still is what it was. Of one whose highest
# counter was foreseen (-2: it was not), nothing is said where that holds.
READ_UNFORESEEN = _statement("""
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
SAVE_AHEAD = f"""
    UPDATE keyvault_invocationcounter c
    SET highest = n.highest, {_HEARD}
         unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::int[], %s::int[])
         AS n(key_id, version, was, highest, heard, via)
    {_UNMOVED}
"""
SAVE_GAPS = f"""
    UPDATE keyvault_invocationcounter c
    SET highest = n.highest, gaps = coalesce(n.gaps, c.gaps), floor = coalesce(n.floor, c.floor), {_HEARD}
         unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::int[], %s::int[],
                %s::int8multirange[], %s::int8multirange[], %s::bigint[], %s::bigint[])
         AS n(key_id, version, was, highest, heard, via, gaps_were, gaps, floor_was, floor)
    {_UNMOVED} AND (n.gaps_were IS NULL OR (c.gaps = n.gaps_were AND c.floor = n.floor_was))
"""
# The keys of sessions come along: of them it is noted that they were heard, and the lock on their rows holds for their
# sessions. ``was`` is then -2.
_SAVE_WITH_SESSIONS = """
    WITH saved AS (
        UPDATE keyvault_invocationcounter c
        SET highest = greatest(n.highest, c.highest), {keys_set} {heard}
             unnest(%s::int[], %s::int[], %s::bigint[], %s::bigint[], %s::int[], %s::int[]{gap_arrays})
             AS n(key_id, version, was, highest, heard, via{gap_names})
        WHERE c.key_id = n.key_id AND c.key_version = n.version AND n.was IN (c.highest, {not_foreseen}) {keys_unmoved}
        RETURNING 1),
    advanced AS (
        UPDATE keyvault_session s
        SET highest = n.highest {sessions_set}
        FROM unnest(%s::int[], %s::bytea[], %s::bigint[], %s::bigint[]{gap_arrays})
             AS n(key_id, context, was, highest{gap_names})
        WHERE s.key_id = n.key_id AND s.context = n.context AND s.highest = n.was {sessions_unmoved}
            AND (SELECT count(*) FROM saved) > 0
        RETURNING 1)
    SELECT (SELECT count(*) FROM saved), (SELECT count(*) FROM advanced)
"""
_GAPS_SET = "gaps = coalesce(n.gaps, {0}.gaps), floor = coalesce(n.floor, {0}.floor)"
_GAPS_UNMOVED = "AND (n.gaps_were IS NULL OR ({0}.gaps = n.gaps_were AND {0}.floor = n.floor_was))"
SAVE_SESSIONS_AHEAD = _SAVE_WITH_SESSIONS.format(
    heard=_HEARD,
    not_foreseen=NOT_FORESEEN,
    gap_arrays="",
    gap_names="",
    keys_set="",
    keys_unmoved="",
    sessions_set="",
    sessions_unmoved="",
)
SAVE_SESSIONS_GAPS = _SAVE_WITH_SESSIONS.format(
    heard=_HEARD,
    not_foreseen=NOT_FORESEEN,
    gap_arrays=", %s::int8multirange[], %s::int8multirange[], %s::bigint[], %s::bigint[]",
    gap_names=", gaps_were, gaps, floor_was, floor",
    keys_set=_GAPS_SET.format("c") + ",",
    keys_unmoved=_GAPS_UNMOVED.format("c"),
    sessions_set=", " + _GAPS_SET.format("s"),
    sessions_unmoved=_GAPS_UNMOVED.format("s"),
)
# With the rows of their keys' counters held. Of more than are kept the lowest go, and the floor rises to the highest of
# those. Gives how many of the new ones are there already, or were given up.
BEGIN_SESSIONS = """
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
