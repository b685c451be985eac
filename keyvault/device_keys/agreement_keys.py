"""The head-end's agreement keys: X25519 pairs in versions, by which it agrees on device keys with meters.

A new version changes nothing by itself: meters move to it when their keys are rotated. A version that leaked is cut
off, because whoever has it knows every device key that was agreed with it, and can read what was sealed to it.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from django.db import IntegrityError, transaction

from ami_headend.core.sql import fetch_rows, int_array, octets_array
from keyvault import journal
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys.errors import ProvisioningError
from keyvault.master_key import MasterKeys, Purpose, UnwrapError
from keyvault.master_key.rotation_lock import keys_for_wrapping
from keyvault.models import AgreementKey, AgreementState

NAME_MAX = 100


class AgreementKeyError(ProvisioningError):
    """A version of an agreement key cannot be made, found or used as asked; the message says why."""


class VersionUse(NamedTuple):
    """A version, the number of meters that send under a key of it, and of its keys that may still open frames."""

    key: AgreementKey
    meters: int
    usable: int


def init(name: str, actor: Actor) -> AgreementKey:
    """Make version 1 of a new agreement key; audited. AgreementKeyError for a bad name, or one that is taken.

    Certificates of meters name it in ``aud``. After MasterKeyError or AuditError nothing was made.
    """
    if not name.strip() or len(name) > NAME_MAX or not name.isprintable():
        raise AgreementKeyError(f"an agreement key has a name of up to {NAME_MAX} printable characters")
    with transaction.atomic():
        if AgreementKey.objects.filter(name=name).exists():
            raise AgreementKeyError(f"there is an agreement key {name} already: agreement_key rotate makes its next")
        row = _make(name, 1)
        chain.record(actor, "agreement_key.init", _subject(row))
    return row


def rotate(name: str, actor: Actor, now: datetime) -> AgreementKey:
    """Make the next version and make it active; audited. Keys of the previous one continue until they are rotated."""
    with transaction.atomic():
        newest = AgreementKey.objects.select_for_update().filter(name=name).order_by("-version").first()
        if newest is None:
            raise AgreementKeyError(f"there is no agreement key {name}: agreement_key init makes one")
        AgreementKey.objects.filter(name=name, state=AgreementState.ACTIVE).update(
            state=AgreementState.REPLACED, replaced_at=now
        )
        row = _make(name, newest.version + 1)
        chain.record(actor, "agreement_key.rotate", _subject(row))
    return row


def active(name: str | None = None) -> AgreementKey:
    """Return the active version of a key, of the only key if no name is given; AgreementKeyError if there is none."""
    rows = AgreementKey.objects.filter(state=AgreementState.ACTIVE).defer("wrapped")
    found = list(rows.filter(name=name) if name is not None else rows.order_by("name")[:2])
    if len(found) > 1:
        names = " and ".join(row.name for row in found)
        raise AgreementKeyError(f"there are several agreement keys, {names} among them, and none is named")
    if not found:
        which = "no agreement key" if name is None else f"no agreement key {name} with an active version"
        raise AgreementKeyError(f"there is {which}: manage.py agreement_key init or rotate makes one")
    return found[0]


def active_for(system_titles: Collection[bytes], name: str | None = None) -> dict[bytes, int]:
    """Return, by title, the number of the active version of the agreement key that each device used last.

    For a device that used none yet it is that of the key ``name``, or of the only key. AgreementKeyError if there is
    none.
    """
    rows = fetch_rows(
        """SELECT DISTINCT ON (d.system_title) d.system_title, k.name, a.id
           FROM keyvault_devicekey d JOIN keyvault_agreementkey k ON k.id = d.agreement_key_id
           LEFT JOIN keyvault_agreementkey a ON a.name = k.name AND a.state = 'active'
           WHERE d.system_title = ANY(%s::bytea[]) ORDER BY d.system_title, d.epoch DESC""",
        octets_array(system_titles),
    )
    found = {title: number for title, _, number in rows}
    gone = sorted({name for _, name, number in rows if number is None})
    if gone:
        raise AgreementKeyError(f"agreement key {gone[0]} has no active version: manage.py agreement_key rotate")
    if without := set(system_titles) - found.keys():
        found |= dict.fromkeys(without, active(name).pk)
    return found


def find(name: str, version: int) -> AgreementKey:
    """Return a version by its name and number; AgreementKeyError if there is none."""
    row = AgreementKey.objects.filter(name=name, version=version).defer("wrapped").first()
    if row is None:
        raise AgreementKeyError(f"there is no version {version} of an agreement key {name}")
    return row


def find_text(text: str) -> AgreementKey:
    """Return a version as people write it, NAME:VERSION; AgreementKeyError if there is none."""
    name, _, version = text.rpartition(":")
    if not name or not version.isdecimal() or len(version) > 9:
        raise AgreementKeyError(f"{text[:120]!r} is not NAME:VERSION of an agreement key")
    return find(name, int(version))


def standings() -> list[VersionUse]:
    """Return every version with its use, by name and the newest first; two queries."""
    counts: Mapping[int, tuple[int, int]] = {
        number: (meters, usable)
        for number, meters, usable in fetch_rows(
            """SELECT agreement_key_id, count(*) FILTER (WHERE state = 'active' AND epoch > 0), count(*)
               FROM keyvault_devicekey
               WHERE agreement_key_id IS NOT NULL AND state IN ('pending', 'active', 'retiring') GROUP BY 1"""
        )
    }
    rows = AgreementKey.objects.order_by("name", "-version").defer("wrapped")
    return [VersionUse(row, *counts.get(row.pk, (0, 0))) for row in rows]


def open_versions(numbers: Collection[int], master: MasterKeys) -> dict[int, X25519PrivateKey]:
    """Return the private keys of versions that new keys may use, by number; for keyvault alone.

    AgreementKeyError if one is unknown, is cut off, or does not open.
    """
    # A shared lock: whoever cuts a version off waits until these keys are stored, and then finds them.
    fetch_rows("SELECT 1 FROM keyvault_agreementkey WHERE id = ANY(%s::int[]) FOR SHARE", int_array(sorted(numbers)))
    rows = AgreementKey.objects.in_bulk(numbers)
    found = {}
    for number in numbers:
        row = rows.get(number)
        if row is None:
            raise AgreementKeyError(f"there is no version with number {number} of an agreement key")
        if row.state == AgreementState.CUT_OFF:
            raise AgreementKeyError(f"agreement key {row} is cut off: no new key goes with it")
        try:
            found[number] = open_pair(master, row.name, row.version, bytes(row.wrapped), bytes(row.public))
        except UnwrapError as error:
            raise AgreementKeyError(f"agreement key {row} does not open: {error}") from None
    return found


def open_pair(master: MasterKeys, name: str, version: int, wrapped: bytes, public: bytes) -> X25519PrivateKey:
    """Return the private key of a version; UnwrapError if its row was changed.

    The public key, which meters get, must belong to it: nothing else protects that column.
    """
    octets = master.unwrap(wrapped, Purpose.AGREEMENT_KEY, name.encode(), version)
    private = X25519PrivateKey.from_private_bytes(octets)
    if private.public_key().public_bytes_raw() != public:
        raise UnwrapError(f"the public key of {name} version {version} was changed")
    return private


def _make(name: str, version: int) -> AgreementKey:
    private = X25519PrivateKey.generate()
    master = keys_for_wrapping()
    wrapped = master.wrap(private.private_bytes_raw(), Purpose.AGREEMENT_KEY, name.encode(), version)
    try:
        row = AgreementKey.objects.create(
            name=name,
            version=version,
            public=private.public_key().public_bytes_raw(),
            wrapped=wrapped,
            master_key_version=master.active_version,
        )
    except IntegrityError:
        raise AgreementKeyError(f"somebody else made version {version} of {name} meanwhile: try again") from None
    journal.append("agreement_key", [row.pk, name, version, row.public, wrapped, master.active_version])
    return row


def _subject(row: AgreementKey) -> dict[str, Any]:
    return {"agreement_key": row.name, "version": row.version, "public": bytes(row.public).hex()}
