"""Completeness of load profiles: meters counted in interval totals, as a share of expected meters.

A masked value counts as received, but its energy is not known here (``masked_sets.py``).
That of one meter is counted from its gaps (``meters/readings/gaps.py``).

Neither number is computed from readings: totals have the meters counted, and ``expected.py`` those expected. For
an interval that an exchange cuts, more may be counted than expected. The register is that of the load profile.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ami_headend.core.sql import select
from concentrators.totals import expected as expectations
from concentrators.totals.expected import ExpectedSpan
from meters.archive.reading import is_young
from meters.readings.obis import LOAD_PROFILE
from meters.readings.partitions import stored_from

_HOUR = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Hour(NamedTuple):
    """Intervals that began in one hour: received, expected, and their energy."""

    start: datetime
    counted: int
    expected: int
    energy_wh: float


class IncompleteMeter(NamedTuple):
    """A meter with its expected and missing intervals in a period."""

    id: int
    serial_number: str
    expected: int
    missing: int


class IntervalShare(NamedTuple):
    """A concentrator's received and expected intervals, and the start of its newest interval."""

    concentrator_id: int
    counted: int
    expected: int
    newest: datetime | None


def hours(spans: Iterable[ExpectedSpan], start: datetime, end: datetime, *concentrator_ids: int) -> list[Hour]:
    """Return completeness and energy of each whole hour from ``start`` on, of all concentrators or of these; one query.

    If the viewer's hours begin at half past, so do these: an interval belongs to the hour in which it begins.
    """
    rows = select(
        """SELECT date_bin('1 hour', t.interval_start, %(start)s), t.interval_minutes,
                  sum(t.meters_counted + t.meters_masked), sum(t.value_sum * power(10::numeric, g.scaler))
           FROM concentrators_intervaltotal t JOIN meters_register g ON g.id = t.register_id
           WHERE t.interval_start >= %(start)s AND t.interval_start < %(end)s AND g.obis_code = %(profile)s
             AND (%(mine)s::int[] = '{}' OR t.concentrator_id = ANY(%(mine)s::int[]))
           GROUP BY 1, 2""",
        {"start": start, "end": end, "mine": list(concentrator_ids), "profile": LOAD_PROFILE},
    )
    counted: dict[datetime, int] = defaultdict(int)
    energy_wh: dict[datetime, float] = defaultdict(float)
    for hour, minutes, meters, energy in rows:
        counted[hour] += meters
        lasting = max(1, minutes // 60)  # an interval of more than an hour is spread over its hours
        for n in range(lasting):
            energy_wh[hour + n * _HOUR] += float(energy) / lasting
    expected = _expected_by_hour(spans, start, end)
    starts = (start + n * _HOUR for n in range((end - start) // _HOUR))
    return [Hour(at, counted[at], expected[at], energy_wh[at]) for at in starts]


def shares(spans: Iterable[ExpectedSpan], start: datetime, end: datetime) -> list[IntervalShare]:
    """Return the completeness of each concentrator over [start, end), the least complete first; one query.

    ``newest`` may be after ``end``, but not before ``start``.
    """
    expected: dict[int, int] = defaultdict(int)
    for span in spans:
        expected[span.concentrator_id] += span.intervals(start, end)
    rows = select(
        """SELECT t.concentrator_id,
                  coalesce(sum(t.meters_counted + t.meters_masked) FILTER (WHERE t.interval_start < %s), 0),
                  max(t.interval_start)
           FROM concentrators_intervaltotal t JOIN meters_register g ON g.id = t.register_id
           WHERE t.interval_start >= %s AND g.obis_code = %s
           GROUP BY t.concentrator_id""",
        [end, start, LOAD_PROFILE],
    )
    standing = {row[0]: row[1:] for row in rows}
    found = []
    for concentrator_id, intervals in expected.items():
        counted, newest = standing.get(concentrator_id, (0, None))
        found.append(IntervalShare(concentrator_id, counted, intervals, newest))
    found = [share for share in found if share.expected]
    return sorted(found, key=lambda share: (share.counted / share.expected, -share.expected, share.concentrator_id))


def incomplete_meters(concentrator_id: int, start: datetime, end: datetime, limit: int) -> list[IncompleteMeter]:
    """Return the meters of a concentrator that lack intervals in [start, end), those that lack most first.

    Every expected interval is looked up by the readings' key: one day of a thousand meters costs some 50,000 look-ups.
    None for archived time, which would cost as many looks into files.
    """
    if not is_young(start) and start < (stored_from() or start):
        return []
    rows = select(
        f"""{expectations.SPANS}, due AS (
                SELECT meter_id, at FROM span, generate_series(first, last - interval '1 us', step) AS at
            )
            SELECT m.id, m.serial_number, count(*), count(*) FILTER (WHERE there IS NULL) AS missing
            FROM due JOIN meters_meter m ON m.id = due.meter_id
            LEFT JOIN LATERAL (
                SELECT true AS there
                WHERE EXISTS (SELECT 1 FROM meters_reading r
                    WHERE r.captured_at = due.at AND r.meter_id = due.meter_id
                      AND r.register_id = (SELECT id FROM meters_register WHERE obis_code = %(profile)s))
                OR EXISTS (SELECT 1 FROM meters_maskedreading r
                    WHERE r.captured_at = due.at AND r.meter_id = due.meter_id
                      AND r.register_id = (SELECT id FROM meters_register WHERE obis_code = %(profile)s))
            ) AS reading ON true
            GROUP BY m.id HAVING count(*) FILTER (WHERE there IS NULL) > 0
            ORDER BY missing DESC, m.serial_number LIMIT %(limit)s""",
        {
            **expectations.parameters(start, end, None, [concentrator_id]),
            "profile": LOAD_PROFILE,
            "limit": limit,
        },
    )
    return [IncompleteMeter(*row) for row in rows]


def _expected_by_hour(spans: Iterable[ExpectedSpan], start: datetime, end: datetime) -> dict[datetime, int]:
    """Count the intervals expected to begin in each hour."""
    changes: dict[int, dict[datetime, int]] = defaultdict(lambda: defaultdict(int))
    for span in spans:
        changes[span.interval_minutes][span.first] += span.meters
        changes[span.interval_minutes][span.last] -= span.meters
    expected: dict[datetime, int] = defaultdict(int)
    for minutes, steps in changes.items():
        coming = sorted(steps.items(), reverse=True)
        meters = 0
        for at in _interval_starts(start, end, timedelta(minutes=minutes)):
            while coming and coming[-1][0] <= at:
                meters += coming.pop()[1]
            expected[start + (at - start) // _HOUR * _HOUR] += meters
    return expected


def _interval_starts(start: datetime, end: datetime, step: timedelta) -> Iterator[datetime]:
    at = _EPOCH - (_EPOCH - start) // step * step
    while at < end:
        yield at
        at += step
