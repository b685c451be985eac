"""Putting keys into the vault: stored and derived device keys, fleet keys. Octets go in, never out."""

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from django.db import transaction

from keyvault import journal, master_key
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.cose.algorithms import AES_CCM_16_64_128
from keyvault.cose.kdf import DEVICE_KEY_OCTETS, derived_device_key
from keyvault.device_keys import agreement_keys, key_rows, public_keys
from keyvault.device_keys.errors import ProvisioningError as ProvisioningError  # noqa: PLC0414 - for its callers
from keyvault.device_keys.fingerprints import fingerprint
from keyvault.device_keys.key_rows import (
    FIRST_EPOCH,
    TRANSFER_EPOCH,
    Row,
    insert,
    purpose_of,
)
from keyvault.master_key import Purpose, UnwrapError
from keyvault.master_key.rotation_lock import keys_for_wrapping
from keyvault.models import DeviceKey, FleetKey, KeySource, KeyState
from keyvault.schemes.agreed import agree, agreed_device_key
from keyvault.schemes.table import (
    USUAL,
    algorithm_for,
    algorithms_of,
    check_for_commands,
    key_octets_of,
    needs_agreement_key,
)


def transfer_algorithm(algorithm: int) -> int:
    """Return the algorithm of the transfer key for a device key of ``algorithm``: AES-CCM in every scheme."""
    return algorithm if algorithm in algorithms_of(USUAL) else algorithm_for(USUAL)


class NewKey(NamedTuple):
    """A key to store: system title (8 octets), epoch (0 is the transfer key), 32 octets or None for random ones.

    ``agreement_key`` is the number of a version of the head-end's agreement key, if the epoch uses one.
    """

    system_title: bytes
    epoch: int
    key: bytes | None = None
    algorithm: int = AES_CCM_16_64_128
    scheme: str = USUAL
    agreement_key: int | None = None

    def __repr__(self) -> str:
        return f"NewKey({self.system_title.hex()}, {self.epoch}, ...)"


def provision_devices(
    system_titles: Sequence[bytes],
    algorithm: int | None = None,
    fleet_key: FleetKey | None = None,
    scheme: str = USUAL,
    agreement_key: str | None = None,
) -> None:
    """Give devices their first key (epoch 1, active, of a scheme) and their transfer key (epoch 0).

    They are random and stored, or derived from ``fleet_key``; for ``algorithm``, or the usual one of the scheme. All or
    nothing. SchemeError for a scheme or algorithm that meters cannot have; ProvisioningError if a device has such a
    key already or the fleet key does not open; MasterKeyError if the master key cannot be used.
    """
    check_for_commands(scheme)
    alg = algorithm_for(scheme, algorithm)
    entries = [NewKey(title, TRANSFER_EPOCH, None, transfer_algorithm(alg)) for title in system_titles]
    entries += [NewKey(title, FIRST_EPOCH, None, alg, scheme) for title in system_titles]
    entries = with_agreement_keys(entries, agreement_key)
    if fleet_key is None:
        provision_stored(entries)
    else:
        provision_derived(fleet_key, entries)


def with_agreement_keys(entries: Sequence[NewKey], name: str | None = None) -> list[NewKey]:
    """Add the active version of the agreement key to the keys of schemes that seal frames to it; return all keys.

    ``name`` says which agreement key, if there are several. ProvisioningError if there is none. At most two queries,
    none if no key needs one.
    """
    titles = {entry.system_title for entry in entries if needs_agreement_key(entry.scheme)}
    versions = agreement_keys.active_for(titles, name) if titles else {}
    return [
        entry._replace(agreement_key=versions[entry.system_title]) if needs_agreement_key(entry.scheme) else entry
        for entry in entries
    ]


def agree_with_devices(
    publics: Mapping[bytes, bytes], algorithm: int | None = None, scheme: str = USUAL, agreement_key: str | None = None
) -> None:
    """Agree with devices on their first key (epoch 1, active, of a scheme) and their transfer key (epoch 0).

    ``publics`` has their X25519 public keys (32 octets) by system title. The head-end uses the active version of its
    ``agreement_key``, or of the only one. All or nothing; errors are those of ``provision_devices`` and
    ``provision_agreed``.
    """
    check_for_commands(scheme)
    alg = algorithm_for(scheme, algorithm)
    versions = agreement_keys.active_for(publics, agreement_key)
    entries = [
        NewKey(title, epoch, None, of_epoch, name, versions[title])
        for epoch, of_epoch, name in ((TRANSFER_EPOCH, transfer_algorithm(alg), USUAL), (FIRST_EPOCH, alg, scheme))
        for title in publics
    ]
    provision_agreed(entries, publics)


def record_provisioned(
    actor: Actor, system_titles: Sequence[bytes], fleet_key: FleetKey | None, source: KeySource | None = None
) -> None:
    """Record in the audit chain, as one act, that devices were given their first keys; in the same transaction."""
    titles = sorted(set(system_titles))
    subject = {
        "devices": len(titles),
        "first": [title.hex() for title in titles[: chain.NAMED_MAX]],
        "sha256": hashlib.sha256(b"".join(titles)).hexdigest(),
        "fleet_key": None if fleet_key is None else fleet_key.name,
        **({} if source is None else {"source": source.value}),
    }
    chain.record(actor, "keys.provision", subject)


def provision_stored(entries: Iterable[NewKey]) -> None:
    """Wrap keys under the active master key and store them as active, each with its counter. All or nothing.

    ProvisioningError for a wrong length, a duplicate or an existing key; MasterKeyError if the master key cannot be
    used.
    """
    with transaction.atomic():
        insert(_stored_rows(entries))


def provision_derived(fleet_key: FleetKey, entries: Iterable[NewKey]) -> None:
    """Derive keys from a fleet key; they are active at once. All or nothing. The octets of entries are None.

    ProvisioningError if the fleet key does not open or a device has such a key already.
    """
    insert(_derived_rows(fleet_key, entries))


def provision_agreed(
    entries: Iterable[NewKey],
    publics: Mapping[bytes, bytes],
    state: KeyState = KeyState.ACTIVE,
    tell: journal.Append = journal.append,
) -> None:
    """Agree on keys with their devices; they are active at once. All or nothing. The octets of entries are None.

    Each entry names the version of the head-end's agreement key; ``publics`` has the public keys (32 octets) by
    title. ProvisioningError if one is refused or belongs to another meter, or if the agreement key does not open.
    ``tell`` takes the records for the key journal, before the caller's transaction commits.
    """
    with transaction.atomic():
        insert(_agreed_rows(entries, publics, tell), state, tell)


def replace_transfer_keys(
    entries: Iterable[NewKey], publics: Mapping[bytes, bytes], tell: journal.Append = journal.append
) -> None:
    """Replace transfer keys (epoch 0), in any state, by agreed ones; else as ``provision_agreed``.

    Commands under the old ones end, because the version of the keys moves.
    """
    with transaction.atomic():
        key_rows.replace_transfer_keys(_agreed_rows(entries, publics, tell), tell)


def provision_pending(
    stored: Iterable[NewKey],
    derived: Mapping[FleetKey, Iterable[NewKey]],
    agreed: Iterable[NewKey] = (),
    publics: Mapping[bytes, bytes] = MappingProxyType({}),
) -> None:
    """Store keys as pending, each with its counter. All or nothing.

    Random keys, keys derived from fleet keys, and keys agreed on with the devices' public keys (32 octets, by title);
    the octets of the latter two are None. IntegrityError if a device has a pending key already.
    """
    with transaction.atomic():
        rows = _stored_rows(stored)
        for fleet_key, entries in derived.items():
            rows += _derived_rows(fleet_key, entries)
        rows += _agreed_rows(agreed, publics)
        insert(rows, KeyState.PENDING)


def _derived_rows(fleet_key: FleetKey, entries: Iterable[NewKey]) -> list[Row]:
    fleet_octets = _open_fleet_key(fleet_key)
    rows = []
    for title, epoch, _, algorithm, scheme, agreement_key in entries:
        name = fingerprint(derived_device_key(fleet_octets, title, epoch))
        rows.append(
            Row(title, epoch, algorithm, KeySource.DERIVED, fleet_key.pk, None, None, name, scheme, agreement_key)
        )
    return rows


def _agreed_rows(
    entries: Iterable[NewKey], publics: Mapping[bytes, bytes], tell: journal.Append = journal.append
) -> list[Row]:
    entries = list(entries)
    if not entries:
        return []
    public_keys.register(publics, tell)
    master = keys_for_wrapping()
    numbers = {entry.agreement_key for entry in entries}
    if None in numbers:
        raise ProvisioningError("a key that is agreed on needs a version of the head-end's agreement key")
    versions = agreement_keys.open_versions({number for number in numbers if number is not None}, master)
    head_ends = {number: private.public_key().public_bytes_raw() for number, private in versions.items()}
    agreed: dict[tuple[bytes, int], bytes] = {}  # once for all epochs: the shared secret costs most
    rows = []
    for title, epoch, _, algorithm, scheme, of_version in entries:
        public, number = publics[title], of_version or 0
        if (title, number) not in agreed:
            agreed[title, number] = agree(versions[number], public)
        key = agreed_device_key(agreed[title, number], title, epoch, public, head_ends[number])
        wrapped = master.wrap(public, purpose_of(epoch, KeySource.AGREED), title, epoch)
        rows.append(
            Row(
                title,
                epoch,
                algorithm,
                KeySource.AGREED,
                None,
                wrapped,
                master.active_version,
                fingerprint(key),
                scheme,
                number,
            )
        )
    return rows


def _stored_rows(entries: Iterable[NewKey]) -> list[Row]:
    master = keys_for_wrapping()
    rows = []
    for entry in entries:
        octets = key_octets_of(entry.scheme, entry.algorithm, is_transfer=entry.epoch == TRANSFER_EPOCH)
        key = secrets.token_bytes(octets) if entry.key is None else entry.key
        if len(key) != octets:
            raise ProvisioningError(f"key of {entry.system_title.hex()}: {len(key)} octets instead of {octets}")
        purpose = purpose_of(entry.epoch, KeySource.STORED, entry.scheme)
        wrapped = master.wrap(key, purpose, entry.system_title, entry.epoch)
        rows.append(
            Row(
                entry.system_title,
                entry.epoch,
                entry.algorithm,
                KeySource.STORED,
                None,
                wrapped,
                master.active_version,
                fingerprint(key),
                entry.scheme,
                entry.agreement_key,
            )
        )
    return rows


def publics_of(system_titles: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the public keys (32 octets) of the last agreed keys of devices, by title; a device may have none.

    ProvisioningError if a row does not open.
    """
    rows = (
        DeviceKey.objects.filter(system_title__in=system_titles, source=KeySource.AGREED)
        .order_by("system_title", "-epoch")
        .distinct("system_title")
    )
    master = master_key.current()
    found = {}
    for row in rows:
        title = bytes(row.system_title)
        try:
            found[title] = master.unwrap(bytes(row.wrapped or b""), Purpose.PUBLIC_KEY, title, row.epoch)
        except UnwrapError as error:
            raise ProvisioningError(f"the public key of device {title.hex()} does not open: {error}") from None
    return found


def create_fleet_key(name: str, key: bytes | None = None) -> FleetKey:
    """Store a fleet key of 32 octets, random unless given, wrapped under the active master key."""
    key = secrets.token_bytes(DEVICE_KEY_OCTETS) if key is None else key
    if len(key) != DEVICE_KEY_OCTETS:
        raise ProvisioningError(f"fleet key {name}: {len(key)} octets instead of {DEVICE_KEY_OCTETS}")
    if FleetKey.objects.filter(name=name).exists():
        raise ProvisioningError(f"a fleet key named {name} exists already")
    with transaction.atomic():
        master = keys_for_wrapping()
        wrapped = master.wrap(key, Purpose.FLEET_KEY, name.encode())
        row = FleetKey.objects.create(name=name, wrapped=wrapped, master_key_version=master.active_version)
        journal.append("fleet_key", [row.pk, name, wrapped, master.active_version])
    return row


def _open_fleet_key(fleet_key: FleetKey) -> bytes:
    try:
        return master_key.current().unwrap(bytes(fleet_key.wrapped), Purpose.FLEET_KEY, fleet_key.name.encode())
    except UnwrapError as error:
        raise ProvisioningError(f"fleet key {fleet_key.name} does not open: {error}") from None
