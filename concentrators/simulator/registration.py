"""Entering a run into the head-end: concentrators and tokens, meters, their keys and assignments."""

from datetime import UTC, datetime

from django.db import transaction

from concentrators.fleet import assignments, registry, tokens
from concentrators.models import Concentrator
from concentrators.simulator.obedience import FIRST_EPOCH
from concentrators.simulator.plan import Plan
from keyvault.device_keys.provisioning import (
    TRANSFER_EPOCH,
    NewKey,
    create_fleet_key,
    provision_derived,
    provision_stored,
    set_key_state,
)
from keyvault.models import DeviceKey, KeyState
from meters.models import Meter, MeterStatus


def register(plan: Plan, secret: bytes) -> list[str]:
    """Enter all that the plan needs, all or nothing; gives the concentrators' tokens, in order.

    The meters' keys go into the vault, as those of a manufacturer's delivery would.
    """
    start = _time(plan.start_s)
    with transaction.atomic():
        concentrators = [Concentrator(name=concentrator_name(plan, number)) for number in range(plan.concentrators)]
        for concentrator in concentrators:
            registry.save(concentrator)
        issued = [tokens.issue(concentrator, "simulator") for concentrator in concentrators]
        numbers = [*range(len(plan.meters)), *plan.ghosts.values()]
        meters = Meter.objects.bulk_create([_meter(plan, number, start) for number in numbers], batch_size=5_000)
        provision_stored(
            NewKey(plan.system_title(number), epoch, key)
            for number in numbers
            for epoch, key in (
                (TRANSFER_EPOCH, plan.transfer_key(secret, number)),
                (FIRST_EPOCH, plan.device_key(secret, number)),
            )
            if epoch == TRANSFER_EPOCH or not plan.is_derived(number)
        )
        if plan.derived_every:
            fleet_key = create_fleet_key(f"sim-{plan.run}", plan.fleet_key(secret))
            provision_derived(
                fleet_key, [NewKey(plan.system_title(n), FIRST_EPOCH) for n in numbers if plan.is_derived(n)]
            )
        ids = [concentrator.pk for concentrator in concentrators]
        genuine = list(enumerate(meters[: len(plan.meters)]))
        assignments.assign([(meter.pk, ids[plan.home_of(number)]) for number, meter in genuine], start)
        if plan.moved_at_s is not None:
            moved_at_s = plan.moved_at_s
            moves = [(m.pk, ids[plan.assigned_to(n, moved_at_s)]) for n, m in genuine if plan.moves(n)]
            assignments.assign(moves, _time(moved_at_s))
        _make_ghosts(plan)
    return issued


def is_registered(plan: Plan) -> bool:
    """Whether this database is the one that the run was entered into."""
    names = [concentrator_name(plan, number) for number in range(plan.concentrators)]
    return Concentrator.objects.filter(name__in=names).count() == plan.concentrators


def concentrator_name(plan: Plan, number: int) -> str:
    return f"sim-{plan.run} concentrator {number + 1}"


def _meter(plan: Plan, number: int, commissioned_at: datetime) -> Meter:
    ghosts = {ghost: kind for kind, ghost in plan.ghosts.items()}
    name = ghosts.get(number) or plan.meters[number]
    return Meter(
        system_title=plan.system_title(number),
        serial_number=f"sim-{plan.run}-{name}",
        name=f"Simulated meter {name}",
        interval_minutes=plan.interval_of(number),
        commissioned_at=commissioned_at,
    )


def _make_ghosts(plan: Plan) -> None:
    """One meter is suspended, and of one the key is retired, before they ever send."""
    suspended, retired = plan.ghosts.get("suspended"), plan.ghosts.get("retired_key")
    if suspended is not None:
        Meter.objects.filter(system_title=plan.system_title(suspended)).update(status=MeterStatus.SUSPENDED)
    if retired is not None:
        keys = DeviceKey.objects.filter(system_title=plan.system_title(retired), epoch=FIRST_EPOCH)
        set_key_state(list(keys.values_list("pk", flat=True)), KeyState.RETIRED)


def _time(unix_s: int) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
