"""Read success: of the intervals expected of each day, how many had arrived by each deadline; kept as history.

An interval has arrived when its uplink was received, by a right clock, however late it was verified. What arrived
at all is in the interval totals; only what came after the deadline is looked for among readings, from the first
late uplink on. So a day costs one statement over its readings, and no row of it is read here.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from django.db import transaction
from django.db.models import DecimalField, ExpressionWrapper, F, Max, ProtectedError, QuerySet, Sum

from ami_headend.core import batches, locks, rows
from ami_headend.core.sql import select
from concentrators.models import ClockCorrection, Concentrator, ReadDay, ReadDeadline, ReadShare, Uplink
from concentrators.totals import expected, read_deadlines
from concentrators.totals.expected import COUNTS_TO
from concentrators.totals.read_deadlines import DayStatus
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from meters.readings.obis import LOAD_PROFILE
from meters.readings.partitions import retention_start

logger = logging.getLogger(__name__)

HISTORY_DAYS = 35  # days back that are counted after downtime, or for a new deadline, and followed for late arrivals
_WAITS_FOR_BACKLOG = timedelta(hours=1)  # a day is counted then although uplinks received in time are unverified
_AT_ONCE = 7  # days that one run counts; the next one goes on
_DELETED_AT_ONCE = 20  # days, each with a share for each concentrator
_RESTS = 10  # a day is looked at again after a tenth of its age
_RESTS_AT_LEAST = timedelta(minutes=10)


class Success(NamedTuple):
    """Intervals of some concentrators on one day of a deadline."""

    expected: int
    in_time: int
    late: int


# Per concentrator: intervals of the day that arrived, and those of them whose uplink was received after the deadline.
_ARRIVED = f"""
    WITH late_uplink AS MATERIALIZED (
        SELECT u.id FROM concentrators_concentrator c CROSS JOIN LATERAL (
            SELECT u.id FROM concentrators_uplink u
            WHERE u.concentrator_id = c.id AND coalesce(u.corrected_at, u.received_at) > %(due)s
              AND u.received_at > %(due)s - make_interval(secs => (
                  SELECT coalesce(max(behind_s), 0) FROM concentrators_clockcorrection
                  WHERE start <= %(due)s AND "end" + make_interval(secs => behind_s) >= %(due)s))) AS u
    ), late AS (
        SELECT r.meter_id, r.interval_minutes, r.captured_at FROM meters_reading r
        WHERE r.captured_at >= %(start)s AND r.captured_at < %(end)s AND r.interval_minutes > 0
          AND r.register_id = (SELECT id FROM meters_register WHERE obis_code = %(profile)s)
          AND r.uplink_id >= (SELECT min(id) FROM late_uplink) AND r.uplink_id IN (SELECT id FROM late_uplink)
        UNION ALL
        SELECT r.meter_id, r.interval_minutes, r.captured_at FROM meters_maskedreading r
        WHERE r.captured_at >= %(start)s AND r.captured_at < %(end)s AND r.interval_minutes > 0
          AND r.register_id = (SELECT id FROM meters_register WHERE obis_code = %(profile)s)
          AND r.uplink_id >= (SELECT min(id) FROM late_uplink) AND r.uplink_id IN (SELECT id FROM late_uplink)
    ), late_by_concentrator AS (
        SELECT a.concentrator_id, count(*) AS intervals FROM late r
        JOIN concentrators_assignment a ON a.meter_id = r.meter_id
             AND {COUNTS_TO.format(start="r.captured_at", minutes="r.interval_minutes")}
        GROUP BY a.concentrator_id
    ), arrived AS (
        SELECT t.concentrator_id, sum(t.meters_counted + t.meters_masked)::bigint AS intervals
        FROM concentrators_intervaltotal t
        WHERE t.interval_start >= %(start)s AND t.interval_start < %(end)s
          AND t.register_id = (SELECT id FROM meters_register WHERE obis_code = %(profile)s)
        GROUP BY t.concentrator_id
    )
    SELECT a.concentrator_id, a.intervals, coalesce(l.intervals, 0)
    FROM arrived a LEFT JOIN late_by_concentrator l USING (concentrator_id)"""


class DeadlineInUseError(ValueError):
    """A deadline that is active, or that mails are sent about, is not removed: the message says what to do."""


def save(actor: Actor, deadline: ReadDeadline) -> None:
    """Make or change a deadline. AuditError or MasterKeyError: nothing was changed."""
    with transaction.atomic():
        if deadline.pk is not None:
            rows.hold(deadline)
        deadline.save()
        chain.record(actor, "deadline.save", _subject(deadline), "active" if deadline.is_active else "inactive")


def remove(actor: Actor, deadline: ReadDeadline) -> int:
    """Remove an inactive deadline with its history; return of how many days. DeadlineInUseError, or as ``save``."""
    with transaction.atomic():
        locks.take(locks.READ_DEADLINES)
        if ReadDeadline.objects.filter(pk=deadline.pk, is_active=True).exists():
            raise DeadlineInUseError(f"{deadline} is active: set it inactive first; its history goes with it")
        rows.hold(deadline)
        days = ReadDay.objects.filter(deadline=deadline).count()
        chain.record(actor, "deadline.remove", {**_subject(deadline), "days": days})
        ReadDay.objects.filter(deadline=deadline).delete()
        try:
            deadline.delete()
        except ProtectedError as error:
            users = ", ".join(sorted(str(row) for row in error.protected_objects)[:5])
            raise DeadlineInUseError(f"{deadline} is in use by {users}: remove that first") from None
    return days


def _subject(deadline: ReadDeadline) -> dict[str, object]:
    return {
        "deadline": deadline.name,
        "id": deadline.pk,
        "due": f"{deadline.due_time:%H:%M} {deadline.zone}, {deadline.days_after} days after",
        "target_percent": str(deadline.target_percent),
    }


def count_due(now: datetime) -> int:
    """Count the days that have become due, and again those with later arrivals; return how many were counted.

    The newest come first, and at most _AT_ONCE: after downtime, or for a new deadline, the next runs go on. Safe to
    stop at any instruction, and to run twice at once: each day is one transaction, under a lock.
    """
    counted = 0
    for deadline in ReadDeadline.objects.filter(is_active=True).order_by("pk"):
        due = read_deadlines.due_days(deadline.terms, now, HISTORY_DAYS)
        standing = {row.day: row for row in ReadDay.objects.filter(deadline=deadline, day__in=due)}
        for day in due:
            if counted < _AT_ONCE:
                counted += _count(deadline, day, standing.get(day), now)
    return counted


def take_over(deadline: ReadDeadline, day: date, counted: Mapping[int, Success], now: datetime) -> None:
    """Store a day as another system counted it, by ids of concentrators; it is not counted here any more.

    For days before the head-end had the readings. A day that was counted already is replaced.
    """
    start, end = read_deadlines.bounds(day, deadline.terms.zone)
    terms = {"start": start, "end": end, "due_at": read_deadlines.due_at(day, deadline.terms)}
    numbers = [sum(column) for column in zip(*counted.values(), strict=True)] or [0, 0, 0]
    values = {**terms, **Success(*numbers)._asdict(), "target_percent": deadline.target_percent, "basis": None}
    with transaction.atomic():
        locks.take(locks.READ_DEADLINES)
        row, _ = ReadDay.objects.update_or_create(deadline=deadline, day=day, defaults={**values, "counted_at": now})
        _keep(row, counted)


def statuses(days: Collection[ReadDay]) -> dict[int, DayStatus]:
    """Return the status of counted days for the whole fleet, by their ids."""
    return {one.pk: read_deadlines.status(one.expected, one.in_time, one.target_percent) for one in days}


def days_of(day: date) -> QuerySet[ReadDay]:
    """Return what was counted of a day, for each deadline."""
    return ReadDay.objects.filter(day=day).select_related("deadline").order_by("deadline__name")


def open_deadlines(day: date, now: datetime) -> list[tuple[ReadDeadline, datetime]]:
    """Return the active deadlines by which a day will be counted, and when it is due. One query."""
    rows = ReadDeadline.objects.filter(is_active=True).exclude(days__day=day).order_by("name")
    due = [(deadline, read_deadlines.due_at(day, deadline.terms)) for deadline in rows]
    return [(deadline, at) for deadline, at in due if at > now - timedelta(days=HISTORY_DAYS)]


def newest_days(now: datetime) -> list[ReadDay]:
    """Return the newest counted day of each active deadline; those that are due soonest after a day come first."""
    since = now - timedelta(days=HISTORY_DAYS)
    rows = ReadDay.objects.filter(start__gte=since, deadline__is_active=True).select_related("deadline")
    newest = rows.order_by("deadline_id", "-day").distinct("deadline_id")
    return sorted(newest, key=lambda day: (day.deadline.days_after, day.deadline.due_time, day.deadline_id))


def sums(days: Collection[ReadDay], concentrator_ids: Collection[int]) -> dict[int, Success]:
    """Add up the intervals of some concentrators on counted days, by the ids of the days. One query."""
    rows = ReadShare.objects.filter(of_day__in=[one.pk for one in days], concentrator__in=list(concentrator_ids))
    added = rows.values("of_day_id").annotate(
        all_expected=Sum("expected"), all_in_time=Sum("in_time"), all_late=Sum("late")
    )
    found = {
        row["of_day_id"]: Success(row["all_expected"], row["all_in_time"], row["all_late"]) for row in added.order_by()
    }
    return {one.pk: found.get(one.pk, Success(0, 0, 0)) for one in days}


def worst(day: ReadDay, limit: int, concentrator_ids: Collection[int] | None = None) -> list[ReadShare]:
    """Return the concentrators of a counted day, those with the smallest share in time first. One query."""
    rows = ReadShare.objects.filter(of_day=day, expected__gt=0).select_related("concentrator", "of_day")
    if concentrator_ids is not None:
        rows = rows.filter(concentrator__in=list(concentrator_ids))
    share = F("in_time") * 1.0 / F("expected")
    return list(rows.annotate(share=share).order_by("share", "-expected", "concentrator_id")[:limit])


def history(deadline: ReadDeadline, last: date, days: int) -> list[ReadDay]:
    """Return what was counted of the days up to ``last``, oldest first."""
    rows = ReadDay.objects.filter(deadline=deadline, day__gt=last - timedelta(days=days), day__lte=last)
    return list(rows.order_by("day"))


def shares(days: Collection[ReadDay], concentrator_ids: Collection[int] | None = None) -> QuerySet[ReadShare]:
    """Return the intervals of all concentrators, or of some, on these days, in the order of the concentrators."""
    rows = ReadShare.objects.filter(of_day__in=[one.pk for one in days], expected__gt=0)
    if concentrator_ids is not None:
        rows = rows.filter(concentrator__in=list(concentrator_ids))
    return rows.select_related("concentrator", "of_day__deadline").order_by("concentrator__name", "of_day_id")


def missed_shares(days: Collection[ReadDay], concentrator_ids: Collection[int] | None = None) -> QuerySet[ReadShare]:
    """Return those of them that missed the target of their day."""
    reached = ExpressionWrapper(F("in_time") * Decimal(100), output_field=DecimalField())
    asked = ExpressionWrapper(F("of_day__target_percent") * F("expected"), output_field=DecimalField())
    return shares(days, concentrator_ids).annotate(reached=reached, asked=asked).filter(reached__lt=F("asked"))


def history_of(days: Collection[ReadDay], concentrator_ids: Collection[int]) -> dict[int, dict[int, Success]]:
    """Return the intervals of each concentrator on these days: by concentrator, then by day's id. One query."""
    rows = ReadShare.objects.filter(of_day__in=[one.pk for one in days], concentrator__in=list(concentrator_ids))
    found: dict[int, dict[int, Success]] = defaultdict(dict)
    for row in rows:
        found[row.concentrator_id][row.of_day_id] = Success(row.expected, row.in_time, row.late)
    return found


def delete_old(before: datetime) -> int:
    """Delete days whose readings are no longer kept; return how many."""
    return batches.delete(ReadDay.objects.filter(end__lte=before).order_by("end", "pk"), _DELETED_AT_ONCE)


def _count(deadline: ReadDeadline, day: date, standing: ReadDay | None, now: datetime) -> int:
    """Count a day if it has to be; return 1 if it was counted."""
    start, end = read_deadlines.bounds(day, deadline.terms.zone)
    if start < retention_start(now):
        return 0
    if standing is None:
        due_at = read_deadlines.due_at(day, deadline.terms)
        if _still_verifying(due_at, now):
            return 0
        standing = ReadDay(
            deadline=deadline, day=day, start=start, end=end, due_at=due_at, target_percent=deadline.target_percent
        )
    elif not _is_to_look_at(standing, now):
        return 0
    return _store(standing, now)


def _still_verifying(due_at: datetime, now: datetime) -> bool:
    """Whether uplinks that were received in time wait for verification, and the day for them."""
    if now - due_at >= _WAITS_FOR_BACKLOG:
        return False
    return Uplink.objects.filter(verified_at=None, received_at__lte=due_at).exists()


def _is_to_look_at(day: ReadDay, now: datetime) -> bool:
    return day.basis is not None and now - day.counted_at >= max(_RESTS_AT_LEAST, (now - day.due_at) / _RESTS)


def _store(day: ReadDay, now: datetime) -> int:
    """Count a day and store its rows; of one that was counted before, only if something has changed."""
    with transaction.atomic():
        locks.take(locks.READ_DEADLINES)
        due = _expected(day)
        if day.pk is None and ReadDay.objects.filter(deadline=day.deadline, day=day.day).exists():
            return 0  # another process was first
        basis = _basis(day, due)
        if day.pk is not None and bytes(day.basis or b"") == basis:
            ReadDay.objects.filter(pk=day.pk).update(counted_at=now)
            return 0
        asked = {"start": day.start, "end": day.end, "due": day.due_at, "profile": LOAD_PROFILE}
        arrived = {row[0]: (row[1], row[2]) for row in select(_ARRIVED, asked)}
        counted = {pk: success(intervals, *arrived.get(pk, (0, 0))) for pk, intervals in due.items()}
        day.expected, day.in_time, day.late = map(sum, zip(*counted.values(), strict=True)) if counted else (0, 0, 0)
        day.basis, day.counted_at = basis, now
        day.save()
        _keep(day, counted)
    return 1


def _keep(day: ReadDay, counted: Mapping[int, Success]) -> None:
    """Store the intervals of concentrators instead of those that stand."""
    known = set(Concentrator.objects.filter(pk__in=counted).values_list("pk", flat=True))
    ReadShare.objects.filter(of_day=day).exclude(concentrator__in=known).delete()
    ReadShare.objects.bulk_create(
        [ReadShare(of_day=day, concentrator_id=pk, **counted[pk]._asdict()) for pk in sorted(known)],
        batch_size=1_000,
        update_conflicts=True,
        unique_fields=["of_day", "concentrator"],
        update_fields=["expected", "in_time", "late"],
    )


def success(intervals: int, arrived: int, late: int) -> Success:
    """Return numbers of which none exceeds what is expected: an exchange may cut an interval that still counts."""
    in_time = min(intervals, arrived - late)
    return Success(intervals, in_time, min(intervals - in_time, late))


def _expected(day: ReadDay) -> dict[int, int]:
    """Count the intervals expected of each concentrator on a day; those that have ended by its end."""
    found: dict[int, int] = defaultdict(int)
    for span in expected.spans(day.start, day.end, day.due_at):
        found[span.concentrator_id] += span.intervals(day.start, day.end)
    return {pk: intervals for pk, intervals in found.items() if intervals}


def _basis(day: ReadDay, due: Mapping[int, int]) -> bytes:
    """Return a digest of what a day is counted from: if it is the same, so are the numbers.

    Besides what is expected of each concentrator it covers how many intervals of it arrived and when they began, since
    a correction may move some and keep the sum; and the corrections of the clock, which move times of receipt.
    """
    rows = select(
        """SELECT t.concentrator_id, sum(t.meters_counted + t.meters_masked)::bigint,
                  sum((t.meters_counted + t.meters_masked) * extract(epoch FROM t.interval_start)::bigint)::text
           FROM concentrators_intervaltotal t JOIN meters_register g ON g.id = t.register_id
           WHERE t.interval_start >= %s AND t.interval_start < %s AND g.obis_code = %s
           GROUP BY t.concentrator_id ORDER BY t.concentrator_id""",
        [day.start, day.end, LOAD_PROFILE],
    )
    corrected = ClockCorrection.objects.aggregate(last=Max("pk"))["last"]
    return hashlib.sha256(repr((sorted(due.items()), rows, corrected)).encode()).digest()
