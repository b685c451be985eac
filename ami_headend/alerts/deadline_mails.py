"""Daily mails of deadlines: how a day was delivered, as text and HTML, with its tables attached as CSV.

A channel of this kind gets one message for each day, as soon as the day is counted, and for each of its addresses: the
row of the message says that it was written, so that nobody writes it twice. ``delivery`` sends it, like any other.
"""

import math
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string
from django.urls import reverse

from ami_headend.alerts.models import Channel, ChannelKind, Delivery
from ami_headend.alerts.reminders import MessageType
from concentrators.fleet import groups
from concentrators.models import ReadDay
from concentrators.totals import read_success, success_tables
from concentrators.totals.read_success import Success
from concentrators.totals.success_tables import DayRow
from meters.group_models import FleetGroup
from meters.readings import export

TOLD_WITHIN = timedelta(days=3)  # after its deadline; later, a day is not told any more
_WORST, _GROUPS = 10, 20


class Line(NamedTuple):
    """A row of the mail's tables, as text: of a share in time, and of numbers of intervals."""

    name: str
    status: str
    in_time: str
    expected: str
    arrived_in_time: str
    late: str
    missing: str


class DayGoneError(Exception):
    """The day that a mail is about is not kept any more."""


def write_due(now: datetime) -> set[int]:
    """Write the mails about days that were counted; return the channels that have something to send.

    Days whose deadline was before the channel was made are left out. At most three queries; one without channels.
    """
    channels = Channel.objects.filter(kind=ChannelKind.DEADLINE, is_enabled=True)
    by_deadline: dict[int, list[Channel]] = {}
    for channel in channels:
        by_deadline.setdefault(channel.deadline_id or 0, []).append(channel)
    if not by_deadline:
        return set()
    days = list(ReadDay.objects.filter(deadline__in=by_deadline, due_at__gt=now - TOLD_WITHIN, due_at__lte=now))
    standing = Delivery.objects.filter(of_day__in=days).values_list("channel", "recipient", "of_day")
    written = {tuple(row) for row in standing}
    missing = [
        _message(channel, recipient, day, now)
        for day in sorted(days, key=lambda day: day.due_at)
        for channel in by_deadline[day.deadline_id]
        if day.due_at > channel.created_at
        for recipient in channel.recipients
        if (channel.pk, recipient, day.pk) not in written
    ]
    Delivery.objects.bulk_create(missing, ignore_conflicts=True)  # another worker may be as far
    return {row.channel_id for row in missing if row.channel_id is not None}


def withdraw(channel: Channel, now: datetime) -> None:
    """Give up unsent mails to addresses that a changed channel no longer has."""
    waiting = Delivery.objects.filter(channel=channel, of_day__isnull=False, delivered_at=None, given_up_at=None)
    if channel.is_enabled:
        waiting = waiting.exclude(recipient__in=channel.recipients)
    waiting.update(given_up_at=now, last_error="the channel was changed")


def mail(delivery: Delivery) -> EmailMultiAlternatives:
    """Return the mail about a day, as it is known now. DayGoneError if it is not kept any more."""
    day = ReadDay.objects.select_related("deadline").filter(pk=delivery.of_day_id or 0).first()
    channel = delivery.channel
    if day is None or channel is None:
        raise DayGoneError("the history of its day is not kept any more")
    group = channel.group
    mine = None if group is None else groups.concentrator_ids([group.pk])
    counted = Success(day.expected, day.in_time, day.late) if mine is None else read_success.sums([day], mine)[day.pk]
    named = str(group) if group is not None else "all concentrators"
    of_groups = [success_tables.row(day, str(one), sums) for one, sums in success_tables.of_groups(day)]
    worst = [
        success_tables.row(day, share.concentrator.name, Success(share.expected, share.in_time, share.late))
        for share in read_success.worst(day, _WORST, mine)
    ]
    whole = _line(success_tables.row(day, named, counted))
    content: dict[str, Any] = {
        "day": day,
        "due": f"{day.due_at.astimezone(day.deadline.terms.zone):%Y-%m-%d %H:%M} {day.deadline.zone}",
        "counted": f"{day.counted_at:%Y-%m-%d %H:%M} UTC",
        "target": f"{day.target_percent.normalize():f} %",
        "whole": whole,
        "groups": list(map(_line, of_groups[:_GROUPS])) if mine is None else [],
        "more_groups": max(0, len(of_groups) - _GROUPS),
        "worst": list(map(_line, worst)),
        "url": _url(day, group),
    }
    subject = f"[ami-headend] {whole.status}: {whole.name}, {day.day:%a %d %b %Y}: {whole.in_time} ({day.deadline})"
    message = EmailMultiAlternatives(" ".join(subject.split()), render_to_string("alerts/deadline_mail.txt", content))
    message.attach_alternative(render_to_string("alerts/deadline_mail.html", content), "text/html")
    tables = {"concentrator": list(success_tables.of_concentrators([day], mine))}
    if mine is None and of_groups:
        tables["group"] = [of_groups]
    for what, batches in tables.items():
        octets = b"".join(export.stream_csv(success_tables.schema_of(what), batches))
        message.attach(f"{what}s-{day.day.isoformat()}.csv", octets.decode(), "text/csv")
    return message


def _line(row: DayRow) -> Line:
    """Write a row. A share is rounded down: what misses its target never looks as if it met it."""
    share = f"{math.floor(1_000 * row.in_time / row.expected) / 10} %" if row.expected else "nothing"
    rest = row.expected - row.in_time - row.late
    numbers = (row.expected, row.in_time, row.late, rest)
    return Line(row.name, row.status, share, *(f"{number:,}" for number in numbers))


def _message(channel: Channel, recipient: str, day: ReadDay, now: datetime) -> Delivery:
    return Delivery(
        channel=channel,
        channel_name=channel.name,
        recipient=recipient,
        event=MessageType.DEADLINE,
        of_day=day,
        body={"type": MessageType.DEADLINE, "timestamp": now.isoformat(), "data": {"day": day.day.isoformat()}},
        created_at=now,
        due_at=now,
    )


def _url(day: ReadDay, group: FleetGroup | None) -> str:
    if not settings.PUBLIC_URL:
        return ""
    query = {"day": day.day.isoformat(), "deadline": day.deadline_id, **({"group": str(group)} if group else {})}
    return f"{settings.PUBLIC_URL}{reverse('admin:deadlines')}?{urlencode(query)}"
