"""Import of a shipment: keys wrapped under a transport key are checked, and all of them stored, or none."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from django.db import transaction
from django.utils import timezone

from ami_headend.core.csv_tables import BadLine
from ami_headend.core.sql import CHUNK, chunks, fetch_rows, int_array, octets_array
from keyvault import journal
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import key_rows, provisioning, shipment_file, shipped_public_keys
from keyvault.device_keys.epochs import LAST_EPOCH
from keyvault.device_keys.fingerprints import fingerprint
from keyvault.device_keys.key_rows import TRANSFER_EPOCH, Row
from keyvault.device_keys.provisioning import NewKey, ProvisioningError
from keyvault.device_keys.shipment_file import Shipment, ShipmentError, ShipmentLine
from keyvault.device_keys.shipment_kek import TransportKey, TransportUnwrapError
from keyvault.device_keys.unwrapping import open_keys
from keyvault.device_keys.weak_keys import set_weakness, weakness
from keyvault.master_key.rotation_lock import keys_for_wrapping
from keyvault.models import KeySource, KeyState
from keyvault.schemes.table import USUAL, algorithm_for, algorithm_name, has_key_sets, key_octets_of

Progress = Callable[[str, int, int], None]  # the step, how many more are done, and of how many

_COUNTED = ("active", "pending", "transfer_keys", "agreed", "replaced", "unchanged")  # in the audit record


@dataclass
class ShipmentReport:
    """What an import did, or would do; if ``bad`` has lines, nothing was changed."""

    active: int = 0
    pending: int = 0
    transfer_keys: int = 0
    agreed: int = 0  # meters whose keys follow from their public keys
    replaced: int = 0
    unchanged: int = 0
    without_transfer_key: int = 0
    at_last_epoch: int = 0  # no key can follow theirs
    bad: list[BadLine] = field(default_factory=list)


class _Arrived(NamedTuple):
    """A key of a shipment, unwrapped."""

    line: int
    system_title: bytes
    epoch: int
    algorithm: int | None
    octets: bytes
    fingerprint: bytes
    scheme: str | None = None

    def __repr__(self) -> str:
        return f"key of {self.system_title.hex()}, epoch {self.epoch}"


class _Standing(NamedTuple):
    """A stored key, as far as a shipment is compared with it."""

    id: int
    algorithm: int
    state: str
    version: int
    fingerprint: bytes
    scheme: str


@dataclass
class _Plan:
    active: list[NewKey] = field(default_factory=list)
    pending: list[NewKey] = field(default_factory=list)
    replaced: list[tuple[_Standing, _Arrived]] = field(default_factory=list)


def import_(
    shipment: Shipment,
    transport_key: TransportKey,
    actor: Actor,
    *,
    replace_transfer_keys: bool = False,
    agreement_key: str | None = None,
    dry_run: bool = False,
    progress: Progress = lambda step, count, total: None,
) -> ShipmentReport:
    """Store the keys of a shipment, in one transaction; audited as one act.

    The first key of a device becomes active; a key beside an active one becomes pending, and its first frame
    activates it. A key that is stored already stays unchanged. ``agreement_key`` names the key that ``sealed`` meters
    seal to, and that public keys go with, if there are several. ShipmentError for a wrong transport key;
    IntegrityError if keys were made meanwhile; MasterKeyError and AuditError.
    """
    report = ShipmentReport(bad=list(shipment.bad))
    arrived = _unwrap(shipment, transport_key, report, progress)
    with transaction.atomic():
        plan = _hold_against_vault(arrived, report, replace=replace_transfer_keys, progress=progress)
        try:
            plan.active = provisioning.with_agreement_keys(plan.active, agreement_key)
            plan.pending = provisioning.with_agreement_keys(plan.pending, agreement_key)
            publics = shipped_public_keys.plan([line for line in shipment.lines if line.public], agreement_key)
        except ProvisioningError as error:
            raise ShipmentError(str(error)) from None
        report.active = sum(1 for key in plan.active if key.epoch != TRANSFER_EPOCH)
        report.transfer_keys = len(plan.active) - report.active
        report.pending, report.replaced = len(plan.pending), len(plan.replaced)
        report.agreed = publics.meters
        report.unchanged += publics.unchanged
        report.bad += publics.bad
        report.bad.sort()
        if report.bad or dry_run:
            return report
        _store(plan, progress)
        try:
            shipped_public_keys.store(publics, agreement_key)
        except ProvisioningError as error:
            raise ShipmentError(str(error)) from None
        subject = {
            "shipment": shipment.header.shipment,
            "transport_key": transport_key.fingerprint.hex(),
            "sha256": shipment.sha256.hex(),
            **{name: getattr(report, name) for name in _COUNTED},
            "named": _named(plan),
        }
        chain.record(actor, "keys.import", subject)
    return report


def _named(plan: _Plan) -> list[dict[str, Any]]:
    """Name the first imported keys for the audit record; the SHA-256 of the file stands for all of them."""
    new = [(key.system_title, key.epoch, fingerprint(key.key or b"")) for key in (*plan.pending, *plan.active)]
    replaced = [(key.system_title, TRANSFER_EPOCH, key.fingerprint) for _, key in plan.replaced]
    return [
        {"device": title.hex(), "epoch": epoch, "fingerprint": name.hex()}
        for title, epoch, name in (*replaced, *new)[: chain.NAMED_MAX]
    ]


def _unwrap(
    shipment: Shipment, transport_key: TransportKey, report: ShipmentReport, progress: Progress
) -> list[_Arrived]:
    """Return the keys that open and may be used; the lines of the others go to ``bad``."""
    named = shipment.header.transport_key
    if named != transport_key.fingerprint:
        raise ShipmentError(
            f"wrong transport key: the shipment is wrapped under {named.hex()}, the file given holds "
            f"{transport_key.fingerprint.hex()}"
        )
    arrived: list[_Arrived] = []
    first: dict[bytes, int] = {}
    failed = 0
    for count, line in enumerate(shipment.lines, 1):
        for what, epoch, wrapped, algorithm, scheme in _of_line(line):
            try:
                octets = b"".join(map(transport_key.unwrap, wrapped))
            except TransportUnwrapError as error:
                failed += 1
                report.bad.append(BadLine(line.line, f"{what}: {error}: it was changed, or wrapped under another"))
                continue
            if epoch != TRANSFER_EPOCH and scheme is not None and has_key_sets(scheme):
                octets = octets.ljust(key_octets_of(scheme, algorithm_for(scheme, algorithm)), b"\0")  # no GAK
            key = _Arrived(line.line, line.system_title, epoch, algorithm, octets, fingerprint(octets), scheme)
            if reason := _unfit(key, transport_key, first):
                report.bad.append(BadLine(line.line, f"{what} {reason}"))
            else:
                arrived.append(key)
        if not count % CHUNK or count == len(shipment.lines):
            progress("unwrapping", count % CHUNK or CHUNK, len(shipment.lines))
    if failed and not arrived and len(report.bad) == failed:
        raise ShipmentError(f"no key of the shipment opens under the transport key {named.hex()}: it is the wrong one")
    return arrived


def _of_line(line: ShipmentLine) -> Iterator[tuple[str, int, list[bytes], int | None, str | None]]:
    """The keys of a line: what each is called, its epoch, its wrapped parts, its algorithm and scheme."""
    if line.key is not None and line.epoch is not None:
        yield "key", line.epoch, shipment_file.split_set(line), line.algorithm, line.scheme
    if line.transfer_key is not None:
        if line.scheme is not None and has_key_sets(line.scheme):
            yield "kek", TRANSFER_EPOCH, [line.transfer_key], line.algorithm, line.scheme
        else:
            yield "transfer_key", TRANSFER_EPOCH, [line.transfer_key], line.transfer_algorithm, None


def _unfit(key: _Arrived, transport_key: TransportKey, first: dict[bytes, int]) -> str | None:
    """Say why a key must not be used; ``first`` has the line of each key seen so far."""
    if key.fingerprint == transport_key.fingerprint:
        return "is the transport key"
    is_set = key.scheme is not None and has_key_sets(key.scheme)
    if reason := set_weakness(key.octets) if is_set else weakness(key.octets, key.system_title):
        return reason
    if key.fingerprint in first:
        return f"is the same as one of line {first[key.fingerprint]}"
    first[key.fingerprint] = key.line
    return None


def _hold_against_vault(
    arrived: Sequence[_Arrived], report: ShipmentReport, *, replace: bool, progress: Progress
) -> _Plan:
    plan = _Plan()
    elsewhere = _standing_elsewhere(arrived)
    devices = _by_device(arrived)
    for chunk in chunks(devices):
        standing = _standing([keys[0].system_title for keys in chunk])
        for keys in chunk:
            have = standing.get(keys[0].system_title, {})
            for key in keys:
                if key.fingerprint in elsewhere:
                    reason: str | None = f"{key} is that of device {elsewhere[key.fingerprint].hex()}, too"
                elif key.epoch == TRANSFER_EPOCH:
                    reason = _plan_transfer_key(plan, key, have.get(TRANSFER_EPOCH), report, replace=replace)
                else:
                    reason = _plan_key(plan, key, have, report)
                    report.at_last_epoch += key.epoch == LAST_EPOCH
                if reason:
                    report.bad.append(BadLine(key.line, reason))
            if TRANSFER_EPOCH not in have and all(key.epoch != TRANSFER_EPOCH for key in keys):
                report.without_transfer_key += 1
        progress("checking", len(chunk), len(devices))
    return plan


def _by_device(arrived: Sequence[_Arrived]) -> list[list[_Arrived]]:
    """Group keys by device."""
    by_title: dict[bytes, list[_Arrived]] = {}
    for key in arrived:
        by_title.setdefault(key.system_title, []).append(key)
    return list(by_title.values())


def _plan_key(plan: _Plan, key: _Arrived, have: dict[int, _Standing], report: ShipmentReport) -> str | None:
    """Add a key to the plan; return what is wrong with it, if anything."""
    same = have.get(key.epoch)
    if same is not None:
        if same.state == KeyState.COMPROMISED:
            return f"epoch {key.epoch} is compromised: it never comes back"
        if same.fingerprint != key.fingerprint:
            return f"mismatch: {_two(same, key)} for epoch {key.epoch}"
        if key.algorithm not in (None, same.algorithm):
            return f"mismatch: the key of epoch {key.epoch} is for {algorithm_name(same.algorithm)}"
        if key.scheme not in (None, same.scheme):
            return f"mismatch: the key of epoch {key.epoch} is of scheme {same.scheme}"
        report.unchanged += 1
        return None
    newest = max(have, default=TRANSFER_EPOCH)
    if key.epoch < newest:
        return f"epoch {key.epoch} comes before epoch {newest}, which the device has"
    states = {row.state for epoch, row in have.items() if epoch != TRANSFER_EPOCH}
    if KeyState.PENDING in states:
        return f"epoch {newest} is pending: the device is being given that key"
    scheme = key.scheme or USUAL
    new = NewKey(key.system_title, key.epoch, key.octets, algorithm_for(scheme, key.algorithm), scheme)
    (plan.pending if KeyState.ACTIVE in states else plan.active).append(new)
    return None


def _plan_transfer_key(
    plan: _Plan, key: _Arrived, standing: _Standing | None, report: ShipmentReport, *, replace: bool
) -> str | None:
    if standing is None:
        scheme = key.scheme or USUAL
        algorithm = algorithm_for(scheme, key.algorithm)
        plan.active.append(NewKey(key.system_title, TRANSFER_EPOCH, key.octets, algorithm, scheme))
    elif standing.scheme != (key.scheme or USUAL):
        return f"mismatch: the transfer key that stands is of scheme {standing.scheme}"
    elif standing.fingerprint != key.fingerprint:
        if not replace:
            return f"mismatch: {_two(standing, key)} as transfer key (--replace-transfer-key puts the new one in)"
        plan.replaced.append((standing, key))
    elif standing.state != KeyState.ACTIVE:
        return f"the transfer key is {standing.state}: it never comes back"
    elif key.algorithm not in (None, standing.algorithm):
        if not replace:
            return (
                f"mismatch: the same transfer key stands for {algorithm_name(standing.algorithm)}, the shipment says "
                f"{algorithm_name(key.algorithm or 0)} (--replace-transfer-key puts that in)"
            )
        plan.replaced.append((standing, key))
    else:
        report.unchanged += 1
    return None


def _two(standing: _Standing, key: _Arrived) -> str:
    return f"the key {standing.fingerprint.hex()} stands, the shipment has {key.fingerprint.hex()},"


def _standing(titles: Sequence[bytes]) -> dict[bytes, dict[int, _Standing]]:
    """Return the stored keys of devices by title and epoch; a key without a fingerprint is opened to make one."""
    rows = fetch_rows(
        """SELECT system_title, epoch, id, algorithm, state, version, fingerprint, scheme FROM keyvault_devicekey
           WHERE system_title = ANY(%s::bytea[])""",
        octets_array(titles),
    )
    nameless = [row[2] for row in rows if row[6] is None]
    names = {key.id: fingerprint(key.octets) for key in open_keys(nameless)} if nameless else {}
    standing: dict[bytes, dict[int, _Standing]] = {}
    for title, epoch, key_id, algorithm, state, version, name, scheme in rows:
        row = _Standing(key_id, algorithm, state, version, name or names.get(key_id, b""), scheme)
        standing.setdefault(title, {})[epoch] = row
    return standing


def _standing_elsewhere(arrived: Sequence[_Arrived]) -> dict[bytes, bytes]:
    """Arrived keys (by fingerprint) that stand under another device or epoch: that device's title. One query."""
    rows = fetch_rows(
        """SELECT k.fingerprint, k.system_title
           FROM unnest(%s::bytea[], %s::bytea[], %s::int[]) AS n(fingerprint, title, epoch)
           JOIN keyvault_devicekey k ON k.fingerprint = n.fingerprint
           WHERE k.system_title <> n.title OR k.epoch <> n.epoch""",
        octets_array(key.fingerprint for key in arrived),
        octets_array(key.system_title for key in arrived),
        int_array(key.epoch for key in arrived),
    )
    return dict(rows)


def _store(plan: _Plan, progress: Progress) -> None:
    total = len(plan.active) + len(plan.pending) + len(plan.replaced)
    for chunk in chunks(plan.active):
        provisioning.provision_stored(chunk)
        progress("storing", len(chunk), total)
    for chunk in chunks(plan.pending):
        provisioning.provision_pending(chunk, {})
        _note_given(chunk)
        progress("storing", len(chunk), total)
    if plan.replaced:
        _replace(plan.replaced)
        progress("storing", len(plan.replaced), total)


def _note_given(keys: Sequence[NewKey]) -> None:
    """Note that devices have these pending keys, or may have: they stay acceptable, whatever becomes of a wave."""
    now = timezone.now()
    fetch_rows(
        """UPDATE keyvault_devicekey k SET offered_at = %s FROM unnest(%s::bytea[], %s::int[]) AS n(title, epoch)
           WHERE k.system_title = n.title AND k.epoch = n.epoch RETURNING k.id""",
        now,
        octets_array(key.system_title for key in keys),
        int_array(key.epoch for key in keys),
    )
    journal.append("given", [int(now.timestamp()), [(key.system_title, key.epoch) for key in keys]])


def _replace(pairs: Sequence[tuple[_Standing, _Arrived]]) -> None:
    """Put transfer keys in the place of others; ShipmentError if one of those was changed meanwhile."""
    master = keys_for_wrapping()
    rows = [
        Row(
            key.system_title,
            TRANSFER_EPOCH,
            key.algorithm or standing.algorithm,
            KeySource.STORED,
            None,
            master.wrap(
                key.octets,
                key_rows.purpose_of(TRANSFER_EPOCH, KeySource.STORED, standing.scheme),
                key.system_title,
                TRANSFER_EPOCH,
            ),
            master.active_version,
            key.fingerprint,
            standing.scheme,
            None,
        )
        for standing, key in pairs
    ]
    try:
        key_rows.replace_transfer_keys(rows, versions={key.system_title: standing.version for standing, key in pairs})
    except ProvisioningError as error:
        raise ShipmentError(str(error)) from None
