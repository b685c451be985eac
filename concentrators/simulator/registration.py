"""Registers a run in the head-end: concentrators and tokens, meters, their keys and assignments."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from django.db import transaction
from django.utils import timezone

from concentrators.fleet import assignments, registry, tokens
from concentrators.models import Concentrator
from concentrators.simulator.enrolling import revoked_certificate
from concentrators.simulator.factory import AGREEMENT_KEY, Factory
from concentrators.simulator.keys import FIRST_EPOCH, TRANSFER_EPOCH, envelope_of
from concentrators.simulator.mask_authorities import MadeAuthority
from concentrators.simulator.masks import does_mask
from concentrators.simulator.plan import Plan
from concentrators.simulator.push_registration import register_forms
from keyvault.audit.chain import Actor
from keyvault.coupons import identities
from keyvault.device_keys import agreement_keys
from keyvault.device_keys.agreement_keys import AgreementKeyError
from keyvault.device_keys.key_rows import set_key_state
from keyvault.device_keys.provisioning import (
    NewKey,
    create_fleet_key,
    provision_agreed,
    provision_derived,
    provision_pending,
    provision_stored,
)
from keyvault.enrolment import authorities
from keyvault.enrolment.authorities import PublicAuthority
from keyvault.enrolment.certificates import parse_certificate, revoke
from keyvault.masking import pinned
from keyvault.masking.pinned import MaskAuthorityToPin
from keyvault.models import AgreementKey, DeviceKey, KeyState
from keyvault.schemes.table import CONCENTRATOR
from meters.models import Meter, MeterStatus

_ACTOR = Actor("simulator", "manage.py simulate")


class Registered(NamedTuple):
    """What a run gets from the head-end: the concentrators' tokens, in order, and its public key in hexadecimal."""

    tokens: list[str]
    head_end: str


def register(plan: Plan, secret: bytes) -> Registered:
    """Register everything that the plan needs, all or nothing.

    The meters' keys go into the vault, as keys of a manufacturer's shipment would.
    """
    start = _time(plan.start_s)
    with transaction.atomic():
        concentrators = [Concentrator(name=concentrator_name(plan, number)) for number in range(plan.concentrators)]
        for number, concentrator in enumerate(concentrators):
            if plan.hold_keys:
                concentrator.system_title = plan.concentrator_title(number)
            registry.save(concentrator)
        issued = [tokens.issue(concentrator, "simulator") for concentrator in concentrators]
        meters = Meter.objects.bulk_create([_meter(plan, number, start) for number in plan.numbers], batch_size=5_000)
        agreement_key = _agreement_key() if plan.needs_agreement_key else None
        head_end = b"" if agreement_key is None else bytes(agreement_key.public)
        factory = Factory(plan, secret, head_end)
        _provision(plan, factory, agreement_key)
        if plan.pushing:
            register_forms(plan)
        if plan.enrolled or plan.signing:
            _pin(plan, factory)
        if plan.enrolled:
            _await_enrolments(plan, factory)
        if plan.signing:
            now = timezone.now()
            certificates = [factory.identity_certificate(n, int(now.timestamp())) for n in plan.signing]
            identities.register(certificates, _ACTOR, now)
        ids = [concentrator.pk for concentrator in concentrators]
        genuine = list(enumerate(meters[: len(plan.meters)]))
        assignments.assign([(meter.pk, ids[plan.home_of(number)]) for number, meter in genuine], start)
        if plan.moved_at_s is not None:
            moved_at_s = plan.moved_at_s
            moves = [(m.pk, ids[plan.assigned_to(n, moved_at_s)]) for n, m in genuine if plan.moves(n)]
            assignments.assign(moves, _time(moved_at_s))
        _make_ghosts(plan)
    return Registered(issued, head_end.hex())


def _pin(plan: Plan, factory: Factory) -> None:
    """Pin the run's authority, which certifies keys for enrolment and identities for signing."""
    public = factory.authority().public_key().public_bytes_raw()
    authorities.pin(PublicAuthority(plan.authority.encode(), plan.authority, public), _ACTOR, timezone.now())


def _await_enrolments(plan: Plan, factory: Factory) -> None:
    """Permit the run's meters to enrol, and import the revocations of some certificates."""
    now, authority = timezone.now(), factory.authority()
    by_scheme: defaultdict[str, list[bytes]] = defaultdict(list)
    for number in plan.enrolled:
        by_scheme[plan.scheme_of(number)].append(plan.system_title(number))
    for number in plan.tried_with_wrong_certificates:
        cti = parse_certificate(revoked_certificate(factory, number, int(now.timestamp()))).cti
        authorities.revoke(revoke(authority, plan.authority.encode(), cti, int(now.timestamp())), _ACTOR, now)
    for scheme, titles in by_scheme.items():
        authorities.allow(titles, _ACTOR, now, scheme)


def _agreement_key() -> AgreementKey:
    """The active version of the simulator's agreement key, which all its runs share."""
    try:
        return agreement_keys.active(AGREEMENT_KEY)
    except AgreementKeyError:
        return agreement_keys.init(AGREEMENT_KEY, _ACTOR)


def _provision(plan: Plan, factory: Factory, agreement_key: AgreementKey | None) -> None:
    """Store the first keys of meters and concentrators, each with its scheme and source."""
    by_source: defaultdict[str, list[NewKey]] = defaultdict(list)
    publics = {}
    version = None if agreement_key is None else agreement_key.pk
    for number in plan.numbers:
        title, scheme, source = plan.system_title(number), plan.scheme_of(number), plan.source_of(number)
        first = NewKey(title, FIRST_EPOCH, None, plan.algorithm_of(number), scheme)
        if source == "enrolled":
            continue  # it brings its key itself
        if source == "agreed" or envelope_of(scheme) == "sealed":
            first = first._replace(agreement_key=version)
        if source == "agreed":
            publics[title] = factory.public_key(number)
            by_source[source].append(NewKey(title, TRANSFER_EPOCH, agreement_key=version))
        elif plan.takes_commands(number):
            by_source["stored"].append(NewKey(title, TRANSFER_EPOCH, factory.transfer_key(number)))
        if source == "stored":
            first = first._replace(key=factory.device_key(number))
        by_source[source].append(first)
        if plan.changes_key_set(number):
            by_source["pending"].append(first._replace(epoch=FIRST_EPOCH + 1, key=factory.next_key(number)))
    for number in range(plan.concentrators if plan.hold_keys else 0):
        title = plan.concentrator_title(number)
        by_source["stored"] += [
            NewKey(title, TRANSFER_EPOCH, factory.concentrator_transfer_key(number)),
            NewKey(title, FIRST_EPOCH, factory.concentrator_key(number), scheme=CONCENTRATOR),
        ]
    provision_stored(by_source["stored"])
    if by_source["derived"]:
        provision_derived(create_fleet_key(f"sim-{plan.run}", factory.fleet_key), by_source["derived"])
    if by_source["agreed"]:
        provision_agreed(by_source["agreed"], publics)
    if by_source["pending"]:  # as key sets stand that the meters' own system brought in a shipment
        provision_pending(by_source["pending"], {})


def pin_masks(plan: Plan, authorities: Sequence[MadeAuthority]) -> None:
    """Pin the mask authorities of a run, as a group of their own."""
    for number, one in enumerate(authorities, 1):
        named = MaskAuthorityToPin(
            f"{plan.mask_group}-{number}", one.url, plan.mask_group, bytes.fromhex(one.sign_public)
        )
        pinned.pin(named, _ACTOR, timezone.now())


def withdraw_masks(plan: Plan, authorities: Sequence[MadeAuthority]) -> None:
    """Withdraw the mask authorities of a run that is over."""
    for number in range(1, len(authorities) + 1):
        pinned.withdraw(f"{plan.mask_group}-{number}", _ACTOR, timezone.now())


def is_registered(plan: Plan) -> bool:
    """Whether the run was registered in this database."""
    names = [concentrator_name(plan, number) for number in range(plan.concentrators)]
    return Concentrator.objects.filter(name__in=names).count() == plan.concentrators


def concentrator_name(plan: Plan, number: int) -> str:
    return f"sim-{plan.run} concentrator {number + 1}"


def _meter(plan: Plan, number: int, commissioned_at: datetime) -> Meter:
    ghosts = {ghost.number: f"{ghost.kind} {ghost.scheme}" for ghost in plan.ghosts}
    name = ghosts.get(number) or plan.meters[number]
    return Meter(
        system_title=plan.system_title(number),
        serial_number=f"sim-{plan.run}-{name}",
        name=f"Simulated meter {name}",
        interval_minutes=plan.interval_of(number),
        mask_group=plan.mask_group if does_mask(plan.scheme_of(number)) else "",
        commissioned_at=commissioned_at,
    )


def _make_ghosts(plan: Plan) -> None:
    """Suspend some meters, and retire the keys of others, before they ever send."""
    suspended, retired = (
        [plan.system_title(ghost.number) for ghost in plan.ghosts if ghost.kind == kind]
        for kind in ("suspended", "retired_key")
    )
    Meter.objects.filter(system_title__in=suspended).update(status=MeterStatus.SUSPENDED)
    keys = DeviceKey.objects.filter(system_title__in=retired, epoch=FIRST_EPOCH)
    set_key_state(list(keys.values_list("pk", flat=True)), KeyState.RETIRED)


def _time(unix_s: int) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
