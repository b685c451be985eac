"""Commands of an operator to one meter, or to several; each act is audited where it queues the commands."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from django.db import transaction

from concentrators.commands import capture_period, concentrator_titles, gap_recovery, guard, queue
from concentrators.commands.queue import CommandRequest, DownlinkError
from concentrators.models import Command, CommandKind, CommandState
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys.epochs import EpochError
from keyvault.schemes.table import HOP
from meters.models import Meter, Register
from meters.readings.obis import LOAD_PROFILE


@dataclass(frozen=True)
class OperatorOrder:
    """An order of an operator to a meter.

    SET_KEY may take the ``scheme`` and COSE ``algorithm`` of the new key, and the name of the ``agreement_key`` that it
    goes with; each None: as the meter's last key. RESEND takes ``start`` and ``end``, and may take an interval
    ``register`` (else the load profile); SET_INTERVAL takes ``interval_minutes``, and may take ``start``. The other
    kinds take nothing.
    """

    kind: CommandKind
    start: datetime | None = None
    end: datetime | None = None
    register: Register | None = None
    interval_minutes: int | None = None
    scheme: str | None = None
    algorithm: int | None = None
    agreement_key: str | None = None


def give(meter: Meter, order: OperatorOrder, actor: Actor, now: datetime) -> list[Command]:
    """Queue the commands of an order: one, or for a resend one for each gap. Beyond the account's limits: held.

    Raises DownlinkError, IntervalError, EpochError, SchemeError, AgreementKeyError or GapsError (the caller's mistake,
    named), MasterKeyError, AuditError or ProvisioningError (a fleet key does not open): then none was queued.
    """
    with transaction.atomic():
        standing = _under_way([meter])
        given = _queue(meter, order, actor.name, now)
        guard.hold_what_is_beyond([command for command in given if command.pk not in standing], actor, now)
        subject: dict[str, Any] = {
            "device": bytes(meter.system_title).hex(),
            "commands": [command.pk for command in given],
        }
        if order.scheme is not None:
            subject["scheme"] = order.scheme
        chain.record(actor, f"command.{order.kind.name.lower()}", subject, _result(given))
    return given


class GivenToMany(NamedTuple):
    """The commands of an order to many meters, and the meters that cannot get it, with the reasons."""

    commands: list[Command]
    refused: list[tuple[Meter, str]]


def give_to_many(meters: Sequence[Meter], order: OperatorOrder, actor: Actor, now: datetime) -> GivenToMany:
    """Queue the commands of an order to meters that can get it, as one act: of limits, and of the audit chain.

    DownlinkError, MasterKeyError or AuditError: then none was queued.
    """
    given = GivenToMany([], [])
    with transaction.atomic():
        standing = _under_way(meters)
        for meter in meters:
            try:
                with transaction.atomic():
                    found = _queue(meter, order, actor.name, now)
            except (DownlinkError, EpochError) as error:
                given.refused.append((meter, str(error)))
            else:
                given.commands.extend(command for command in found if command.pk not in standing)
        if given.commands:
            guard.hold_what_is_beyond(given.commands, actor, now)
            devices = sorted({bytes(command.meter.system_title).hex() for command in given.commands})
            subject = {"devices": devices, "commands": [command.pk for command in given.commands]}
            chain.record(actor, f"command.{order.kind.name.lower()}", subject, _result(given.commands))
    return given


def cancel(command: Command, actor: Actor, now: datetime) -> bool:
    """Cancel a command; return False if a concentrator has fetched it, or it has ended."""
    with transaction.atomic():
        if not queue.cancel([command.pk], now):
            return False
        subject = {"device": bytes(command.meter.system_title).hex(), "commands": [command.pk]}
        chain.record(actor, "command.cancel", subject)
    return True


def _under_way(meters: Sequence[Meter]) -> set[int]:
    rows = Command.objects.filter(meter__in=meters, state__in=queue.UNDER_WAY)
    return set(rows.values_list("pk", flat=True))


def _result(given: Sequence[Command]) -> str:
    return f"{len(given)} {'held' if any(one.state == CommandState.HELD for one in given) else 'queued'}"


def _queue(meter: Meter, order: OperatorOrder, by: str, now: datetime) -> list[Command]:
    match order.kind:
        case CommandKind.SET_KEY:
            return _new_key(meter, order, by, now)
        case CommandKind.RESEND if order.start is not None and order.end is not None:
            register = order.register or Register.objects.get(obis_code=LOAD_PROFILE)
            queue.check_takes_commands([meter])
            return gap_recovery.ask_one(meter, register, order.start, order.end, by, now)
        case CommandKind.SET_CONCENTRATOR:
            return concentrator_titles.tell_again(meter, now, by)
        case CommandKind.SET_INTERVAL if order.interval_minutes is not None:
            return capture_period.enqueue([meter], order.interval_minutes, order.start, by, now)
    return queue.enqueue([CommandRequest(meter, order.kind, {})], by, now)


def _new_key(meter: Meter, order: OperatorOrder, by: str, now: datetime) -> list[Command]:
    if order.scheme == HOP:  # without the title of its concentrator the meter would wait, and its readings
        concentrator_titles.tell_again(meter, now, by)
    return queue.enqueue_keys([meter], by, now, order.algorithm, scheme=order.scheme, agreement_key=order.agreement_key)
