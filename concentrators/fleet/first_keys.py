"""First keys of the meters of a table: made here, agreed on with the meter's public key, or enrolled by certificate."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from django.db.models import Model, QuerySet

from ami_headend.core.csv_tables import BadLine
from ami_headend.core.sql import chunks
from keyvault.audit.chain import Actor
from keyvault.device_keys import agreement_keys, provisioning, public_keys
from keyvault.enrolment import authorities
from keyvault.models import AwaitedEnrolment, DeviceKey, Enrolment, FleetKey, KeySource, KeyState
from keyvault.schemes.table import USUAL, algorithm_name
from meters.models import Meter
from meters.registry.meter_file import MeterLine

Progress = Callable[[str, int, int], None]  # the step, how many more meters are done, and of how many


@dataclass(frozen=True)
class KeyPolicy:
    """The source of first keys for new meters: random, a fleet key, or (``make`` false) a later shipment.

    A line with a public key, or for a meter that enrols by certificate, overrides it for that meter. ``agreement_key``
    names the one that keys are agreed on with, and that ``sealed`` meters seal to, where there are several.
    """

    make: bool = True
    fleet_key: FleetKey | None = None
    agreement_key: str | None = None


class GivenKeys(NamedTuple):
    """How many meters got keys, and how many may enrol by certificate."""

    keyed: int
    awaited: int


@dataclass
class KeyPlan:
    """The lines of registered meters that get their first keys now, and the errors of other lines."""

    late: list[MeterLine] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)


def check(
    new: Sequence[MeterLine], standing: Sequence[tuple[MeterLine, Meter]], policy: KeyPolicy, *, update: bool
) -> KeyPlan:
    """Compare what lines say about keys with the vault; a fixed number of queries per chunk.

    AgreementKeyError where keys are to be agreed on and there is no agreement key.
    """
    plan = KeyPlan()
    for lines in chunks(new):
        _check_own(plan, lines, policy, update=True)
    for pairs in chunks(standing):
        plan.bad += _other_kind(pairs)
        plan.late += _check_own(plan, [line for line, _ in pairs], policy, update=update)
    agreeing = {line.system_title for line in (*new, *plan.late) if line.public_key}
    if agreeing and policy.make:
        agreement_keys.active_for(agreeing, policy.agreement_key)
    return plan


def says_source(line: MeterLine) -> bool:
    """Whether a line itself names the source of its meter's keys."""
    return line.public_key is not None or line.keys is not None


def _check_own(plan: KeyPlan, lines: Sequence[MeterLine], policy: KeyPolicy, *, update: bool) -> list[MeterLine]:
    """Return the lines that name a source of keys, and whose meters have no keys; errors go into the plan.

    Only a rotation or another enrolment changes keys that stand. A registered meter without keys is given them where
    meters may change.
    """
    own = [line for line in lines if says_source(line)]
    if not own:
        return []
    titles = [line.system_title for line in own]
    keyed = _titles(DeviceKey, titles)
    enrolling = _titles(AwaitedEnrolment, titles) | _titles(Enrolment, titles)
    owners = public_keys.owners({line.public_key for line in own if line.public_key})
    wanting = []
    for line in own:
        name = f"meter {line.serial_number}"
        owner = owners.get(line.public_key or b"")
        if owner is not None and owner != line.system_title:
            plan.bad.append(BadLine(line.line, public_keys.refusal(owner)))
        elif line.system_title in enrolling if line.keys else owner is not None:
            continue
        elif line.system_title in keyed:
            how = "manage.py authority allow lets it enrol" if line.keys else "an import changes no keys"
            plan.bad.append(BadLine(line.line, f"{name} has other keys: {how}"))
        elif not policy.make:
            plan.bad.append(BadLine(line.line, f"it brings {name} keys, and none are to be made"))
        elif not update:
            plan.bad.append(BadLine(line.line, f"{name} is registered without keys"))
        else:
            wanting.append(line)
    return wanting


def _titles(model: type[Model], titles: Collection[bytes]) -> set[bytes]:
    """Return the system titles that rows of a model have."""
    return set(map(bytes, QuerySet(model).filter(system_title__in=titles).values_list("system_title", flat=True)))


def _other_kind(pairs: Sequence[tuple[MeterLine, Meter]]) -> Iterator[BadLine]:
    """Return the lines whose scheme or algorithm differs from the meter's key: only a rotation changes these."""
    titles = [line.system_title for line, _ in pairs if line.algorithm or line.scheme]
    keys = DeviceKey.objects.filter(system_title__in=titles, epoch__gt=0, state=KeyState.ACTIVE)
    standing = {bytes(key.system_title): key for key in keys.only("system_title", "algorithm", "scheme")}
    for line, meter in pairs:
        key = standing.get(line.system_title)
        if key is None:
            continue
        if line.scheme not in (None, key.scheme):
            reason = f"the key of meter {meter} is of scheme {key.scheme}: only a new key changes that"
        elif line.algorithm not in (None, key.algorithm):
            reason = f"the key of meter {meter} is for {algorithm_name(key.algorithm)}: only a new key changes that"
        else:
            continue
        yield BadLine(line.line, reason)


def give(lines: Sequence[MeterLine], policy: KeyPolicy, actor: Actor, now: datetime, progress: Progress) -> GivenKeys:
    """Give the meters of checked lines their first keys, or permission to enrol; those with keys keep them. Audited."""
    made: list[bytes] = []
    agreed: list[bytes] = []
    awaited = 0
    for chunk in chunks(lines):
        kept = _titles(DeviceKey, [line.system_title for line in chunk])
        alike: dict[tuple[str, int | None], list[MeterLine]] = {}
        for line in chunk:
            if line.system_title not in kept:
                alike.setdefault((line.scheme or USUAL, line.algorithm), []).append(line)
        for (scheme, algorithm), wanting in alike.items():
            publics = {line.system_title: line.public_key for line in wanting if line.public_key}
            enrolling = [line.system_title for line in wanting if line.keys]
            others = [line.system_title for line in wanting if not says_source(line)]
            if publics:
                provisioning.agree_with_devices(publics, algorithm, scheme, policy.agreement_key)
            if others:
                provisioning.provision_devices(others, algorithm, policy.fleet_key, scheme, policy.agreement_key)
            if enrolling:
                awaited += authorities.allow(enrolling, actor, now, scheme, algorithm).total()
            agreed += publics
            made += others
        progress("making keys", len(chunk), len(lines))
    if made:
        provisioning.record_provisioned(actor, made, policy.fleet_key)
    if agreed:
        provisioning.record_provisioned(actor, agreed, None, KeySource.AGREED)
    return GivenKeys(len(made) + len(agreed), awaited)
