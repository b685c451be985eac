"""Queries of the console about frames: verdicts by hour, the queue, failures."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ami_headend.cached_answers import Question
from ami_headend.core.sql import select
from concentrators.failures.kinds import FailureKind
from concentrators.failures.queries import open_by_severity

HOURS = 24
_LATEST = 200


class VerdictHour(NamedTuple):
    """Frames by verdict, for one hour of verification."""

    start: datetime
    accepted: int
    duplicate: int
    rejected: int

    @property
    def verified(self) -> int:
        return self.accepted + self.duplicate + self.rejected


class SeverityCount(NamedTuple):
    """The number of stored failures of a severity (a value of Severity) that nobody has acknowledged."""

    severity: int
    open: int


class KindCount(NamedTuple):
    """The number of failed frames of a kind (a value of FailureKind)."""

    kind: str
    failures: int


def lag_s() -> float | None:
    """Return the median of the seconds that the latest uplinks waited for their verdicts; None if there are none."""
    row = select(
        """SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY waited)
           FROM (SELECT extract(epoch FROM verified_at - received_at)::float8 AS waited
                 FROM concentrators_uplink ORDER BY id DESC LIMIT %s) AS latest
           WHERE waited IS NOT NULL""",
        [_LATEST],
    )[0]
    median_s: float | None = row[0]
    return median_s


def _failures_by_kind(now: datetime) -> list[KindCount]:
    """Return failures by kind since this hour yesterday, most first. Tallies also count failures without a
    stored row.
    """
    rows = select(
        # One short range of the primary key per concentrator and kind, even if there are many old tallies.
        """SELECT k.kind, sum(t.failures)::bigint
           FROM concentrators_concentrator c CROSS JOIN unnest(%s::text[]) AS k(kind)
           JOIN concentrators_failuretally t ON t.concentrator_id = c.id AND t.kind = k.kind AND t.hour >= %s
           GROUP BY k.kind ORDER BY 2 DESC, 1""",
        [[kind.value for kind in FailureKind], a_day_before(now)],
    )
    return [KindCount(*row) for row in rows]


def a_day_before(now: datetime) -> datetime:
    """Return the start of this hour yesterday."""
    return (now - timedelta(hours=HOURS)).replace(minute=0, second=0, microsecond=0)


def _verdicts_by_hour(now: datetime) -> list[VerdictHour]:
    """Return the last hours, the present one last. Counts uplinks received in them and in the hour before."""
    last = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    first = last - timedelta(hours=HOURS - 1)
    rows = select(
        """SELECT date_trunc('hour', verified_at, 'UTC'), sum(accepted), sum(duplicate), sum(rejected)
           FROM concentrators_uplink
           WHERE received_at >= %s AND body IS NOT NULL AND verified_at >= %s GROUP BY 1""",
        [first - timedelta(hours=1), first],
    )
    found = {row[0]: VerdictHour(*row) for row in rows}
    starts = (first + timedelta(hours=n) for n in range(HOURS))
    return [found.get(start) or VerdictHour(start, 0, 0, 0) for start in starts]


def _open_failures(now: datetime) -> list[SeverityCount]:
    return [SeverityCount(severity.value, count) for severity, count in open_by_severity().items()]


VERDICTS = Question("verdicts by hour", _verdicts_by_hour, list[VerdictHour])
FAILURES_BY_KIND = Question("failures by kind", _failures_by_kind, list[KindCount])
OPEN_FAILURES = Question("open failures", _open_failures, list[SeverityCount])
