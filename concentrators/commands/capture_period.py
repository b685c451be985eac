"""Changes of the capture period (interval length) of meters: the command, the entry in the registry, the totals.

A command tells a meter in advance from which instant on it measures in another length. The registry takes over the new
length when the meter has confirmed it, or when one of its intervals shows it. Intervals that the meter sent from that
instant on, before the registry knew, then get the new length, too.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Max

from concentrators.commands import queue
from concentrators.commands.queue import UNDER_WAY, CommandRequest
from concentrators.feed import lots
from concentrators.models import Command, CommandKind, CommandState
from concentrators.totals import totals
from meters.models import EarlierLength, Meter
from meters.registry.interval_lengths import LONGEST_MINUTES, common_boundary

logger = logging.getLogger(__name__)

LEAD = timedelta(hours=1)  # a meter is told at least this long before, unless somebody wants it sooner
_BATCH = 1_000
_SHOWN_WITHIN_DAYS = 2  # the first intervals show the new length, or none does
_LATE_ANSWER = timedelta(days=35)  # a meter may still answer, or obey, an expired command


class IntervalError(ValueError):
    """An impossible change of an interval length: the caller's mistake, named in the message."""


class LengthChange(NamedTuple):
    """A meter (by id) measures in another length from ``valid_from`` on."""

    meter_id: int
    interval_minutes: int
    valid_from: datetime


def enqueue(
    meters: Sequence[Meter], interval_minutes: int, start: datetime | None, created_by: str, now: datetime
) -> list[Command]:
    """Tell meters to measure in another length from ``start`` on: a time at which intervals of both lengths begin.

    Without ``start`` it is the first such time after an hour. DownlinkError or IntervalError: then no meter is told. A
    fixed number of queries.
    """
    told = set(
        Command.objects.filter(meter__in=meters, kind=CommandKind.SET_INTERVAL, state__in=UNDER_WAY).values_list(
            "meter_id", flat=True
        )
    )
    ends = _last_ends([meter.pk for meter in meters])
    requests = []
    for meter in meters:
        if meter.pk in told:
            raise IntervalError(
                f"meter {meter} is being told another length already: cancel that command, or wait for it"
            )
        if meter.interval_minutes == interval_minutes:
            raise IntervalError(f"meter {meter} measures in {interval_minutes} min already")
        at = start or _next(meter, interval_minutes, now + LEAD)
        _check(meter, LengthChange(meter.pk, interval_minutes, at), ends.get(meter.pk))
        if at <= now:
            raise IntervalError(f"a meter changes its length at a time to come: {at} is not")
        parameters = {"interval_minutes": interval_minutes, "from_s": int(at.timestamp())}
        requests.append(CommandRequest(meter, CommandKind.SET_INTERVAL, parameters))
    return queue.enqueue(requests, created_by, now)


def change(changes: Sequence[LengthChange], now: datetime) -> None:
    """Enter new interval lengths of meters in the registry, and move later readings and totals to them.

    IntervalError: then nothing was changed. A fixed number of queries. Takes the lock of totals, on which verification
    waits, before it locks any row.
    """
    with transaction.atomic():
        totals.lock()
        meters = {
            row.pk: row
            for row in Meter.objects.select_for_update().filter(pk__in=[c.meter_id for c in changes]).order_by("pk")
        }
        ends = _last_ends(list(meters))
        earlier = []
        for one in changes:
            meter, end = meters[one.meter_id], ends.get(one.meter_id)
            _check(meter, one, end)
            if one.valid_from > meter.commissioned_at and one.valid_from != end:
                row = EarlierLength(
                    meter=meter, interval_minutes=meter.interval_minutes, valid_from=end, valid_to=one.valid_from
                )
                earlier.append(row)
            meter.interval_minutes = one.interval_minutes
        # Nothing is stored of future times, except from clocks that are ahead.
        begun = [one for one in changes if one.valid_from <= now + timedelta(seconds=settings.CLOCK_SKEW_S)]
        start = min((one.valid_from for one in begun), default=now)
        ids = [one.meter_id for one in begun]
        if begun:
            totals.shift(ids, start, -1)
            _relabel(begun, start)
        EarlierLength.objects.bulk_create(earlier)
        Meter.objects.bulk_update(meters.values(), ["interval_minutes"])
        if begun:
            totals.shift(ids, start, +1)


def change_from_next_boundary(lengths: Sequence[tuple[Meter, int]], now: datetime) -> None:
    """Enter lengths that somebody set at meters by hand, from the next common boundary of both lengths."""
    change([LengthChange(meter.pk, minutes, _next(meter, minutes, now)) for meter, minutes in lengths], now)


def change_by_hand(meter: Meter, interval_minutes: int, start: datetime | None, now: datetime) -> datetime:
    """Enter a length that somebody set at a meter by hand, by default from the next common boundary."""
    if interval_minutes == meter.interval_minutes:
        raise IntervalError(f"meter {meter} measures in {interval_minutes} min already")
    at = start or _next(meter, interval_minutes, now)
    change([LengthChange(meter.pk, interval_minutes, at)], now)
    return at


def enter_confirmed(now: datetime) -> int:
    """Enter the interval lengths that meters have confirmed, or already use; return how many."""
    entered = 0
    while True:
        with transaction.atomic():
            ids = _confirmed(now)
            if not ids:
                return entered
            totals.lock()
            rows = list(
                Command.objects.select_for_update(of=("self",))
                .filter(pk__in=ids, entered_at=None)
                .select_related("meter")
                .order_by("pk")
            )
            _enter(rows, now)
            shown = [row.pk for row in rows if row.state != CommandState.DONE]
            Command.objects.filter(pk__in=shown).update(state=CommandState.DONE, ended_at=now)
            Command.objects.filter(pk__in=ids).update(entered_at=now)
            entered += len(rows)


def _enter(rows: Sequence[Command], now: datetime) -> None:
    ends = _last_ends([row.meter_id for row in rows])
    changes = []
    for row in rows:
        at = datetime.fromtimestamp(row.parameters["from_s"], UTC)
        one = LengthChange(row.meter_id, row.parameters["interval_minutes"], at)
        try:
            _check(row.meter, one, ends.get(row.meter_id))
        except IntervalError as error:  # the registry was changed by hand meanwhile: that has priority
            logger.warning("command %s was done, and is not entered: %s", row.pk, error)
        else:
            changes.append(one)
    change(changes, now)


def _confirmed(now: datetime) -> list[int]:
    """Return, for each meter, the oldest set-interval command that it confirmed, or whose length it has used since."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT min(c.id) FROM (
                   SELECT *, to_timestamp((parameters->>'from_s')::bigint) AS start FROM concentrators_command
                   WHERE kind = 5 AND entered_at IS NULL AND state NOT IN ('refused', 'cancelled')
                     AND expires_at > %(oldest)s
               ) c
               WHERE c.state = 'done' OR c.start <= %(now)s AND c.state NOT IN ('held', 'queued') AND EXISTS (
                   SELECT 1 FROM meters_reading r
                   WHERE r.captured_at >= c.start AND r.captured_at < c.start + make_interval(days => %(within)s)
                     AND r.meter_id = c.meter_id
                     AND r.interval_minutes = (c.parameters->>'interval_minutes')::int)
               GROUP BY c.meter_id ORDER BY 1 LIMIT %(batch)s""",
            {"now": now, "oldest": now - _LATE_ANSWER, "within": _SHOWN_WITHIN_DAYS, "batch": _BATCH},
        )
        return [row[0] for row in cursor.fetchall()]


def _relabel(changes: Sequence[LengthChange], start: datetime) -> None:
    """Give the new length to intervals of the old one that start where an interval of the new length starts."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"""UPDATE meters_reading r SET interval_minutes = n.minutes
                FROM meters_reading o, unnest(%(meters)s::int[], %(minutes)s::int[], %(starts)s::timestamptz[])
                     AS n(meter_id, minutes, start)
                WHERE r.meter_id = n.meter_id AND r.captured_at >= %(start)s AND r.captured_at >= n.start
                  AND r.interval_minutes > 0 AND r.interval_minutes <> n.minutes
                  AND extract(epoch FROM r.captured_at)::bigint %% (n.minutes * 60) = 0 AND {lots.SAME_ROW}
                {lots.RETURNING_RELABELLED}""",
            {
                "meters": [one.meter_id for one in changes],
                "minutes": [one.interval_minutes for one in changes],
                "starts": [one.valid_from for one in changes],
                "start": start,
            },
        )
        lots.add_relabelled(cursor.fetchall())


def _last_ends(meter_ids: Sequence[int]) -> dict[int, datetime]:
    """Return when the last earlier length of each meter ended."""
    rows = (
        EarlierLength.objects.filter(meter__in=meter_ids)
        .order_by()
        .values_list("meter_id")
        .annotate(end=Max("valid_to"))
    )
    return dict(rows)


def _next(meter: Meter, interval_minutes: int, at: datetime) -> datetime:
    return common_boundary(at, meter.interval_minutes, checked_length(interval_minutes))


def checked_length(interval_minutes: int) -> int:
    """Check a length in minutes and return it; IntervalError if it is not allowed."""
    if type(interval_minutes) is not int or not 1 <= interval_minutes <= LONGEST_MINUTES:
        raise IntervalError(f"an interval length is a whole number of minutes from 1 to {LONGEST_MINUTES}")
    return interval_minutes


def check_boundary(meter: Meter, before: int, after: int, at: datetime) -> None:
    """Check that intervals of ``before`` and of ``after`` minutes begin at an instant; else IntervalError."""
    try:
        following = common_boundary(at, before, after)
    except OverflowError:
        raise IntervalError(f"{at} is too far ahead") from None
    if at != following:
        raise IntervalError(
            f"meter {meter} changes from {before} to {after} min where intervals of both begin: "
            f"{at} is not such a time, {following} is the next"
        )


def _check(meter: Meter, one: LengthChange, last_end: datetime | None) -> None:
    check_boundary(meter, meter.interval_minutes, checked_length(one.interval_minutes), one.valid_from)
    if last_end is not None and one.valid_from < last_end:
        raise IntervalError(f"the length of meter {meter} changes at {last_end}, after {one.valid_from}")
