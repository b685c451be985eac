"""The queue of commands to meters: enqueue, cancel, expire, and the answers of meters.

``downlink`` hands commands to concentrators, again and again until they end. A command ends by an authenticated answer
of the meter, or when its time is over. Only the first accepted frame under the new key ends a key command as done.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, Q

from ami_headend.core import clock
from ami_headend.core.sql import execute, int_array
from concentrators.models import Command, CommandKind, CommandState, Concentrator
from keyvault.device_keys import epochs
from keyvault.device_keys.commandable import masking, without_aes
from keyvault.models import FleetKey, KeySource
from meters.models import Meter, MeterStatus

OPEN = (CommandState.QUEUED, CommandState.OFFERED, CommandState.DELIVERED)
UNDER_WAY = (CommandState.HELD, *OPEN)  # no second one of the kind is given beside it
NOT_FETCHED = (CommandState.HELD, CommandState.QUEUED)
SYSTEM = "ami-headend"  # the name for commands of the schedule
RETRY_DOUBLINGS = 8  # of COMMAND_RETRY_S, one with each attempt
AT_ONCE = 3  # times that a command is offered again with equal pauses, after it came too late or was not delivered
_EXPIRE_BATCH = 10_000
_NOT_OF_MASKED = (CommandKind.READ_NOW, CommandKind.SET_INTERVAL)


class DownlinkError(ValueError):
    """A command that cannot be given: the caller's mistake, named in the message."""


class CommandRequest(NamedTuple):
    """A command to enqueue.

    READ_NOW and SET_CLOCK take no parameters, RESEND from_s and to_s, SET_INTERVAL interval_minutes and from_s
    (concentrators.commands.capture_period knows which those may be), SET_CONCENTRATOR a title in hex
    (concentrators.commands.concentrator_titles).
    """

    meter: Meter
    kind: CommandKind
    parameters: Mapping[str, Any]


class AnswerKind(Enum):
    """The answers of meters to commands."""

    DONE = "done"
    REFUSED = "refused"
    LATE = "late"  # a set clock command that somebody may have held back


class CommandAnswer(NamedTuple):
    """The answer of a meter to a command, in an authenticated event."""

    meter_id: int
    number: int
    said: AnswerKind


def enqueue(
    requests: Iterable[CommandRequest], created_by: str, now: datetime, expires_at: datetime | None = None
) -> list[Command]:
    """Queue commands other than key commands (``enqueue_keys``). DownlinkError: then none was queued."""
    commands = []
    for request in requests:
        _check_meter(request.meter)
        commands.append(_command(request, _checked(request), created_by, now, expires_at))
    check_takes_commands([command.meter for command in commands])
    _check_masking([command.meter for command in commands if command.kind in _NOT_OF_MASKED])
    return Command.objects.bulk_create(commands)


def enqueue_checked(
    requests: Iterable[CommandRequest], created_by: str, at: datetime, expires_at: datetime
) -> list[Command]:
    """Queue commands, due from a time on, without checking whether the meters take them, or the parameters."""
    return Command.objects.bulk_create(
        _command(request, request.parameters, created_by, at, expires_at) for request in requests
    )


def check_takes_commands(meters: Sequence[Meter]) -> None:
    """DownlinkError if a meter takes no commands, because it has no AES. One query, none without meters."""
    by_title = {bytes(meter.system_title): meter for meter in meters}
    for title in without_aes(by_title) if by_title else ():
        raise DownlinkError(
            f"meter {by_title[title]} takes no commands: it is a DLMS meter, or has no transfer key and no AES"
        )


def _check_masking(meters: Sequence[Meter]) -> None:
    """DownlinkError if a meter masks what it measures: its answer would have to reveal what the masks hide."""
    by_title = {bytes(meter.system_title): meter for meter in meters}
    for title in sorted(masking(by_title)) if by_title else ():
        raise DownlinkError(
            f"meter {by_title[title]} masks what it measures: it says no plain value, and keeps its interval length"
        )


def enqueue_keys(
    meters: Sequence[Meter],
    created_by: str,
    now: datetime,
    algorithm: int | None = None,
    source: FleetKey | KeySource | None = None,
    expires_at: datetime | None = None,
    scheme: str | None = None,
    agreement_key: str | None = None,
) -> list[Command]:
    """Begin a new epoch for each meter (keyvault.device_keys.epochs.begin) and queue the commands with the keys.

    A meter whose pending epoch has an open command already keeps that one. DownlinkError or EpochError: then nothing
    was begun. A fixed number of queries.
    """
    by_title = {bytes(meter.system_title): meter for meter in meters}
    for meter in by_title.values():
        _check_meter(meter)
    with transaction.atomic():
        begun = epochs.begin(list(by_title), algorithm, source, scheme, agreement_key)
        standing = {
            (command.meter_id, command.parameters.get("epoch")): command
            for command in Command.objects.filter(
                meter__in=list(by_title.values()), kind=CommandKind.SET_KEY, state__in=UNDER_WAY
            )
        }
        commands, new = [], []
        for title, epoch in begun.items():
            meter = by_title[title]
            command = standing.get((meter.pk, epoch))
            if command is None:
                request = CommandRequest(meter, CommandKind.SET_KEY, {"epoch": epoch})
                command = _command(request, request.parameters, created_by, now, expires_at)
                new.append(command)
            commands.append(command)
        Command.objects.bulk_create(new)
    return commands


def cancel(numbers: Collection[int], now: datetime) -> int:
    """Cancel commands that no concentrator has fetched, and the pending keys of key commands; return how many.

    The meter may already have a command that was fetched: it continues until it is answered or expires. Keys are locked
    before commands, as verification does; rows that others have locked are being fetched or answered, and skipped.
    """
    with transaction.atomic():
        keys = Command.objects.filter(pk__in=numbers, state__in=NOT_FETCHED, kind=CommandKind.SET_KEY)
        epochs.lock_pending(list(map(bytes, keys.values_list("meter__system_title", flat=True))))
        queued = list(
            Command.objects.select_for_update(of=("self",), skip_locked=True)
            .select_related("meter")
            .filter(pk__in=numbers, state__in=NOT_FETCHED)
            .order_by("pk")
        )
        epochs.cancel([bytes(row.meter.system_title) for row in queued if row.kind == CommandKind.SET_KEY])
        return Command.objects.filter(pk__in=[row.pk for row in queued]).update(
            state=CommandState.CANCELLED, ended_at=now
        )


def expire(now: datetime) -> int:
    """End the commands whose time is over; return how many. A late answer of the meter still counts."""
    overdue = Command.objects.filter(state__in=OPEN, expires_at__lte=now).order_by("expires_at")
    expired = 0
    while True:
        ids = list(overdue.values_list("pk", flat=True)[:_EXPIRE_BATCH])
        expired += Command.objects.filter(pk__in=ids, state__in=OPEN).update(state=CommandState.EXPIRED, ended_at=now)
        if len(ids) < _EXPIRE_BATCH:
            return expired


def replace_worn_keys(limit: int, now: datetime) -> int:
    """Begin new keys for keys near their safe number of frames, at most ``limit``; return how many meters got one.

    A meter that did not get its key in time, or refused it, gets another command after a day. A concentrator fetches
    its next key itself.
    """
    asked = Command.objects.filter(meter=OuterRef("pk"), kind=CommandKind.SET_KEY).filter(
        Q(state__in=UNDER_WAY) | Q(created_at__range=(now - timedelta(days=1), now + clock.DIFFERENCE_MAX))
    )
    meters: list[Meter] = []
    for titles in epochs.near_budget(limit):
        meters += Meter.objects.filter(~Exists(asked), system_title__in=titles, status=MeterStatus.COMMISSIONED)
        holders = Concentrator.objects.filter(system_title__in=titles).values_list("system_title", flat=True)
        epochs.begin([bytes(title or b"") for title in holders])
        if len(meters) >= limit:
            break
    return len(enqueue_keys(meters[:limit], SYSTEM, now)) if meters else 0


def keys_arrived(keys: Sequence[tuple[int, int]], now: datetime) -> None:
    """End the commands that brought new keys, (meter id, epoch) each, under which frames were accepted."""
    execute(
        """UPDATE concentrators_command c SET state = 'done', ended_at = %s
           FROM unnest(%s::int[], %s::int[]) AS n(meter_id, epoch)
           WHERE c.meter_id = n.meter_id AND c.kind = %s AND (c.parameters->>'epoch')::int = n.epoch
             AND c.state IN ('queued', 'offered', 'delivered', 'expired')""",
        now,
        int_array(meter_id for meter_id, _ in keys),
        int_array(epoch for _, epoch in keys),
        CommandKind.SET_KEY.value,
    )


def answered(answers: Sequence[CommandAnswer], now: datetime) -> None:
    """Record answers of meters: their commands end, also expired ones; a command that came too late is offered again.

    The number of a command to another meter changes nothing, nor that of a command which never left. Only a frame under
    a new key proves that it arrived (``keys_arrived``).
    """
    late = [answer for answer in answers if answer.said is AnswerKind.LATE]
    if late:
        _come_late(late, now)
    if len(late) < len(answers):
        _end([answer for answer in answers if answer.said is not AnswerKind.LATE], now)


def _end(answers: Sequence[CommandAnswer], now: datetime) -> None:
    execute(
        """UPDATE concentrators_command c
           SET state = CASE WHEN n.done THEN 'done' ELSE 'refused' END, ended_at = %s
           FROM unnest(%s::int[], %s::bigint[], %s::bool[]) AS n(meter_id, number, done)
           WHERE c.id = n.number AND c.meter_id = n.meter_id AND NOT (c.kind = %s AND n.done)
             AND c.state IN ('offered', 'delivered', 'expired')""",
        now,
        int_array(answer.meter_id for answer in answers),
        int_array(answer.number for answer in answers),
        "{" + ",".join("t" if answer.said is AnswerKind.DONE else "f" for answer in answers) + "}",
        CommandKind.SET_KEY.value,
    )


def _come_late(answers: Sequence[CommandAnswer], now: datetime) -> None:
    """Offer set clock commands that came too late again at once, to any concentrator; later if that repeats."""
    execute(
        """UPDATE concentrators_command c
           SET late_answers = least(c.late_answers + 1, 32767), next_attempt_at = n.at, elsewhere_attempt_at = n.at
           FROM (SELECT d.id, %s + make_interval(secs => CASE WHEN d.late_answers < %s THEN 0
                         ELSE %s * 2 ^ least(d.late_answers - %s, %s) END) AS at
                 FROM concentrators_command d
                 JOIN unnest(%s::int[], %s::bigint[]) AS a(meter_id, number)
                      ON d.id = a.number AND d.meter_id = a.meter_id) AS n
           WHERE c.id = n.id AND c.kind = %s AND c.state IN ('offered', 'delivered')""",
        now,
        AT_ONCE,
        settings.COMMAND_RETRY_S,
        AT_ONCE,
        RETRY_DOUBLINGS,
        int_array(answer.meter_id for answer in answers),
        int_array(answer.number for answer in answers),
        CommandKind.SET_CLOCK.value,
    )


def _command(
    request: CommandRequest, parameters: Mapping[str, Any], created_by: str, now: datetime, expires_at: datetime | None
) -> Command:
    return Command(
        meter=request.meter,
        kind=request.kind,
        parameters=dict(parameters),
        created_by=created_by,
        next_attempt_at=now,
        elsewhere_attempt_at=now + timedelta(seconds=settings.COMMAND_RETRY_S),
        expires_at=expires_at or now + timedelta(seconds=settings.COMMAND_EXPIRES_S),
    )


def _check_meter(meter: Meter) -> None:
    if meter.status != MeterStatus.COMMISSIONED:
        raise DownlinkError(f"meter {meter} is {meter.status}: commands go to meters in service")


def _checked(request: CommandRequest) -> dict[str, int]:
    """Check that a command has the parameters of its kind, and no others; return them."""
    match request.kind:
        case CommandKind.READ_NOW | CommandKind.SET_CLOCK:
            names: tuple[str, ...] = ()
        case CommandKind.RESEND:
            names = ("from_s", "to_s")
        case CommandKind.SET_INTERVAL:
            names = ("interval_minutes", "from_s")
        case _:
            raise DownlinkError(f"a command {request.kind.label!r} cannot be given this way")
    given = dict(request.parameters)
    if set(given) != set(names) or not all(type(value) is int for value in given.values()):
        raise DownlinkError(f"a command {request.kind.label!r} takes {', '.join(names) or 'no parameters'}")
    if request.kind is CommandKind.RESEND and not 0 <= given["from_s"] < given["to_s"] < 2**40:
        raise DownlinkError("a resend goes from a time to a later one")
    return given
