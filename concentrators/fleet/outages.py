"""Outages: meters that said their power went, and have not said since that it is back.

A meter is out if the last event of its logs is the beginning of an outage (``meters/codes/event_codes.py``; a site may
say which codes those are). Any later event of it, such as the answer to a command, shows that it has power. Frames that
were accepted since are shown beside it, and end nothing: a concentrator may have kept them.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ami_headend.core.sql import int_array, select
from keyvault.device_keys import last_heard
from meters.codes.event_codes import CodeKey, EventCodes, Outage
from meters.models import MeterStatus
from meters.registry.groups import GroupName

PERIOD = timedelta(days=7)  # an outage that began before is not looked for
HEARD_AFTER = timedelta(minutes=15)  # frames accepted later than this after the report are of a meter that has power
METERS_MAX = 50_000

# Of each meter in service the last beginning of an outage since a time, if no other event of it is younger.
_OPEN = """began AS (
    SELECT DISTINCT ON (e.meter_id) e.meter_id, e.captured_at, e.received_at
    FROM meters_meterevent e JOIN meters_register r ON r.id = e.register_id
    WHERE e.captured_at >= %(since)s AND e.captured_at <= %(now)s
      AND (r.obis_code, e.value) IN (SELECT * FROM unnest(%(logs)s::text[], %(codes)s::bigint[]))
    ORDER BY e.meter_id, e.captured_at DESC
), out AS (
    SELECT b.* FROM began b JOIN meters_meter m ON m.id = b.meter_id AND m.status = %(status)s AND NOT m.is_laboratory
    WHERE NOT EXISTS (
        SELECT FROM meters_meterevent x JOIN meters_register r ON r.id = x.register_id
        WHERE x.meter_id = b.meter_id AND x.captured_at >= b.captured_at
          AND (r.obis_code, x.value) NOT IN (SELECT * FROM unnest(%(logs)s::text[], %(codes)s::bigint[]))
          AND (x.captured_at > b.captured_at
               OR (r.obis_code, x.value) IN (SELECT * FROM unnest(%(end_logs)s::text[], %(end_codes)s::bigint[])))
    )
)"""
_PLACED = """placed AS (
    SELECT o.*, a.concentrator_id FROM out o LEFT JOIN concentrators_assignment a
        ON a.meter_id = o.meter_id AND a.valid_from <= %(now)s AND (a.valid_to IS NULL OR a.valid_to > %(now)s)
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


class Restored(NamedTuple):
    """Outages that ended within a period: of how many meters, and the mean and the longest time."""

    meters: int
    mean: timedelta
    longest: timedelta


def by_concentrator(codes: EventCodes, now: datetime, since: datetime | None = None) -> list[ConcentratorOutage]:
    """Return the concentrators with meters that are out, those with the most first; one query."""
    rows = select(
        f"""WITH {_OPEN}, {_PLACED}, counted AS (
                SELECT concentrator_id, count(*) AS out, min(captured_at) AS since, max(captured_at) AS latest
                FROM placed GROUP BY concentrator_id
            )
            SELECT p.concentrator_id, coalesce(c.name, ''), p.out,
                   (SELECT count(*) FROM concentrators_assignment a WHERE a.concentrator_id = p.concentrator_id
                    AND a.valid_from <= %(now)s AND (a.valid_to IS NULL OR a.valid_to > %(now)s)), p.since, p.latest
            FROM counted p LEFT JOIN concentrators_concentrator c ON c.id = p.concentrator_id
            ORDER BY p.out DESC, c.name""",
        _params(codes, now, since),
    )
    return [ConcentratorOutage._make(row) for row in rows]


def by_group(codes: EventCodes, now: datetime) -> list[GroupOutage]:
    """Return the groups with meters that are out, those with the most first; one query."""
    rows = select(
        f"""WITH {_OPEN}, counted AS (
                SELECT g.group_id, count(DISTINCT o.meter_id) AS out, min(o.captured_at) AS since,
                       max(o.captured_at) AS latest
                FROM out o JOIN meters_meteringroup g ON g.meter_id = o.meter_id GROUP BY g.group_id
            )
            SELECT f.id, f.kind, f.name, c.out,
                   (SELECT count(DISTINCT g.meter_id) FROM meters_meteringroup g WHERE g.group_id = f.id),
                   c.since, c.latest
            FROM counted c JOIN meters_fleetgroup f ON f.id = c.group_id ORDER BY c.out DESC, f.kind, f.name""",
        _params(codes, now),
    )
    return [GroupOutage(row[0], str(GroupName(*row[1:3])), *row[3:]) for row in rows]


def meters_out(
    codes: EventCodes, now: datetime, concentrator_id: int | None = None, limit: int = METERS_MAX
) -> list[MeterOutage]:
    """Return meters that are out, of a concentrator or all, those that are out for longest first; one query."""
    rows = select(
        f"""WITH {_OPEN}, {_PLACED}
            SELECT m.id, m.serial_number, m.system_title, p.concentrator_id, c.name, p.captured_at, p.received_at,
                   CASE WHEN h.heard_at > p.received_at + %(heard_after)s THEN h.heard_at END
            FROM (SELECT * FROM placed WHERE %(concentrator)s::int IS NULL OR concentrator_id = %(concentrator)s::int
                  ORDER BY captured_at, meter_id LIMIT %(limit)s) p
            JOIN meters_meter m ON m.id = p.meter_id
            LEFT JOIN concentrators_concentrator c ON c.id = p.concentrator_id
            {last_heard.LAST.format(title="m.system_title")}
            ORDER BY p.captured_at, m.id""",
        {**_params(codes, now), "concentrator": concentrator_id, "limit": limit, "heard_after": HEARD_AFTER},
    )
    return [MeterOutage._make([*row[:2], bytes(row[2]), *row[3:]]) for row in rows]


def restored(codes: EventCodes, now: datetime, within: timedelta) -> Restored:
    """Return the outages that ended within a period before now, by the event that said so; one query."""
    rows = select(
        """SELECT count(DISTINCT b.meter_id), avg(b.ended - b.began), max(b.ended - b.began) FROM (
               SELECT e.meter_id, e.captured_at AS ended, (
                   SELECT max(x.captured_at) FROM meters_meterevent x JOIN meters_register g ON g.id = x.register_id
                   WHERE x.meter_id = e.meter_id AND x.captured_at <= e.captured_at AND x.captured_at >= %(since)s
                     AND (g.obis_code, x.value) IN (SELECT * FROM unnest(%(logs)s::text[], %(codes)s::bigint[]))
               ) AS began
               FROM meters_meterevent e JOIN meters_register r ON r.id = e.register_id
               WHERE e.captured_at > %(within)s AND e.captured_at <= %(now)s
                 AND (r.obis_code, e.value) IN (SELECT * FROM unnest(%(end_logs)s::text[], %(end_codes)s::bigint[]))
           ) b WHERE b.began IS NOT NULL""",
        {**_params(codes, now), "within": now - within},
    )
    meters, mean, longest = rows[0]
    return Restored(meters, mean or timedelta(0), longest or timedelta(0))


def _params(codes: EventCodes, now: datetime, since: datetime | None = None) -> dict[str, Any]:
    begins, ends = codes.of_outage(Outage.BEGINS), codes.of_outage(Outage.ENDS)
    return {
        "now": now,
        "since": now - PERIOD if since is None else since,
        "status": MeterStatus.COMMISSIONED.value,
        **_unnested("logs", "codes", begins),
        **_unnested("end_logs", "end_codes", ends),
    }


def _unnested(logs: str, codes: str, keys: Sequence[CodeKey]) -> dict[str, Any]:
    return {logs: [key.log for key in keys], codes: int_array(key.code for key in keys)}
