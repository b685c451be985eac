"""Laboratory meters: their key is shown once, to engineers who write the firmware of meters and concentrators.

A laboratory meter is an ordinary meter otherwise. Its concentrator may read why its frames were rejected, which no
other concentrator may: a forger would learn from it. Its failures, events and silence raise no alerts.
"""

import secrets
from datetime import datetime
from typing import Any, NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import OuterRef, Subquery

from concentrators.fleet.assignments import NewAssignment, assign, holding
from concentrators.models import Concentrator, IntegrityFailure, Uplink
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import provisioning
from keyvault.device_keys.key_rows import FIRST_EPOCH, TRANSFER_EPOCH
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import AgreementKey
from keyvault.schemes.table import algorithm_for, check_for_commands
from meters.models import Meter

# Whether a row of failures names a laboratory meter, and came over the concentrator that the meter is assigned to: what
# others post in such a meter's name is no experiment of the laboratory.
IS_OF_LABORATORY = """EXISTS (
    SELECT 1 FROM meters_meter lm JOIN concentrators_assignment la ON la.meter_id = lm.id
    WHERE lm.id = {failure}.meter_id AND lm.is_laboratory AND la.concentrator_id = {failure}.concentrator_id
      AND la.valid_from <= {failure}.received_at
      AND (la.valid_to IS NULL OR la.valid_to > {failure}.received_at))"""


class LaboratoryError(ValueError):
    """A bench meter that cannot be made here, or reasons that this concentrator may not read; the message says why."""


class BenchMeter(NamedTuple):
    """A bench meter to make: system title (8 octets), concentrator, minutes of an interval, scheme, COSE algorithm."""

    system_title: bytes
    concentrator: Concentrator
    interval_minutes: int
    scheme: str
    algorithm: int | None = None


class BenchKeys(NamedTuple):
    """What the firmware needs, shown once: device key and transfer key (32 octets each), and what they are for.

    ``head_end`` is the public key that frames of scheme ``sealed`` go to; empty in other schemes.
    """

    device_key: bytes
    algorithm: int
    transfer_key: bytes
    transfer_algorithm: int
    head_end: bytes

    def __repr__(self) -> str:
        return "BenchKeys(...)"


class Reason(NamedTuple):
    """Why a frame of an uplink was rejected."""

    frame: int
    system_title: str | None
    kind: str
    detail: str


def check_allowed() -> None:
    """LaboratoryError if keys that people see are not allowed: in production, or if a second person must approve."""
    if settings.IS_PRODUCTION:
        raise LaboratoryError("this is a production deployment: make bench meters on a head-end of their own (make up)")
    if settings.REQUIRE_APPROVAL:
        raise LaboratoryError("keys need a second person's approval here (REQUIRE_APPROVAL): a bench meter's are shown")


def is_allowed() -> bool:
    """Whether ``check_allowed`` passes."""
    return not (settings.IS_PRODUCTION or settings.REQUIRE_APPROVAL)


def make(bench: BenchMeter, actor: Actor, now: datetime) -> BenchKeys:
    """Make a bench meter with random keys of epochs 1 and 0, assigned to its concentrator; audited, without the keys.

    LaboratoryError if none may be made here or the title is taken; SchemeError, ProvisioningError, MasterKeyError,
    AuditError; then nothing is made.
    """
    check_allowed()
    check_for_commands(bench.scheme)
    title, alg = bench.system_title, algorithm_for(bench.scheme, bench.algorithm)
    transfer_alg = provisioning.transfer_algorithm(alg)
    keys = [
        NewKey(title, TRANSFER_EPOCH, secrets.token_bytes(32), transfer_alg),
        NewKey(title, FIRST_EPOCH, secrets.token_bytes(32), alg, bench.scheme),
    ]
    with transaction.atomic():
        meter, is_new = Meter.objects.get_or_create(
            system_title=title,
            defaults={
                "serial_number": f"BENCH-{title.hex()}",
                "name": "Bench meter",
                "interval_minutes": bench.interval_minutes,
                "commissioned_at": now,
                "is_laboratory": True,
            },
        )
        if not is_new:
            raise LaboratoryError(f"there is a meter {title.hex()} already: {meter}")
        transfer, device = provisioning.with_agreement_keys(keys)
        provisioning.provision_stored([transfer, device])
        assign([NewAssignment(meter.pk, bench.concentrator.pk)], now)
        subject = {"device": title.hex(), "concentrator": bench.concentrator.name, "scheme": bench.scheme}
        chain.record(actor, "laboratory.bench_meter", subject)
    number = device.agreement_key
    head_end = b"" if number is None else bytes(AgreementKey.objects.get(pk=number).public)
    return BenchKeys(device.key or b"", alg, transfer.key or b"", transfer_alg, head_end)


def end(meter: Meter, actor: Actor) -> None:
    """Make a laboratory meter an ordinary one, whose failures raise alerts; audited. Its keys stay: people know them.

    LaboratoryError if it is none. Allowed in production, too.
    """
    with transaction.atomic():
        if not Meter.objects.filter(pk=meter.pk, is_laboratory=True).update(is_laboratory=False):
            raise LaboratoryError(f"{meter} is no laboratory meter")
        chain.record(actor, "laboratory.end", {"device": bytes(meter.system_title).hex()})


def silenced_in_production(now: datetime) -> list[tuple[str, str]]:
    """Return the laboratory meters in production, each with its concentrator's name: their failures raise no alerts.

    None elsewhere. One query.
    """
    if not settings.IS_PRODUCTION:
        return []
    names = holding(now).filter(meter=OuterRef("pk")).values("concentrator__name")[:1]
    rows = Meter.objects.filter(is_laboratory=True).annotate(at=Subquery(names)).order_by("serial_number")
    return [(row.serial_number, row.at or "no concentrator") for row in rows]


def reasons(uplink: Uplink, now: datetime) -> list[Reason]:
    """Return why frames of an uplink were rejected, in order: only frames of laboratory meters of its concentrator.

    If the concentrator has no other meters, also frames that name no known meter. LaboratoryError if it has no
    laboratory meter. Two queries.
    """
    check_allowed()
    flags = holding(now).filter(concentrator=uplink.concentrator_id).values_list("meter__is_laboratory", "meter")
    laboratory = {meter_id for is_laboratory, meter_id in flags if is_laboratory}
    if not laboratory:
        raise LaboratoryError("Reasons are for the concentrators of laboratory meters; this one has none.")
    wanted: Any = {None, *laboratory} if len(laboratory) == len(flags) else laboratory
    rows = IntegrityFailure.objects.filter(uplink=uplink).select_related("meter").order_by("frame_index")
    return [_reason(row) for row in rows if row.meter_id in wanted]


def _reason(row: IntegrityFailure) -> Reason:
    title = None if row.meter is None else bytes(row.meter.system_title).hex()
    return Reason(row.frame_index, title, row.kind, row.detail)
