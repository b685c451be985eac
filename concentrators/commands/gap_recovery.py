"""Gap recovery: resend commands for the missing intervals of meters, never two for the same gap.

An operator requests them, for meters or a whole concentrator, or the schedule does (setting RESEND_GAPS). A meter gets
at most RESENDS_PER_DAY such commands a day, the oldest gaps first.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import F, QuerySet

from ami_headend.core import clock, locks
from concentrators.commands import guard
from concentrators.commands import queue as commands
from concentrators.commands.queue import SYSTEM, UNDER_WAY, CommandRequest, DownlinkError
from concentrators.fleet.selection import Selection
from concentrators.models import Command, CommandKind, CommandState
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys.commandable import without_aes
from keyvault.models import Approval
from meters.models import Meter, Register
from meters.readings.gaps import Gap, find_gaps
from meters.readings.obis import LOAD_PROFILE

# A meter that has answered has sent the intervals, or lost them: the schedule does not ask again.
ASKED = (*UNDER_WAY, CommandState.DONE, CommandState.REFUSED)
_BATCH = 500
_ROUNDS = 24  # the schedule checks every meter once a day, in this many parts
_Span = tuple[int, int]  # [from, to), Unix seconds


class GapRecoverySummary(NamedTuple):
    """The numbers of meters with gaps, of gaps, and of commands that were queued or postponed to another day.

    Gaps for which there is a command already are not counted among commands. ``approval`` is what the commands wait
    for, if they are held.
    """

    meters: int = 0
    gaps: int = 0
    commands: int = 0
    put_off: int = 0
    approval: Approval | None = None


def selected(selection: Selection, now: datetime) -> QuerySet[Meter]:
    """Return the meters of a selection. DownlinkError if it is empty."""
    if selection.says_nothing:
        raise DownlinkError("say which meters: by title, by concentrator, or all of them")
    return selection.meters(now)


def ask(
    selection: Selection,
    register: Register,
    start: datetime,
    end: datetime,
    actor: Actor,
    now: datetime,
    *,
    dry_run: bool = False,
    done: Callable[[int], None] = lambda meters: None,
) -> GapRecoverySummary:
    """Ask the meters of a selection for the intervals missing in [start, end); audited as one act.

    Beyond the account's limits all commands are held. DownlinkError or GapsError (the caller's mistake),
    MasterKeyError or AuditError: then no meter is asked.
    """
    total = GapRecoverySummary()
    given: list[Command] = []
    if dry_run:  # a dry run: it must not keep others from asking
        for meters in _batches(selected(selection, now)):
            outcome, _ = _wanted(meters, register, start, end, now, ASKED)
            total = _sum(total, outcome)
            done(len(meters))
        return total
    with transaction.atomic():
        for meters in _batches(selected(selection, now)):
            outcome, queued = _ask(meters, register, start, end, actor.name, now, ASKED)
            total = _sum(total, outcome)
            given += queued
            done(len(meters))
        total = total._replace(approval=guard.hold_what_is_beyond(given, actor, now))
        subject = {
            "meters": total.meters,
            "concentrator": None if selection.concentrator is None else selection.concentrator.name,
            "from": start.isoformat(),
            "to": end.isoformat(),
        }
        chain.record(actor, "command.resend", subject, f"{total.commands} {'held' if total.approval else 'queued'}")
    return total


def ask_one(
    meter: Meter, register: Register, start: datetime, end: datetime, created_by: str, now: datetime
) -> list[Command]:
    """Ask one meter for what is missing in [start, end), also what it answered before, but not twice at once."""
    with transaction.atomic():
        return _ask([meter], register, start, end, created_by, now, UNDER_WAY)[1]


def ask_by_schedule(now: datetime) -> GapRecoverySummary:
    """Ask a part of all meters for missing intervals of their load profiles: each meter has its time of the day.

    Gaps younger than RESEND_GAPS_AFTER_S are skipped, because late frames fill most of them; gaps older than
    RESEND_GAPS_DAYS are given up.
    """
    register = Register.objects.get(obis_code=LOAD_PROFILE)
    start = now - timedelta(days=settings.RESEND_GAPS_DAYS)
    end = now - timedelta(seconds=settings.RESEND_GAPS_AFTER_S)
    total = GapRecoverySummary()
    part = selected(Selection(everything=True), now).alias(hour=F("id") % _ROUNDS).filter(hour=now.hour)
    for meters in _batches(part):
        with transaction.atomic():
            outcome, _ = _ask(meters, register, start, end, SYSTEM, now, ASKED)
        total = _sum(total, outcome)
    return total


def _ask(
    meters: Sequence[Meter],
    register: Register,
    start: datetime,
    end: datetime,
    by: str,
    now: datetime,
    passed_over: Collection[CommandState],
) -> tuple[GapRecoverySummary, list[Command]]:
    """Ask a batch of meters, in a fixed number of queries."""
    locks.take(locks.GAP_RECOVERY)
    outcome, requests = _wanted(meters, register, start, end, now, passed_over)
    return outcome, commands.enqueue(requests, by, now)


def _wanted(
    meters: Sequence[Meter],
    register: Register,
    start: datetime,
    end: datetime,
    now: datetime,
    passed_over: Collection[CommandState],
) -> tuple[GapRecoverySummary, list[CommandRequest]]:
    """Return what a batch of meters is to be asked for."""
    deaf = without_aes([bytes(meter.system_title) for meter in meters])
    meters = [meter for meter in meters if bytes(meter.system_title) not in deaf]
    gaps = find_gaps(meters, register, start, end, now)
    asked, today = _given(list(gaps), passed_over, start, now)
    requests, put_off = [], 0
    for meter in meters:
        wanted = [span for gap in gaps.get(meter.pk, []) for span in _without(_span(gap), asked[meter.pk])]
        room = max(0, settings.RESENDS_PER_DAY - today[meter.pk])
        put_off += max(0, len(wanted) - room)
        requests += [
            CommandRequest(meter, CommandKind.RESEND, {"from_s": from_s, "to_s": to_s})
            for from_s, to_s in wanted[:room]
        ]
    return GapRecoverySummary(len(meters), sum(map(len, gaps.values())), len(requests), put_off), requests


def _given(
    meter_ids: Sequence[int], passed_over: Collection[CommandState], start: datetime, now: datetime
) -> tuple[dict[int, list[_Span]], Counter[int]]:
    """Return what meters were asked for, by command states that count, and the resends of each in the last day."""
    asked: defaultdict[int, list[_Span]] = defaultdict(list)
    today: Counter[int] = Counter()
    rows = Command.objects.filter(
        meter__in=meter_ids, kind=CommandKind.RESEND, created_at__gt=min(start, now - timedelta(days=1))
    )
    for meter_id, parameters, state, created_at in rows.values_list("meter_id", "parameters", "state", "created_at"):
        if state in passed_over:
            asked[meter_id].append((parameters["from_s"], parameters["to_s"]))
        if clock.is_within(created_at, timedelta(days=1), now) and state != CommandState.CANCELLED:
            today[meter_id] += 1
    return asked, today


def _span(gap: Gap) -> _Span:
    return int(gap.start.timestamp()), int(gap.end.timestamp())


def _without(span: _Span, taken: Sequence[_Span]) -> Iterator[_Span]:
    """Return the parts of a span that none of the others covers."""
    from_s, end_s = span
    for first_s, last_s in sorted(taken):
        if first_s > from_s:
            yield from_s, min(first_s, end_s)
        from_s = max(from_s, last_s)
        if from_s >= end_s:
            return
    yield from_s, end_s


def _batches(meters: QuerySet[Meter]) -> Iterator[list[Meter]]:
    last = 0
    while batch := list(meters.filter(pk__gt=last)[:_BATCH]):
        yield batch
        last = batch[-1].pk


def _sum(one: GapRecoverySummary, other: GapRecoverySummary) -> GapRecoverySummary:
    return GapRecoverySummary(
        one.meters + other.meters, one.gaps + other.gaps, one.commands + other.commands, one.put_off + other.put_off
    )
