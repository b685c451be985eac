"""Corrections by a person of a meter that was registered with a wrong interval length, for a span of time.

Frames off the grid of the wrong length wait (``registry_mismatch``). Frames on its grid were accepted as intervals of
that length; the correction gives them the right one. A change that the meter itself makes is no correction: see
``commands.capture_period``.
"""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from django.conf import settings
from django.db import transaction

from ami_headend.core import clock
from ami_headend.core.sql import fetch_rows
from ami_headend.core.text import NOTE_LENGTH, counted, is_note
from concentrators.commands.capture_period import IntervalError, check_boundary, checked_length
from concentrators.commands.queue import UNDER_WAY
from concentrators.feed import lots
from concentrators.models import Command, CommandKind
from concentrators.totals import totals
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from meters.models import EarlierLength, Meter
from meters.readings import masked_store
from meters.readings.partitions import retention_start, stored_from
from meters.registry.interval_lengths import LengthSpan, corrected


class LengthRequest(NamedTuple):
    """A correction: the meter measured in intervals of a number of minutes from ``start`` up to ``end``.

    Without ``start`` from its commissioning on; without ``end`` it continues to do so.
    """

    interval_minutes: int
    start: datetime | None
    end: datetime | None
    reason: str


class LengthEffect(NamedTuple):
    """The number of stored readings in the span with another length, and the lengths of the meter afterwards."""

    readings: int
    spans: list[LengthSpan]


def look(meter: Meter, wish: LengthRequest, now: datetime) -> LengthEffect:
    """Return what a correction would change. IntervalError if it cannot be right."""
    _check(wish, now)
    first = stored_from()
    if first is not None and (wish.start or meter.commissioned_at) < first:
        raise IntervalError(f"readings before {first:%Y-%m} are archived: begin the correction then, or restore them")
    before = _spans(meter)
    wanted = LengthSpan(_inside(meter, wish.start), wish.end, wish.interval_minutes)
    spans = corrected(before, wanted)
    if spans == before:
        raise IntervalError(f"meter {meter} has {wish.interval_minutes} min in all of that span already")
    for one, following in pairwise(spans):
        if one.end is not None:
            check_boundary(meter, one.minutes, following.minutes, one.end)
    if spans[-1].minutes != before[-1].minutes and _is_told(meter):
        raise IntervalError(f"meter {meter} is being told another length: cancel that command, or wait for it")
    return LengthEffect(_readings(meter, wish, now), spans)


def correct(meter: Meter, wish: LengthRequest, actor: Actor, now: datetime) -> LengthEffect:
    """Correct the length of a meter in a span, with its readings and totals; frames that wait for it are judged again.

    Verification waits meanwhile. IntervalError; AuditError or MasterKeyError if it cannot be recorded: then nothing was
    changed. A correction that was made already is refused.
    """
    with transaction.atomic():
        totals.lock()
        meter = Meter.objects.select_for_update().get(pk=meter.pk)
        found = look(meter, wish, now)
        first = wish.start or retention_start(now)
        totals.shift([meter.pk], first, -1, wish.end)
        relabelled = fetch_rows(
            f"""UPDATE meters_reading r SET interval_minutes = %s FROM meters_reading o
                WHERE r.captured_at >= %s AND (%s::timestamptz IS NULL OR r.captured_at < %s) AND r.meter_id = %s
                      AND r.interval_minutes > 0 AND r.interval_minutes <> %s AND {lots.SAME_ROW}
                {lots.RETURNING_RELABELLED}""",
            wish.interval_minutes,
            first,
            wish.end,
            wish.end,
            meter.pk,
            wish.interval_minutes,
        )
        lots.add_relabelled(relabelled)
        masked_store.relabel(meter.pk, first, wish.end, wish.interval_minutes)
        _store(meter, found.spans)
        totals.shift([meter.pk], first, +1, wish.end)
        subject = {
            "meter": meter.pk,
            "system_title": bytes(meter.system_title).hex(),
            "interval_minutes": wish.interval_minutes,
            "start": wish.start and wish.start.isoformat(),
            "end": wish.end and wish.end.isoformat(),
            "readings": found.readings,
            "reason": wish.reason,
        }
        chain.record(actor, "meter.correct_length", subject)
    return found


def _store(meter: Meter, spans: list[LengthSpan]) -> None:
    """Store the lengths of a meter; triggers make workers read it again, and judge waiting frames again."""
    EarlierLength.objects.filter(meter=meter).delete()
    EarlierLength.objects.bulk_create(
        [
            EarlierLength(meter=meter, interval_minutes=one.minutes, valid_from=one.start, valid_to=one.end)
            for one in spans
            if one.end is not None
        ]
    )
    meter.interval_minutes = spans[-1].minutes
    meter.save(update_fields=["interval_minutes"])


def _spans(meter: Meter) -> list[LengthSpan]:
    """Return the lengths of a meter, oldest first: the first has no beginning, the last no end."""
    earlier = [
        LengthSpan(row.valid_from, row.valid_to, row.interval_minutes)
        for row in EarlierLength.objects.filter(meter=meter).order_by("valid_to")
    ]
    return [*earlier, LengthSpan(earlier[-1].end if earlier else None, None, meter.interval_minutes)]


def _inside(meter: Meter, start: datetime | None) -> datetime | None:
    """Limit a span: before its commissioning a meter has the same length as then."""
    return None if start is None or start <= meter.commissioned_at else start


def _readings(meter: Meter, wish: LengthRequest, now: datetime) -> int:
    """Count the readings that would get another length; IntervalError if one cannot."""
    rows = fetch_rows(
        """SELECT count(*) FILTER (WHERE interval_minutes <> %s), count(*) FILTER (WHERE off_grid),
                  min(captured_at) FILTER (WHERE off_grid)
           FROM (SELECT interval_minutes, captured_at, extract(epoch FROM captured_at)::bigint %% %s <> 0 AS off_grid
                 FROM meters_reading
                 WHERE captured_at >= %s AND (%s::timestamptz IS NULL OR captured_at < %s) AND meter_id = %s
                       AND interval_minutes > 0) AS r""",
        wish.interval_minutes,
        wish.interval_minutes * 60,
        wish.start or retention_start(now),
        wish.end,
        wish.end,
        meter.pk,
    )
    others, off_grid, first = rows[0]
    if off_grid:
        raise IntervalError(
            f"meter {meter} has {counted(off_grid, 'reading')} in that span that no meter measures in "
            f"{wish.interval_minutes} min, the first of {first:%Y-%m-%d %H:%M} UTC: leave them out of the span"
        )
    return int(others)


def _is_told(meter: Meter) -> bool:
    return Command.objects.filter(meter=meter, kind=CommandKind.SET_INTERVAL, state__in=UNDER_WAY).exists()


def _check(wish: LengthRequest, now: datetime) -> None:
    checked_length(wish.interval_minutes)
    latest = now + timedelta(seconds=settings.CLOCK_SKEW_S)
    for at in (wish.start, wish.end):
        if at is not None and not clock.EARLIEST <= at <= latest:
            raise IntervalError(f"{at} is no time gone by: a correction is of what was measured already")
    if wish.start is not None and wish.end is not None and wish.start >= wish.end:
        raise IntervalError("the span ends before it begins")
    if not is_note(wish.reason):
        raise IntervalError(f"a reason says how it is known, in 1 to {NOTE_LENGTH:,} characters")
