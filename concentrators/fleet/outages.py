"""Outages: meters that said their power went, and what they said next.

An outage of a meter begins with the event that says so (``meters/codes/event_codes.py``; a site may say which codes
those are), and ends with its next event, whatever that is: an answer to a command shows power, too. A meter is out
while there is no next one. Frames that were accepted since are shown beside it, and end nothing: a concentrator may
have kept them. ``outage_history.py`` lists outages that are over.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ami_headend.core.sql import int_array, select
from keyvault.device_keys import last_heard
from meters.codes.event_codes import CodeKey, EventCodes, Outage
from meters.models import MeterStatus
from meters.registry.groups import OF_GROUPS, GroupName

PERIOD = timedelta(days=7)  # an outage that began before is not looked for
HEARD_AFTER = timedelta(minutes=15)  # frames accepted later than this after the report are of a meter that has power
METERS_MAX = 50_000

# Outages that began in a period, of all meters or of groups. Of several beginnings in a row the last one counts; a
# beginning with an end in the same second is none. ``is_told``: the meter itself said that its power is back.
_SPELLS = """begins AS (
    SELECT r.id AS register_id, k.code FROM unnest(%(logs)s::text[], %(codes)s::bigint[]) AS k(log, code)
    JOIN meters_register r ON r.obis_code = k.log
), ends AS (
    SELECT r.id AS register_id, k.code FROM unnest(%(end_logs)s::text[], %(end_codes)s::bigint[]) AS k(log, code)
    JOIN meters_register r ON r.obis_code = k.log
), spell AS (
    SELECT b.id, b.meter_id, b.captured_at AS began_at, b.received_at, n.captured_at AS ended_at, n.is_told
    FROM meters_meterevent b LEFT JOIN LATERAL (
        SELECT y.* FROM (
            SELECT x.id, x.captured_at, (x.register_id, x.value) IN (SELECT * FROM begins) AS is_begin,
                   (x.register_id, x.value) IN (SELECT * FROM ends) AS is_told
            FROM meters_meterevent x WHERE x.meter_id = b.meter_id AND x.captured_at >= b.captured_at
        ) y WHERE y.captured_at > b.captured_at OR y.is_told OR (y.is_begin AND y.id > b.id)
        ORDER BY y.captured_at, y.is_begin LIMIT 1
    ) n ON true
    WHERE b.captured_at >= %(since)s AND b.captured_at < %(until)s AND {of}
      AND (b.register_id, b.value) IN (SELECT * FROM begins)
      AND n.is_begin IS NOT TRUE AND n.captured_at IS DISTINCT FROM b.captured_at
)"""
# The concentrator of the meter when its outage ended; of an open one now.
PLACED = """placed AS (
    SELECT o.*, a.concentrator_id FROM {outages} o LEFT JOIN concentrators_assignment a
        ON a.meter_id = o.meter_id AND a.valid_from <= coalesce(o.ended_at, %(now)s)
           AND (a.valid_to IS NULL OR a.valid_to > coalesce(o.ended_at, %(now)s))
)"""
_OUT = """out AS (
    SELECT s.* FROM spell s JOIN meters_meter m ON m.id = s.meter_id AND m.status = %(status)s AND NOT m.is_laboratory
    WHERE s.ended_at IS NULL
)"""


class ConcentratorOutage(NamedTuple):
    """The meters of a concentrator that are out; ``name`` is empty for meters without one. ``meters`` counts all."""

    id: int | None
    name: str
    out: int
    meters: int
    since: datetime
    latest: datetime


class GroupOutage(NamedTuple):
    """The meters of a group that are out. ``meters`` counts all of it."""

    id: int
    name: str
    out: int
    meters: int
    since: datetime
    latest: datetime


class MeterOutage(NamedTuple):
    """A meter that is out; ``heard_at`` is its last accepted frame, if it came after the report."""

    meter_id: int
    serial_number: str
    system_title: bytes
    concentrator_id: int | None
    concentrator: str | None
    since: datetime
    received_at: datetime
    heard_at: datetime | None


def by_concentrator(
    codes: EventCodes, now: datetime, since: datetime | None = None, group_ids: Collection[int] | None = None
) -> list[ConcentratorOutage]:
    """Return the concentrators with meters that are out, those with the most first; one query.

    ``group_ids``: only meters of these groups are counted, as out and at all.
    """
    of = "true" if group_ids is None else OF_GROUPS.format(column="a.meter_id")
    rows = select(
        f"""WITH {spells(group_ids)}, {_OUT}, {PLACED.format(outages="out")}, counted AS (
                SELECT concentrator_id, count(*) AS out, min(began_at) AS since, max(began_at) AS latest
                FROM placed GROUP BY concentrator_id
            )
            SELECT p.concentrator_id, coalesce(c.name, ''), p.out,
                   (SELECT count(*) FROM concentrators_assignment a WHERE a.concentrator_id = p.concentrator_id
                    AND a.valid_from <= %(now)s AND (a.valid_to IS NULL OR a.valid_to > %(now)s) AND {of}),
                   p.since, p.latest
            FROM counted p LEFT JOIN concentrators_concentrator c ON c.id = p.concentrator_id
            ORDER BY p.out DESC, c.name""",
        _open(codes, now, group_ids, since),
    )
    return [ConcentratorOutage._make(row) for row in rows]


def by_group(codes: EventCodes, now: datetime, group_ids: Collection[int] | None = None) -> list[GroupOutage]:
    """Return the groups with meters that are out, or those of some groups, with the most first; one query."""
    rows = select(
        f"""WITH {spells(group_ids)}, {_OUT}, counted AS (
                SELECT g.group_id, count(DISTINCT o.meter_id) AS out, min(o.began_at) AS since,
                       max(o.began_at) AS latest
                FROM out o JOIN meters_meteringroup g ON g.meter_id = o.meter_id
                WHERE %(groups)s::int[] IS NULL OR g.group_id = ANY(%(groups)s::int[]) GROUP BY g.group_id
            )
            SELECT f.id, f.kind, f.name, c.out,
                   (SELECT count(DISTINCT g.meter_id) FROM meters_meteringroup g WHERE g.group_id = f.id),
                   c.since, c.latest
            FROM counted c JOIN meters_fleetgroup f ON f.id = c.group_id ORDER BY c.out DESC, f.kind, f.name""",
        _open(codes, now, group_ids),
    )
    return [GroupOutage(row[0], str(GroupName(*row[1:3])), *row[3:]) for row in rows]


def meters_out(
    codes: EventCodes,
    now: datetime,
    concentrator_id: int | None = None,
    limit: int = METERS_MAX,
    group_ids: Collection[int] | None = None,
) -> list[MeterOutage]:
    """Return meters that are out, of a concentrator, groups or all, those out for longest first; one query."""
    rows = select(
        f"""WITH {spells(group_ids)}, {_OUT}, {PLACED.format(outages="out")}
            SELECT m.id, m.serial_number, m.system_title, p.concentrator_id, c.name, p.began_at, p.received_at,
                   CASE WHEN h.heard_at > p.received_at + %(heard_after)s THEN h.heard_at END
            FROM (SELECT * FROM placed WHERE %(concentrator)s::int IS NULL OR concentrator_id = %(concentrator)s::int
                  ORDER BY began_at, meter_id LIMIT %(limit)s) p
            JOIN meters_meter m ON m.id = p.meter_id
            LEFT JOIN concentrators_concentrator c ON c.id = p.concentrator_id
            {last_heard.LAST.format(title="m.system_title")}
            ORDER BY p.began_at, m.id""",
        {
            **_open(codes, now, group_ids),
            "concentrator": concentrator_id,
            "limit": limit,
            "heard_after": HEARD_AFTER,
        },
    )
    return [MeterOutage._make([*row[:2], bytes(row[2]), *row[3:]]) for row in rows]


def together(
    codes: EventCodes, now: datetime, since: datetime | None = None, group_ids: Collection[int] | None = None
) -> dict[int, list[int]]:
    """Return the meters that are out, or whose outages began since a time, by concentrator; one query."""
    rows = select(
        f"""WITH {spells(group_ids)}, {_OUT}, {PLACED.format(outages="out" if since is None else "spell")}
            SELECT concentrator_id, array_agg(DISTINCT meter_id) FROM placed
            WHERE concentrator_id IS NOT NULL GROUP BY concentrator_id""",
        _open(codes, now, group_ids, since),
    )
    return dict(rows)


def spells(group_ids: Collection[int] | None) -> str:
    """Return the SQL of the outages that began in a period (``spell``), of groups or all; ``given`` has its values."""
    return _SPELLS.format(of="true" if group_ids is None else OF_GROUPS.format(column="b.meter_id"))


def given(codes: EventCodes, since: datetime, until: datetime, group_ids: Collection[int] | None) -> dict[str, Any]:
    """Return the values of ``spells``."""
    begins, ends = codes.of_outage(Outage.BEGINS), codes.of_outage(Outage.ENDS)
    return {
        "since": since,
        "until": until,
        "groups": None if group_ids is None else int_array(group_ids),
        **_unnested("logs", "codes", begins),
        **_unnested("end_logs", "end_codes", ends),
    }


def _open(
    codes: EventCodes, now: datetime, group_ids: Collection[int] | None, since: datetime | None = None
) -> dict[str, Any]:
    values = given(codes, now - PERIOD if since is None else since, now + timedelta(seconds=1), group_ids)
    return {**values, "now": now, "status": MeterStatus.COMMISSIONED.value}


def _unnested(logs: str, codes: str, keys: Sequence[CodeKey]) -> dict[str, Any]:
    return {logs: [key.log for key in keys], codes: int_array(key.code for key in keys)}
