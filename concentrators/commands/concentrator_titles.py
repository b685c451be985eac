"""Tells meters the system title of their concentrator (command 7), from which they derive their hop keys.

A meter waits for this command if its concentrator opens its frames, or checks their hop tags. Nobody can read or check
a frame that it seals for a different concentrator.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from django.conf import settings

from concentrators.commands import queue
from concentrators.commands.queue import CommandRequest, DownlinkError
from concentrators.models import Assignment, Command, CommandKind, CommandState, Concentrator
from keyvault.device_keys.commandable import without_aes
from meters.models import Meter, MeterStatus

_LISTED = 10_000


def tell(homes: Mapping[int, int], at: datetime, now: datetime, created_by: str = queue.SYSTEM) -> list[Command]:
    """Queue the command for meters (by id) of concentrators (by id) from a time on; it does not leave sooner.

    Concentrators without a system title are skipped, and meters that are not in service or take no commands. Earlier
    commands of this kind are cancelled, also those that were fetched: a meter that moved on need not answer them. A
    fixed number of queries; one if no concentrator has a title.
    """
    concentrators = Concentrator.objects.filter(pk__in=set(homes.values()), system_title__isnull=False)
    titles = {pk: bytes(title or b"") for pk, title in concentrators.values_list("pk", "system_title")}
    wanted = {meter_id: titles[home] for meter_id, home in homes.items() if home in titles}
    if not wanted:
        return []
    meters = Meter.objects.filter(pk__in=wanted, status=MeterStatus.COMMISSIONED).order_by("pk")
    by_title = {bytes(meter.system_title): meter for meter in meters}
    deaf = without_aes(by_title)
    told = [meter for title, meter in by_title.items() if title not in deaf]
    before = Command.objects.filter(meter__in=told, kind=CommandKind.SET_CONCENTRATOR, state__in=queue.UNDER_WAY)
    before.update(state=CommandState.CANCELLED, ended_at=now)
    start = max(at, now)
    requests = [
        CommandRequest(meter, CommandKind.SET_CONCENTRATOR, {"title": wanted[meter.pk].hex()}) for meter in told
    ]
    return queue.enqueue_checked(requests, created_by, start, start + timedelta(seconds=settings.COMMAND_EXPIRES_S))


def tell_again(meter: Meter, now: datetime, created_by: str) -> list[Command]:
    """Tell a meter the title of its present concentrator; DownlinkError if that has none."""
    given = tell(homes([meter.pk], now), now, now, created_by)
    if not given:
        raise DownlinkError(
            f"meter {meter} is not assigned to a concentrator with a system title, or takes no commands"
        )
    return given


def homes(meter_ids: Collection[int], now: datetime) -> dict[int, int]:
    """Return the present concentrator (by id) of each meter (by id), if it has a system title."""
    holding = Assignment.objects.filter(
        meter__in=meter_ids, valid_from__lte=now, concentrator__system_title__isnull=False
    ).exclude(valid_to__lte=now)
    return dict(holding.values_list("meter", "concentrator"))


def tell_all_of(concentrator: Concentrator, now: datetime, created_by: str = queue.SYSTEM) -> int:
    """Tell the meters of a concentrator its new title; return how many."""
    holding = Assignment.objects.filter(concentrator=concentrator, valid_from__lte=now).exclude(valid_to__lte=now)
    meter_ids = list(holding.order_by("meter").values_list("meter", flat=True))
    told = 0
    for first in range(0, len(meter_ids), _LISTED):
        some = dict.fromkeys(meter_ids[first : first + _LISTED], concentrator.pk)
        told += len(tell(some, now, now, created_by))
    return told
