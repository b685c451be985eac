"""Queries of the console about all meters and concentrators."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ami_headend.alerts.conditions.traffic import SETTLING
from ami_headend.cached_answers import Question
from ami_headend.core.sql import select
from concentrators.fleet import outage_history, outages
from concentrators.totals import completeness, expected
from concentrators.totals.completeness import Hour, IntervalShare
from keyvault.device_keys import last_heard, schemes_in_use
from meters.models import MeterStatus
from meters.registry import site_codes

PROFILE_PERIOD = timedelta(days=7)
DAY = timedelta(hours=24)
ROWS = 8
FEW = 20_000


class SilentMeter(NamedTuple):
    """A commissioned meter and its last accepted frame; ``via`` is the concentrator that posted it."""

    id: int
    serial_number: str
    heard_at: datetime | None
    via: str | None


class MetersHeard(NamedTuple):
    """Commissioned meters: expected, active in the last 24 hours, never active, and those silent the longest.

    ``silent_ids`` and ``never_ids`` list all meters that fell silent or never sent a frame; None if they are more than
    FEW.
    """

    expected: int
    heard: int
    never: int
    silent: list[SilentMeter]
    silent_ids: list[int] | None = None
    never_ids: list[int] | None = None


class Profiles(NamedTuple):
    """Completeness of all load profiles: by hour over seven days, and by concentrator over one, the least first.

    Both end at ``end``: younger intervals may still be on their way.
    """

    end: datetime
    hours: list[Hour]
    shares: list[IntervalShare]

    def over(self, period: timedelta) -> tuple[int, int]:
        """Return how many intervals were received, and how many were expected, in the last ``period``."""
        last = [hour for hour in self.hours if self.end - period <= hour.start < self.end]
        return sum(hour.counted for hour in last), sum(hour.expected for hour in last)


class OutageStanding(NamedTuple):
    """Meters that are out, at how many concentrators and since when; and how many came back within a day."""

    out: int
    concentrators: int
    since: datetime | None
    back: int


def _outages(now: datetime) -> OutageStanding:
    codes = site_codes.events()
    found = outages.by_concentrator(codes, now)
    hubs, back = sum(one.id is not None for one in found), outage_history.restored(codes, now, DAY).meters
    return OutageStanding(sum(one.out for one in found), hubs, min((one.since for one in found), default=None), back)


def _meters_heard(now: datetime) -> MetersHeard:
    rows = select(
        f"""WITH heard AS MATERIALIZED (
               SELECT m.id, m.serial_number, m.system_title, a.heard_at
               FROM meters_meter m LEFT JOIN {last_heard.OF_ALL} a USING (system_title)
               WHERE m.status = %s AND NOT {expected.TAKEN_DOWN}
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
                  s.id, s.serial_number, s.heard_at, c.name
           FROM counted n LEFT JOIN shown s ON true {last_heard.LAST.format(title="s.system_title")}
           LEFT JOIN concentrators_concentrator c ON c.id = h.heard_via
           ORDER BY s.heard_at NULLS FIRST, s.id""",
        [MeterStatus.COMMISSIONED, now - last_heard.PERIOD, ROWS, now - last_heard.PERIOD, FEW + 1, FEW + 1],
    )
    due, lately, never, *ids = rows[0][:5]
    longest = [SilentMeter(*row[5:]) for row in rows if row[5] is not None]
    return MetersHeard(due, lately, never, longest, *(found if len(found) <= FEW else None for found in ids))


def _profiles(now: datetime) -> Profiles:
    present = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    end = (now - SETTLING).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    start, last = end - PROFILE_PERIOD, present + timedelta(hours=1)
    spans = expected.spans(start, last, now)
    shares = completeness.shares(spans, end - DAY, end)
    return Profiles(end, completeness.hours(spans, start, last), shares)


METERS_HEARD = Question("meters heard", _meters_heard, MetersHeard)
OUTAGES = Question("outages", _outages, OutageStanding)
PROFILES = Question("profiles", _profiles, Profiles)
SCHEMES_IN_USE = Question("schemes in use", lambda now: schemes_in_use.counts(), dict[str, int])
