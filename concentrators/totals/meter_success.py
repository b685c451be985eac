"""Read success of one meter: of its intervals of days that were counted, how many had arrived by the deadline.

Not kept, but counted when somebody looks: days of one meter are a few thousand readings.
"""

from collections.abc import Sequence
from datetime import datetime

from ami_headend.core.sql import select
from concentrators.models import ReadDay
from concentrators.totals.read_success import Success, success
from meters.models import Meter
from meters.readings.gaps import expected_periods
from meters.readings.obis import LOAD_PROFILE

# Per day: intervals of the meter that arrived, and those of them whose uplink was received after the deadline.
_ARRIVED = """
    SELECT d.id, count(*), count(*) FILTER (WHERE coalesce(u.corrected_at, u.received_at) > d.due)
    FROM unnest(%(ids)s::int[], %(starts)s::timestamptz[], %(ends)s::timestamptz[], %(due)s::timestamptz[])
         AS d(id, start, "end", due)
    CROSS JOIN LATERAL (
        SELECT r.uplink_id FROM meters_reading r
        WHERE r.meter_id = %(meter)s AND r.captured_at >= d.start AND r.captured_at < d."end" AND r.interval_minutes > 0
          AND r.register_id = (SELECT id FROM meters_register WHERE obis_code = %(profile)s)
        UNION ALL
        SELECT r.uplink_id FROM meters_maskedreading r
        WHERE r.meter_id = %(meter)s AND r.captured_at >= d.start AND r.captured_at < d."end" AND r.interval_minutes > 0
          AND r.register_id = (SELECT id FROM meters_register WHERE obis_code = %(profile)s)
    ) AS arrived
    LEFT JOIN concentrators_uplink u ON u.id = arrived.uplink_id
    GROUP BY d.id"""


def of_meter(meter: Meter, days: Sequence[ReadDay], now: datetime) -> dict[int, Success]:
    """Return the intervals of a meter on days of a deadline, by their ids, whichever concentrator it had. 3 queries.

    Days that another system counted are left out.
    """
    days = [day for day in days if day.basis is not None]
    if not days:
        return {}
    periods = expected_periods([meter], days[0].start, days[-1].end, now)
    asked = {
        "ids": [day.pk for day in days],
        "starts": [day.start for day in days],
        "ends": [day.end for day in days],
        "due": [day.due_at for day in days],
        "meter": meter.pk,
        "profile": LOAD_PROFILE,
    }
    arrived = {row[0]: (row[1], row[2]) for row in select(_ARRIVED, asked)}
    found = {}
    for day in days:
        due = sum(max(0, period.part(day.start, day.end).intervals) for period in periods)
        found[day.pk] = success(due, *arrived.get(day.pk, (0, 0)))
    return found
