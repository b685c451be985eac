"""What the head-end is doing right now: a few statements, each bounded by an index and a period or a number of rows."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple, TypeVar

from django.core.cache import cache
from django.db import connection

from concentrators.models import IntegrityFailure, Uplink
from concentrators.verdicts import FailureKind
from meters.models import MeterStatus

_T = TypeVar("_T")
_RESTS = 20  # a costly statement rests this many times as long as it took


class Minute(NamedTuple):
    """Frames whose verdicts fell in one minute."""

    start: datetime
    accepted: int
    duplicate: int
    rejected: int


class KindCount(NamedTuple):
    """How many frames failed in a kind."""

    kind: FailureKind
    failures: int


class ConcentratorRow(NamedTuple):
    """A concentrator, when it posted last, and what it posted in the period."""

    id: int
    name: str
    is_active: bool
    heard_at: datetime | None
    uplinks: int
    frames: int
    rejected: int


class SilentMeter(NamedTuple):
    """A commissioned meter and its last accepted frame; ``via`` is the concentrator that brought it."""

    id: int
    serial_number: str
    heard_at: datetime | None
    via: str | None


class MetersHeard(NamedTuple):
    """Commissioned meters: expected, heard in the period, never heard, and those silent the longest."""

    expected: int
    heard: int
    never: int
    silent: list[SilentMeter]


def frames_by_minute(now: datetime, minutes: int) -> list[Minute]:
    """Verdicts of each of the last minutes, the present one last; minutes without frames are zeros.

    Counts uplinks that were received in twice that period: what waited longer before it was verified is left out.
    """
    last = now.replace(second=0, microsecond=0)
    first = last - timedelta(minutes=minutes - 1)
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT date_trunc('minute', verified_at, 'UTC'), sum(accepted), sum(duplicate), sum(rejected)
               FROM concentrators_uplink
               WHERE received_at >= %s AND body IS NOT NULL AND verified_at >= %s GROUP BY 1""",
            [first - timedelta(minutes=minutes), first],
        )
        found = {row[0]: Minute(*row) for row in cursor.fetchall()}
    starts = (first + timedelta(minutes=n) for n in range(minutes))
    return [found.get(start) or Minute(start, 0, 0, 0) for start in starts]


def failures_by_kind(since: datetime) -> list[KindCount]:
    """Failures by kind since the hour of ``since``, most first; from the tallies, so capped rows count too."""
    with connection.cursor() as cursor:
        cursor.execute(
            # One short range of the primary key per concentrator and kind, however long tallies are kept.
            """SELECT k.kind, sum(t.failures)::bigint
               FROM concentrators_concentrator c CROSS JOIN unnest(%s::text[]) AS k(kind)
               JOIN concentrators_failuretally t ON t.concentrator_id = c.id AND t.kind = k.kind AND t.hour >= %s
               GROUP BY k.kind ORDER BY 2 DESC, 1""",
            [[kind.value for kind in FailureKind], since.replace(minute=0, second=0, microsecond=0)],
        )
        return [KindCount(FailureKind(kind), failures) for kind, failures in cursor.fetchall()]


def concentrators(now: datetime, period: timedelta, limit: int) -> tuple[int, int, list[ConcentratorRow]]:
    """How many concentrators are active, how many of them posted in the period, and those heard last."""
    with connection.cursor() as cursor:
        cursor.execute(
            """WITH heard AS MATERIALIZED (
                   SELECT c.id, c.name, c.is_active, u.received_at
                   FROM concentrators_concentrator c
                   LEFT JOIN LATERAL (SELECT received_at FROM concentrators_uplink WHERE concentrator_id = c.id
                                      ORDER BY received_at DESC LIMIT 1) u ON true
               ), shown AS (
                   SELECT *, count(*) FILTER (WHERE is_active) OVER () AS active,
                          count(*) FILTER (WHERE is_active AND received_at >= %(since)s) OVER () AS posting
                   FROM heard ORDER BY received_at DESC NULLS LAST, name LIMIT %(limit)s
               )
               SELECT s.active, s.posting, s.id, s.name, s.is_active, s.received_at,
                      t.uplinks, t.frames, t.rejected
               FROM shown s
               CROSS JOIN LATERAL (
                   SELECT count(*) AS uplinks, coalesce(sum(frames), 0) AS frames,
                          coalesce(sum(rejected), 0) AS rejected
                   FROM concentrators_uplink WHERE concentrator_id = s.id AND received_at >= %(since)s) t
               ORDER BY s.received_at DESC NULLS LAST, s.name""",
            {"since": now - period, "limit": limit},
        )
        rows = cursor.fetchall()
    active, posting = rows[0][:2] if rows else (0, 0)
    return active, posting, [ConcentratorRow(*row[2:]) for row in rows]


def meters_heard(now: datetime, period: timedelta, limit: int) -> MetersHeard:
    """How many commissioned meters were heard; only accepted frames count.

    Looks at every meter: with many of them the answer is kept for a while, in proportion to its cost.
    """
    return rested(f"meters_heard:{period.total_seconds()}:{limit}", lambda: _meters_heard(now - period, limit))


def latest_failures(limit: int) -> list[IntegrityFailure]:
    """The latest integrity failures, without their octets."""
    rows = IntegrityFailure.objects.select_related("concentrator", "meter").defer("frame")
    return list(rows.order_by("-received_at", "-id")[:limit])


def latest_uplinks(limit: int) -> list[Uplink]:
    """The latest uplinks, without their octets."""
    return list(Uplink.objects.select_related("concentrator").defer("body").order_by("-id")[:limit])


def _meters_heard(since: datetime, limit: int) -> MetersHeard:
    with connection.cursor() as cursor:
        cursor.execute(
            """WITH heard AS (
                   SELECT m.id, m.serial_number, max(n.heard_at) AS heard_at,
                          (array_agg(n.heard_via ORDER BY n.heard_at DESC NULLS LAST))[1] AS via
                   FROM meters_meter m
                   LEFT JOIN keyvault_devicekey k ON k.system_title = m.system_title AND k.epoch > 0
                   LEFT JOIN keyvault_invocationcounter n ON n.key_id = k.id
                   WHERE m.status = %s
                   GROUP BY m.id
               ), shown AS (
                   SELECT *, count(*) OVER () AS expected,
                          count(*) FILTER (WHERE heard_at >= %s) OVER () AS heard,
                          count(*) FILTER (WHERE heard_at IS NULL) OVER () AS never
                   FROM heard ORDER BY heard_at NULLS FIRST, id LIMIT %s
               )
               SELECT s.expected, s.heard, s.never, s.id, s.serial_number, s.heard_at, c.name
               FROM shown s LEFT JOIN concentrators_concentrator c ON c.id = s.via
               ORDER BY s.heard_at NULLS FIRST, s.id""",
            [MeterStatus.COMMISSIONED, since, limit],
        )
        rows = cursor.fetchall()
    expected, heard, never = rows[0][:3] if rows else (0, 0, 0)
    return MetersHeard(expected, heard, never, [SilentMeter(*row[3:]) for row in rows])


def rested(name: str, ask: Callable[[], _T]) -> _T:
    """The answer to a costly question, asked again only after _RESTS times as long as it took."""
    key = f"console:{name}"
    kept: _T | None = cache.get(key)
    if kept is not None:
        return kept
    started = time.monotonic()
    answer = ask()
    cache.set(key, answer, _RESTS * (time.monotonic() - started))
    return answer
