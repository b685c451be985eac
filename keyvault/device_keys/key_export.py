"""Export of device keys: the keys of named devices, wrapped under a transport key, into a new file."""

import gzip
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from django.db import transaction
from django.utils import timezone

from ami_headend.core.sql import chunks
from ami_headend.core.text import some
from keyvault import approvals
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import shipment_file
from keyvault.device_keys.key_rows import TRANSFER_EPOCH
from keyvault.device_keys.shipment_file import ShipmentError, ShipmentHeader, ShipmentLine
from keyvault.device_keys.shipment_kek import TransportKey
from keyvault.device_keys.unwrapping import open_keys
from keyvault.models import DeviceKey, KeyState
from keyvault.schemes.table import USUAL, has_key_sets

_NAMED = 10


class Exported(NamedTuple):
    """What was written: numbers of keys and transfer keys, and the file's SHA-256."""

    keys: int
    transfer_keys: int
    sha256: bytes


def export(
    system_titles: Sequence[bytes],
    transport_key: TransportKey,
    path: Path,
    shipment: str,
    actor: Actor,
    done: Callable[[int], None] = lambda count: None,
) -> Exported:
    """Write the active key and the transfer key of each device into a new shipment, mode 0600 (gzip where named .gz).

    Never overwrites a file, and leaves no partial one. The audit record is committed before the file gets its name, and
    uses up the approval if one is required. ShipmentError if a device has no active key, a key does not open, or the
    file cannot be written; ApprovalError, MasterKeyError and AuditError.
    """
    shipment_file.check_name(shipment)
    if path.exists() or path.is_symlink():
        raise ShipmentError(f"{path} exists already and is left as it is: name a new file")
    titles = sorted(set(system_titles))
    approvals.check(approvals.EXPORT, approval_subject(titles, transport_key), timezone.now())
    ids = _key_ids(titles)
    header = ShipmentHeader(shipment, transport_key.fingerprint, len(titles))
    written = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        written = Path(name)
        with os.fdopen(descriptor, "w+b") as file:
            counts = _write(file, header, _lines(titles, ids, transport_key, done), packed=path.suffix == ".gz")
            file.flush()
            os.fsync(descriptor)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").digest()
        exported = Exported(*counts, sha256)
        _record(actor, header, exported, path, titles, transport_key)
        path.hardlink_to(written)  # a rename would overwrite
    except OSError as error:
        raise ShipmentError(f"cannot write {path}: {error.strerror}") from None
    finally:
        if written is not None:
            written.unlink(missing_ok=True)
    return exported


def approval_subject(system_titles: Sequence[bytes], transport_key: TransportKey) -> dict[str, Any]:
    """Return what a second person approves: the keys of these devices only, for the holder of this transport key."""
    titles = sorted(set(system_titles))
    return {
        "devices": len(titles),
        "sha256": hashlib.sha256(b"".join(titles)).hexdigest(),
        "first": [title.hex() for title in titles[: chain.NAMED_MAX]],
        "transport_key": transport_key.fingerprint.hex(),
    }


def _key_ids(titles: Sequence[bytes]) -> dict[tuple[bytes, bool], tuple[int, str]]:
    """Return ids and schemes of active keys, by title and whether it is the transfer key; ShipmentError if missing."""
    found: dict[tuple[bytes, bool], tuple[int, str]] = {}
    for chunk in chunks(titles):
        rows = DeviceKey.objects.filter(system_title__in=chunk, state=KeyState.ACTIVE)
        for title, epoch, key_id, scheme in rows.values_list("system_title", "epoch", "pk", "scheme"):
            found[bytes(title), epoch == TRANSFER_EPOCH] = key_id, scheme
    keyless = [title.hex() for title in titles if (title, False) not in found]
    if keyless:
        raise ShipmentError(f"no active key for {some(keyless, _NAMED)}")
    return found


def _lines(
    titles: Sequence[bytes],
    ids: dict[tuple[bytes, bool], tuple[int, str]],
    transport_key: TransportKey,
    done: Callable[[int], None],
) -> Iterator[ShipmentLine]:
    for chunk in chunks(titles):
        wanted = [one[0] for title in chunk for transfer in (False, True) if (one := ids.get((title, transfer)))]
        opened = {key.id: key for key in open_keys(wanted)}
        if len(opened) != len(wanted):
            raise ShipmentError("keys do not open: their rows were changed, or went; see the log")
        for title in chunk:
            key_id, scheme = ids[title, False]
            key = opened[key_id]
            line = ShipmentLine(0, title, key.epoch, key.algorithm, _wrapped(key.octets, scheme, transport_key), None)
            if scheme != USUAL:  # programs that know no schemes can read a file that names none
                line = line._replace(scheme=scheme)
            if (title, True) in ids:
                transfer = opened[ids[title, True][0]]
                other = None if transfer.algorithm == key.algorithm or has_key_sets(scheme) else transfer.algorithm
                line = line._replace(transfer_key=transport_key.wrap(transfer.octets), transfer_algorithm=other)
            yield line
        done(len(chunk))


def _wrapped(octets: bytes, scheme: str, transport_key: TransportKey) -> bytes:
    """A device key as a line holds it; of a key set each key by itself, without a GAK that is not known."""
    if not has_key_sets(scheme):
        return transport_key.wrap(octets)
    half = len(octets) // 2
    gak = octets[half:]
    return transport_key.wrap(octets[:half]) + (transport_key.wrap(gak) if any(gak) else b"")


def _write(file: IO[bytes], header: ShipmentHeader, lines: Iterator[ShipmentLine], *, packed: bool) -> tuple[int, int]:
    """Write a shipment; return how many keys and transfer keys are in it."""
    keys = transfer_keys = 0
    target: IO[bytes] | gzip.GzipFile = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if packed else file
    target.write(shipment_file.encode_header(header))
    for line in lines:
        target.write(shipment_file.encode_line(line))
        keys += 1
        transfer_keys += line.transfer_key is not None
    if packed:
        target.close()  # the file itself stays open
    return keys, transfer_keys


def _record(
    actor: Actor,
    header: ShipmentHeader,
    exported: Exported,
    path: Path,
    titles: Sequence[bytes],
    transport_key: TransportKey,
) -> None:
    subject = {
        "shipment": header.shipment,
        "transport_key": header.transport_key.hex(),
        "sha256": exported.sha256.hex(),
        "file": path.name,
        "keys": exported.keys,
        "transfer_keys": exported.transfer_keys,
        "devices": [title.hex() for title in titles[: chain.NAMED_MAX]],
    }
    with transaction.atomic():
        spent = approvals.use(approvals.EXPORT, approval_subject(titles, transport_key), timezone.now())
        chain.record(actor, approvals.EXPORT, {**subject, **spent})
