"""Outages of a period: by concentrator, where those of its meters that touch are one; or meter by meter."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ami_headend.core import clock
from ami_headend.core.sql import select
from concentrators.fleet.outages import PERIOD, PLACED, given, spells
from concentrators.models import ConcentratorInGroup
from meters.codes.event_codes import EventCodes
from meters.readings.queries import fetch
from meters.registry import site_codes

TOUCHING = timedelta(minutes=15)  # outages of a concentrator that begin so soon after another one's end are one outage

_MATCHING = "(p.ended_at IS NULL OR p.ended_at > %(start)s)"
_AT = " AND p.concentrator_id = ANY(%(concentrators)s::int[])"


@dataclass(frozen=True)
class OutageSelection:
    """Outages that lasted at any time in [start, end); None is all. ``after``: the key of the last page's last row.

    ``group_ids``: of meters that are in any of these groups now; ``shown_groups``: the groups whose names are told.
    """

    start: datetime
    end: datetime
    concentrator_ids: Sequence[int] | None = None
    group_ids: Sequence[int] | None = None
    after: tuple[Any, ...] | None = None
    shown_groups: Collection[int] | None = None


class OutageKey(NamedTuple):
    """The place of an outage in the order, the newest first: ``id`` of the concentrator (0: none), or of the event."""

    since: datetime
    id: int


class PastOutage(NamedTuple):
    """An outage at a concentrator (an empty name: of meters without one), and how many of its meters were out.

    ``until`` is when the last of them was back, as far as they said; ``still_out`` said nothing since. ``mean_s`` is
    how long those that are back were out, in seconds. ``groups`` are those of the concentrator, with | between them.
    """

    since: datetime
    until: datetime | None
    meters: int
    still_out: int
    mean_s: int | None
    concentrator: str
    groups: str


class MeterSpell(NamedTuple):
    """One outage of one meter. ``is_told``: the meter said that its power is back; else it said anything at all."""

    since: datetime
    until: datetime | None
    is_told: bool | None
    serial_number: str
    system_title: str
    concentrator: str


class Restored(NamedTuple):
    """Meters whose outages ended within a period: how many, and the mean and the longest time."""

    meters: int
    mean: timedelta
    longest: timedelta


def past_outages(selection: OutageSelection, limit: int) -> tuple[list[PastOutage], OutageKey | None]:
    """Return the first outages of a selection by concentrator, the newest first, and the key of the next page.

    Three queries. SelectionError where the period is too long.
    """
    chosen, values = _chosen(selection, site_codes.events())
    after = ""
    if selection.after is not None:
        after = "WHERE (since, coalesce(n.concentrator_id, 0)) < (%(since_key)s::timestamptz, %(id_key)s::bigint)"
        values |= dict(zip(("since_key", "id_key"), selection.after, strict=True))
    rows = fetch(
        f"""WITH {chosen}, marked AS (
                SELECT p.*, max(coalesce(p.ended_at, p.began_at)) OVER (
                    PARTITION BY p.concentrator_id ORDER BY p.began_at, p.id
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS others_until
                FROM matching p
            ), numbered AS (
                SELECT m.*, count(*) FILTER (WHERE m.others_until IS NULL
                                             OR m.others_until + %(touching)s::interval < m.began_at)
                    OVER (PARTITION BY m.concentrator_id ORDER BY m.began_at, m.id) AS number
                FROM marked m
            ), outage AS (
                SELECT concentrator_id, min(began_at) AS since, max(ended_at) AS until,
                       count(DISTINCT meter_id) AS meters,
                       count(DISTINCT meter_id) FILTER (WHERE ended_at IS NULL) AS still_out,
                       extract(epoch FROM avg(ended_at - began_at))::bigint AS mean_s
                FROM numbered GROUP BY concentrator_id, number
            )
            SELECT n.since, n.until, n.meters, n.still_out, n.mean_s, coalesce(c.name, ''), coalesce(c.id, 0)
            FROM outage n LEFT JOIN concentrators_concentrator c ON c.id = n.concentrator_id
            {after} ORDER BY n.since DESC, coalesce(n.concentrator_id, 0) DESC LIMIT %(limit)s""",
        {**values, "touching": TOUCHING, "limit": limit},
    )
    names = _groups_of({row[-1] for row in rows}, selection.shown_groups)
    found = [PastOutage._make((*row[:-1], names.get(row[-1], ""))) for row in rows]
    return found, OutageKey(rows[-1][0], rows[-1][-1]) if len(rows) == limit else None


def meter_outages(selection: OutageSelection, limit: int) -> tuple[list[MeterSpell], OutageKey | None]:
    """Return the first outages of a selection meter by meter, the newest first, and the key of the next page.

    Two queries. SelectionError where the period is too long.
    """
    chosen, values = _chosen(selection, site_codes.events())
    after = ""
    if selection.after is not None:
        after = "WHERE (p.began_at, p.id) < (%(since_key)s::timestamptz, %(id_key)s::bigint)"
        values |= dict(zip(("since_key", "id_key"), selection.after, strict=True))
    rows = fetch(
        f"""WITH {chosen}
            SELECT p.began_at, p.ended_at, p.is_told, m.serial_number, encode(m.system_title, 'hex'),
                   coalesce(c.name, ''), p.id
            FROM (SELECT * FROM matching p {after} ORDER BY p.began_at DESC, p.id DESC LIMIT %(limit)s) p
            JOIN meters_meter m ON m.id = p.meter_id
            LEFT JOIN concentrators_concentrator c ON c.id = p.concentrator_id
            ORDER BY p.began_at DESC, p.id DESC""",
        {**values, "limit": limit},
    )
    found = [MeterSpell._make(row[:-1]) for row in rows]
    return found, OutageKey(rows[-1][0], rows[-1][-1]) if len(rows) == limit else None


def count(selection: OutageSelection, most: int) -> int:
    """Count the outages of single meters, up to ``most``; two queries. SelectionError where the period is too long."""
    chosen, values = _chosen(selection, site_codes.events())
    statement = f"WITH {chosen} SELECT count(*) FROM (SELECT FROM matching LIMIT %(most)s) AS found"
    return int(fetch(statement, {**values, "most": most})[0][0])


def restored(codes: EventCodes, now: datetime, within: timedelta, group_ids: Sequence[int] | None = None) -> Restored:
    """Return the outages that ended within a period before now, of groups or all; one query."""
    chosen, values = _chosen(OutageSelection(now - within, now + timedelta(seconds=1), None, group_ids), codes)
    statement = f"""WITH {chosen} SELECT count(DISTINCT p.meter_id), avg(p.ended_at - p.began_at),
                    max(p.ended_at - p.began_at) FROM matching p WHERE p.ended_at IS NOT NULL"""
    meters, mean, longest = select(statement, values)[0]
    return Restored(meters, mean or timedelta(0), longest or timedelta(0))


def _chosen(selection: OutageSelection, codes: EventCodes) -> tuple[str, dict[str, Any]]:
    """Return the SQL of the outages of a selection (``matching``), and its values."""
    since = max(selection.start, clock.EARLIEST) - PERIOD  # of those that had begun before
    values = given(codes, since, selection.end, selection.group_ids)
    at = "" if selection.concentrator_ids is None else _AT
    statement = f"""{spells(selection.group_ids)}, {PLACED.format(outages="spell")}, matching AS (
        SELECT p.* FROM placed p WHERE {_MATCHING}{at}
          AND NOT EXISTS (SELECT FROM meters_meter m WHERE m.id = p.meter_id AND m.is_laboratory))"""
    if selection.concentrator_ids is not None:
        values["concentrators"] = list(selection.concentrator_ids)
    return statement, {**values, "start": selection.start, "now": selection.end}


def _groups_of(concentrator_ids: set[int], shown: Collection[int] | None) -> dict[int, str]:
    """Return the names of the groups of concentrators, all or some, with | between them. One query."""
    rows = ConcentratorInGroup.objects.filter(concentrator__in=concentrator_ids - {0}).select_related("group")
    if shown is not None:
        rows = rows.filter(group__in=shown)
    names: dict[int, list[str]] = {}
    for row in rows.order_by("group__kind", "group__name"):
        names.setdefault(row.concentrator_id, []).append(str(row.group))
    return {key: "|".join(found) for key, found in names.items()}
