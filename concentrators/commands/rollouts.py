"""Rollouts (rotation waves): new device keys for many meters, at a limited rate, stopped by a failure budget.

The meters of a wave are chosen at its beginning. Once a minute a step queues key commands for the next meters. Its
state is in the database: a lost step, or a worker that died, costs a minute.
"""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import transaction
from django.db.models import Count, Exists, OuterRef, QuerySet

from ami_headend.core import clock
from ami_headend.core.text import counted
from concentrators.commands import concentrator_titles, guard, queue
from concentrators.commands.queue import OPEN, UNDER_WAY, DownlinkError
from concentrators.fleet.selection import Selection
from concentrators.models import Command, CommandKind, CommandState, RotationWave, WaveMeter, WaveState
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import agreement_keys, fleet_keys
from keyvault.device_keys.epochs import LAST_EPOCH, EpochError
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.models import DeviceKey, FleetKey, KeyState
from keyvault.schemes.table import (
    HOP,
    SchemeError,
    algorithm_for,
    check_for_commands,
    needs_agreement_key,
    new_algorithm_choices,
)
from meters.models import Meter

logger = logging.getLogger(__name__)

AGE_MAX_DAYS = 36_500
NUMBER_MAX = 2**31 - 1  # of commands: the largest value of the column
_FAILED = (CommandState.REFUSED, CommandState.EXPIRED)
_UNDER_WAY = (WaveState.HELD, WaveState.RUNNING, WaveState.PAUSED, WaveState.STOPPED)
_BATCH = 10_000


class WaveError(ValueError):
    """A wave that cannot be begun or changed as asked: the caller's mistake, named in the message."""


class RolloutProgress(NamedTuple):
    """Progress of a rollout: its meters, those without a command yet, and its commands by state."""

    meters: int
    waiting: int
    states: dict[str, int]

    @property
    def failures(self) -> int:
        return sum(self.states.get(state, 0) for state in _FAILED)

    @property
    def open(self) -> int:
        return sum(self.states.get(state, 0) for state in OPEN)


def selected(selection: Selection, now: datetime) -> QuerySet[Meter]:
    """Return the meters of a selection that can get a new key now.

    Left out are meters not in service, without a usable transfer key or a first key, and those for which a key command
    or another wave is under way. WaveError for an empty selection.
    """
    if selection.says_nothing:
        raise WaveError("say which meters: by title, concentrator, age, fleet key, compromise, or all of them")
    if selection.older_than_days is not None and not 0 <= selection.older_than_days <= AGE_MAX_DAYS:
        raise WaveError(f"the age of a key is 0 to {AGE_MAX_DAYS:,} days")
    keys = DeviceKey.objects.filter(system_title=OuterRef("system_title"))
    own = keys.filter(epoch__gt=0)
    return selection.meters(now).filter(
        Exists(keys.filter(epoch=0, state=KeyState.ACTIVE)),
        Exists(own),
        ~Exists(own.filter(epoch=LAST_EPOCH)),
        ~Exists(Command.objects.filter(meter=OuterRef("pk"), kind=CommandKind.SET_KEY, state__in=UNDER_WAY)),
        ~Exists(WaveMeter.objects.filter(meter=OuterRef("pk"), command=None, wave__state__in=_UNDER_WAY)),
    )


def begin(
    name: str,
    selection: Selection,
    actor: Actor,
    now: datetime,
    rate_per_hour: int,
    failure_budget: int,
    algorithm: int | None = None,
    fleet_key: FleetKey | None = None,
    scheme: str | None = None,
    agreement_key: str | None = None,
) -> RotationWave:
    """Begin a wave for the meters that are selected now; audited. WaveError if there are none, or for a wrong number.

    A wave beyond the account's limits is held: it begins when a second person releases it.

    New keys are derived from ``fleet_key``, or have the source of each old key. ``scheme`` and ``agreement_key`` None
    keep those of each old key. Meters that cannot get such a key when their turn comes are left out.
    """
    if not name.strip() or len(name) > 120:
        raise WaveError("a wave has a name of up to 120 characters")
    if not 1 <= rate_per_hour <= NUMBER_MAX:
        raise WaveError(f"a wave queues at least 1 command an hour, and at most {NUMBER_MAX:,}")
    _check_budget(failure_budget)
    _check_keys(algorithm, scheme, agreement_key)
    with transaction.atomic():
        meter_ids = list(selected(selection, now).values_list("pk", flat=True))
        if not meter_ids:
            raise WaveError("no meter that can get a new key now is among them")
        what = f"give new keys to {counted(len(meter_ids), 'meter')} (wave {name!r})"
        try:
            approval = guard.admit(actor, CommandKind.SET_KEY, len(meter_ids), what, now)
        except DownlinkError as error:
            raise WaveError(str(error)) from None
        wave = RotationWave.objects.create(
            name=name,
            rate_per_hour=rate_per_hour,
            failure_budget=failure_budget,
            algorithm=algorithm,
            fleet_key=fleet_key,
            scheme=scheme or "",
            agreement_key=agreement_key or "",
            created_by=actor.name[:150],
            approval=approval,
            state=WaveState.RUNNING if approval is None else WaveState.HELD,
        )
        rows = (WaveMeter(wave=wave, meter_id=meter_id) for meter_id in meter_ids)
        WaveMeter.objects.bulk_create(rows, batch_size=_BATCH)
        subject = {
            "wave": wave.pk,
            "name": name,
            "meters": len(meter_ids),
            "rate_per_hour": rate_per_hour,
            "fleet_key": None if fleet_key is None else fleet_key.name,
            "scheme": scheme,
            "agreement_key": agreement_key,
        }
        chain.record(actor, "device_key.rotate", subject, "begun" if approval is None else "held")
    return wave


def replace_fleet_key(
    old: FleetKey, new_name: str, actor: Actor, now: datetime, rate_per_hour: int, failure_budget: int
) -> RotationWave:
    """Make a new fleet key, and begin a wave that derives new keys from it for every device of the old one.

    All or nothing. WaveError as in ``begin``, ProvisioningError for a bad or taken name, MasterKeyError.
    """
    selection = Selection(derived_from=old)
    if not selected(selection, now).exists():
        raise WaveError(f"no meter that can get a new key now has one derived from fleet key {old}")
    with transaction.atomic():
        new = fleet_keys.make(new_name, actor)
        name = f"fleet key {old.name} to {new_name}"[:120]
        return begin(name, selection, actor, now, rate_per_hour, failure_budget, fleet_key=new)


def progress(wave: RotationWave) -> RolloutProgress:
    """Return the progress of a wave."""
    return progresses([wave])[wave.pk]


def progresses(found: Sequence[RotationWave]) -> dict[int, RolloutProgress]:
    """Return the progress of waves by id; one query."""
    states: dict[int, Counter[str | None]] = {wave.pk: Counter() for wave in found}
    rows = WaveMeter.objects.filter(wave__in=found).values_list("wave", "command__state").annotate(number=Count("pk"))
    for wave_id, state, number in rows:
        states[wave_id][state] = number
    return {
        wave_id: RolloutProgress(counted.total(), counted[None], {s: n for s, n in counted.items() if s is not None})
        for wave_id, counted in states.items()
    }


def step(now: datetime) -> int:
    """Do one step of every running wave; return how many key commands were queued.

    A wave whose fleet key does not open waits until that is repaired, and delays no other wave.
    """
    queued = 0
    for wave_id in RotationWave.objects.filter(state=WaveState.RUNNING).order_by("pk").values_list("pk", flat=True):
        try:
            queued += _step(wave_id, now)
        except ProvisioningError as error:
            logger.error("rotation wave %s does not go on: %s", wave_id, error)
    return queued


def pause(wave_id: int, actor: Actor) -> RotationWave:
    """Pause a wave: it queues no more commands; queued ones continue. Audited."""
    return _move(wave_id, [WaveState.RUNNING], WaveState.PAUSED, actor)


def resume(wave_id: int, actor: Actor, failure_budget: int | None = None) -> RotationWave:
    """Resume a wave that was paused, or that failures stopped, with a higher budget. Audited."""
    with transaction.atomic():
        wave = _move(wave_id, [WaveState.PAUSED, WaveState.STOPPED], WaveState.RUNNING, actor)
        if failure_budget is not None:
            _check_budget(failure_budget)
            wave.failure_budget = failure_budget
            wave.save(update_fields=["failure_budget"])
        failures = progress(wave).failures
        if failures > wave.failure_budget:
            raise WaveError(f"wave {wave_id} has {counted(failures, 'failure')}: its budget must be {failures} or more")
    return wave


def cancel(wave_id: int, actor: Actor, now: datetime) -> RotationWave:
    """Cancel a wave: its commands that no concentrator has fetched, with their pending keys. Audited."""
    with transaction.atomic():
        wave = _move(wave_id, list(_UNDER_WAY), WaveState.CANCELLED, actor, now)
        queued = Command.objects.filter(wave_meter__wave=wave, state=CommandState.QUEUED)
        queue.cancel(list(queued.values_list("pk", flat=True)), now)
    return wave


def _check_budget(failure_budget: int) -> None:
    if not 0 <= failure_budget <= NUMBER_MAX:
        raise WaveError(f"a failure budget is 0 to {NUMBER_MAX:,} commands")


def _check_keys(algorithm: int | None, scheme: str | None, agreement_key: str | None) -> None:
    """WaveError where there can be no keys of such an algorithm and scheme, or no agreement key to go with them."""
    try:
        if scheme is not None:
            check_for_commands(scheme)
            algorithm_for(scheme, algorithm)
        if agreement_key is not None or (scheme is not None and needs_agreement_key(scheme)):
            agreement_keys.active(agreement_key)
    except (SchemeError, ProvisioningError) as error:
        raise WaveError(str(error)) from None
    if scheme is None and algorithm is not None and algorithm not in dict(new_algorithm_choices()):
        names = ", ".join(f"{name} ({alg})" for alg, name in new_algorithm_choices())
        raise WaveError(f"algorithm {algorithm} is not one of {names}")


def _step(wave_id: int, now: datetime) -> int:
    with transaction.atomic():
        wave = (
            RotationWave.objects.select_for_update(skip_locked=True).filter(pk=wave_id, state=WaveState.RUNNING).first()
        )
        if wave is None:
            return 0
        standing = progress(wave)
        if standing.failures > wave.failure_budget:
            _end(wave, WaveState.STOPPED)
            logger.warning("rotation wave %s stops: %d commands failed", wave.pk, standing.failures)
            return 0
        if not standing.waiting:
            if not standing.open:
                _end(wave, WaveState.FINISHED, now)
                logger.info("rotation wave %s is finished", wave.pk)
            return 0
        return _queue_next(wave, _allowed(wave, now), now)


def _allowed(wave: RotationWave, now: datetime) -> int:
    """Return how many commands may be queued in this minute, so that no hour exceeds the rate."""
    within_hour = (now - timedelta(hours=1), now + clock.DIFFERENCE_MAX)
    hour = Command.objects.filter(wave_meter__wave=wave, created_at__range=within_hour).count()
    return min(math.ceil(wave.rate_per_hour / 60), wave.rate_per_hour - hour)


def _queue_next(wave: RotationWave, number: int, now: datetime) -> int:
    if number <= 0:
        return 0
    turns = list(WaveMeter.objects.filter(wave=wave, command=None).select_related("meter").order_by("pk")[:number])
    meters = [turn.meter for turn in turns]
    if wave.scheme == HOP:
        meters = _with_concentrators(wave, meters, now)
    given = {command.meter_id: command for command in _give(wave, meters, now)}
    # If another wave has given a command meanwhile, this one has nothing to do for the meter.
    taken = set(WaveMeter.objects.filter(command__in=list(given.values())).values_list("command_id", flat=True))
    mine = []
    for turn in turns:
        command = given.get(turn.meter_id)
        if command is not None and command.pk not in taken:
            turn.command = command
            mine.append(turn)
    WaveMeter.objects.bulk_update(mine, ["command"])
    WaveMeter.objects.filter(pk__in=[turn.pk for turn in turns if turn.command is None]).delete()
    return len(mine)


def _with_concentrators(wave: RotationWave, meters: Sequence[Meter], now: datetime) -> list[Meter]:
    """Return the meters whose concentrator has a system title, and tell it to them again.

    Without a title a meter of scheme hop would wait, and its readings.
    """
    homes = concentrator_titles.homes([meter.pk for meter in meters], now)
    for meter in meters:
        if meter.pk not in homes:
            logger.warning("rotation wave %s leaves out meter %s: its concentrator has no system title", wave.pk, meter)
    concentrator_titles.tell(homes, now, now, f"wave {wave.pk}")
    return [meter for meter in meters if meter.pk in homes]


def _give(wave: RotationWave, meters: Sequence[Meter], now: datetime) -> list[Command]:
    """Queue key commands for meters together; if one cannot get a key any more, one by one without it."""
    by = f"wave {wave.pk}"
    try:
        with transaction.atomic():
            scheme, agreement_key = wave.scheme or None, wave.agreement_key or None
            return queue.enqueue_keys(
                meters, by, now, wave.algorithm, wave.fleet_key, scheme=scheme, agreement_key=agreement_key
            )
    except (DownlinkError, EpochError) as error:
        if len(meters) == 1:
            logger.warning("rotation wave %s leaves out meter %s: %s", wave.pk, meters[0], error)
            return []
    middle = len(meters) // 2
    return _give(wave, meters[:middle], now) + _give(wave, meters[middle:], now)


def _end(wave: RotationWave, state: WaveState, now: datetime | None = None) -> None:
    RotationWave.objects.filter(pk=wave.pk).update(state=state, finished_at=now)


def _move(
    wave_id: int, before: Sequence[WaveState], after: WaveState, actor: Actor, ended_at: datetime | None = None
) -> RotationWave:
    with transaction.atomic():
        wave = RotationWave.objects.select_for_update().filter(pk=wave_id).first()
        if wave is None:
            raise WaveError(f"there is no rotation wave {wave_id}")
        if wave.state not in before:
            raise WaveError(f"rotation wave {wave_id} is {wave.state}: it cannot become {after.value}")
        wave.state, wave.finished_at = after, ended_at
        wave.save(update_fields=["state", "finished_at"])
        chain.record(actor, "device_key.rotate", {"wave": wave.pk, "name": wave.name}, after.value)
    return wave
