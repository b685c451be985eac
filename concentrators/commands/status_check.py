"""Ask meters that are out for a reading at once: who answers has power. Bounded, and audited as one act."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import transaction

from concentrators.commands import guard, queue
from concentrators.commands.queue import UNDER_WAY, CommandRequest, DownlinkError
from concentrators.fleet import outages
from concentrators.fleet.outages import MeterOutage
from concentrators.models import Command, CommandKind
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys.commandable import masking, without_aes
from keyvault.models import Approval
from meters.models import Meter
from meters.registry import site_codes

MOST = 1_000  # meters of one check


class StatusCheck(NamedTuple):
    """Of the meters that are out: how many are asked, were asked before, were heard since, or take no such command.

    ``left`` are more than one check may ask: check again for the next ones.
    """

    asked: int
    asked_before: int
    heard: int
    cannot: int
    left: int
    approval: Approval | None = None  # that the commands wait for, if they are held


def check(
    concentrator_id: int | None,
    actor: Actor,
    now: datetime,
    most: int = MOST,
    group_ids: Sequence[int] | None = None,
) -> StatusCheck:
    """Order a reading from meters that are out, of a concentrator, of groups, or all; those out for longest first.

    Those that were heard since, or have such a command already, are not asked. DownlinkError if nobody is out;
    AuditError or MasterKeyError: then no meter is asked.
    """
    with transaction.atomic():
        found = outages.meters_out(site_codes.events(), now, concentrator_id, group_ids=group_ids)
        if not found:
            raise DownlinkError("no meter is out")
        silent = [one for one in found if one.heard_at is None]
        askable, cannot = _askable(silent)
        before = set(
            Command.objects.filter(
                meter__in=[one.meter_id for one in askable], kind=CommandKind.READ_NOW, state__in=UNDER_WAY
            ).values_list("meter_id", flat=True)
        )
        wanted = [one for one in askable if one.meter_id not in before]
        now_asked = wanted[:most]
        result = StatusCheck(
            len(now_asked), len(before), len(found) - len(silent), cannot, len(wanted) - len(now_asked)
        )
        if now_asked:
            meters = Meter.objects.in_bulk([one.meter_id for one in now_asked])
            given = queue.enqueue(
                [CommandRequest(one, CommandKind.READ_NOW, {}) for one in meters.values()], actor.name, now
            )
            result = result._replace(approval=guard.hold_what_is_beyond(given, actor, now))
            subject: dict[str, Any] = {"concentrator": concentrator_id, "meters": result.asked, "left": result.left}
            if group_ids is not None:
                subject["groups"] = list(group_ids)
            chain.record(actor, "outage.check", subject, f"{result.asked} {'held' if result.approval else 'queued'}")
    return result


def _askable(found: list[MeterOutage]) -> tuple[list[MeterOutage], int]:
    """Return the meters that take the command, and how many do not: without AES, or masking what they measure."""
    titles = {one.system_title for one in found}
    deaf = {*without_aes(titles), *masking(titles)} if titles else set()
    askable = [one for one in found if one.system_title not in deaf]
    return askable, len(found) - len(askable)
