"""What the console asks about all meters and concentrators."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection

from ami_headend.alerts import silence
from ami_headend.alerts.conditions.traffic import SETTLING
from ami_headend.console.kept import Question
from ami_headend.core.sql import fetch_rows, int_array
from concentrators.totals import completeness, expected
from concentrators.totals.completeness import Hour, Share
from meters.models import MeterStatus

HEARD_PERIOD = timedelta(hours=24)
PROFILE_PERIOD = timedelta(days=7)
DAY = timedelta(hours=24)
ROWS = 8
FEW = 5_000


class SilentMeter(NamedTuple):
    """A commissioned meter and its last accepted frame; ``via`` is the concentrator that brought it."""

    id: int
    serial_number: str
    heard_at: datetime | None
    via: str | None


class MetersHeard(NamedTuple):
    """Commissioned meters: expected, heard in the last 24 hours, never heard, and those silent the longest.

    ``silent_ids`` and ``never_ids`` are all of them that were heard before, and that never were; None where they are
    more than FEW: so many are quickly met on the way through all meters.
    """

    expected: int
    heard: int
    never: int
    silent: list[SilentMeter]
    silent_ids: list[int] | None = None
    never_ids: list[int] | None = None


class Profiles(NamedTuple):
    """Completeness of all load profiles: by hour over seven days, and of each concentrator over one, the least first.

    Both end at ``end``: what is younger may still be on its way.
    """

    end: datetime
    hours: list[Hour]
    shares: list[Share]

    def over(self, period: timedelta) -> tuple[int, int]:
        """How many intervals are there, and how many are expected, in the last of it."""
        last = [hour for hour in self.hours if self.end - period <= hour.start < self.end]
        return sum(hour.counted for hour in last), sum(hour.expected for hour in last)


class ConcentratorRow(NamedTuple):
    """An active concentrator: when it posted last, whether it is silent, and how many of its uplinks wait."""

    id: int
    name: str
    heard_at: datetime | None
    is_silent: bool
    waiting: int


class Concentrators(NamedTuple):
    """Active concentrators: how many, how many of them are silent, and how many new, which never posted and are not
    silent yet; the silent ones first, and those asked for.
    """

    active: int
    silent: int
    new: int
    rows: list[ConcentratorRow]


def concentrators(since: datetime, now: datetime, others: Collection[int], limit: int = ROWS) -> Concentrators:
    """Active concentrators with those that are silent ``since``, the longest first, and ``others`` by id."""
    rows = fetch_rows(
        f"""WITH heard AS MATERIALIZED (
                SELECT c.id, c.name, h.received_at, {silence.IS_SILENT} AS silent
                FROM concentrators_concentrator c {silence.LAST_POSTED}
                WHERE c.is_active
            ), counted AS (
                SELECT count(*) AS active, count(*) FILTER (WHERE silent) AS silent,
                       count(*) FILTER (WHERE NOT silent AND received_at IS NULL) AS new
                FROM heard
            ), shown AS (
                (SELECT * FROM heard WHERE silent ORDER BY received_at NULLS FIRST, id LIMIT %s)
                UNION SELECT * FROM heard WHERE id = ANY(%s::int[])
            )
            SELECT n.active, n.silent, n.new, s.id, s.name, s.received_at, s.silent,
                   (SELECT count(*) FROM concentrators_uplink
                    WHERE concentrator_id = s.id AND verified_at IS NULL)
            FROM counted n LEFT JOIN shown s ON true
            ORDER BY s.silent DESC, s.received_at NULLS FIRST, s.id""",
        *silence.params(since, now),
        limit,
        int_array(others),
    )
    active, silent, new = rows[0][:3]
    return Concentrators(active, silent, new, [ConcentratorRow(*row[3:]) for row in rows if row[3] is not None])


def _meters_heard(now: datetime) -> MetersHeard:
    with connection.cursor() as cursor:
        cursor.execute(
            f"""WITH heard AS MATERIALIZED (
                   SELECT m.id, max(n.heard_at) AS heard_at
                   FROM meters_meter m
                   LEFT JOIN keyvault_devicekey k ON k.system_title = m.system_title AND k.epoch > 0
                   LEFT JOIN keyvault_invocationcounter n ON n.key_id = k.id
                   WHERE m.status = %s AND NOT {expected.TAKEN_DOWN}
                   GROUP BY m.id
               ), counted AS (
                   SELECT count(*) AS expected, count(*) FILTER (WHERE heard_at >= %s) AS heard,
                          count(*) FILTER (WHERE heard_at IS NULL) AS never
                   FROM heard
               ), shown AS (
                   SELECT * FROM heard ORDER BY heard_at NULLS FIRST, id LIMIT %s
               )
               SELECT n.expected, n.heard, n.never,
                      ARRAY(SELECT id FROM heard WHERE heard_at < %s LIMIT %s),
                      ARRAY(SELECT id FROM heard WHERE heard_at IS NULL LIMIT %s),
                      s.id, m.serial_number, s.heard_at,
                      (SELECT c.name FROM keyvault_devicekey k
                       JOIN keyvault_invocationcounter i ON i.key_id = k.id AND i.heard_at = s.heard_at
                       JOIN concentrators_concentrator c ON c.id = i.heard_via
                       WHERE k.system_title = m.system_title AND k.epoch > 0 LIMIT 1)
               FROM counted n LEFT JOIN (shown s JOIN meters_meter m ON m.id = s.id) ON true
               ORDER BY s.heard_at NULLS FIRST, s.id""",
            [MeterStatus.COMMISSIONED, now - HEARD_PERIOD, ROWS, now - HEARD_PERIOD, FEW + 1, FEW + 1],
        )
        rows = cursor.fetchall()
    due, heard, never, *ids = rows[0][:5]
    longest = [SilentMeter(*row[5:]) for row in rows if row[5] is not None]
    return MetersHeard(due, heard, never, longest, *(found if len(found) <= FEW else None for found in ids))


def _profiles(now: datetime) -> Profiles:
    present = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    end = (now - SETTLING).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    start, last = end - PROFILE_PERIOD, present + timedelta(hours=1)
    spans = expected.spans(start, last, now)
    shares = completeness.shares(spans, end - DAY, end)
    return Profiles(end, completeness.hours(spans, start, last), shares)


def _read_meters_heard(kept: Any) -> MetersHeard:
    expected, heard, never, silent, *ids = kept
    return MetersHeard(expected, heard, never, [SilentMeter(*row) for row in silent], *ids)


def _read_profiles(kept: Any) -> Profiles:
    end, hours, shares = kept
    return Profiles(end, [Hour(*row) for row in hours], [Share(*row) for row in shares])


METERS_HEARD = Question("meters heard", _meters_heard, _read_meters_heard)
PROFILES = Question("profiles", _profiles, _read_profiles)
