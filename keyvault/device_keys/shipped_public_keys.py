"""Public keys of meters that a shipment brings: held against the vault, and agreed on with the meters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ami_headend.core.csv_tables import BadLine
from ami_headend.core.sql import chunks, fetch_rows, octets_array
from keyvault.device_keys import agreement_keys, provisioning, public_keys
from keyvault.device_keys.key_rows import FIRST_EPOCH
from keyvault.device_keys.shipment_file import ShipmentLine
from keyvault.schemes.table import USUAL, algorithm_name


@dataclass
class PublicKeyPlan:
    """The public keys that are to be agreed with, by kind of key, and the lines that nothing can be done with."""

    new: dict[tuple[str, int | None], dict[bytes, bytes]] = field(default_factory=dict)
    unchanged: int = 0
    bad: list[BadLine] = field(default_factory=list)

    @property
    def meters(self) -> int:
        return sum(map(len, self.new.values()))


def plan(lines: Sequence[ShipmentLine], agreement_key: str | None) -> PublicKeyPlan:
    """Hold public keys against the vault. AgreementKeyError where there is no agreement key for new ones."""
    found = PublicKeyPlan()
    first: dict[bytes, int] = {}
    for chunk in chunks(lines):
        owners = public_keys.owners([line.public or b"" for line in chunk])
        kinds = _first_keys([line.system_title for line in chunk])
        for line in chunk:
            public = line.public or b""
            if public in first:
                found.bad.append(BadLine(line.line, f"public_key is the same as that of line {first[public]}"))
                continue
            first[public] = line.line
            reason = _add(found, line, owners.get(public), kinds)
            if reason is not None:
                found.bad.append(BadLine(line.line, reason))
    titles = [title for publics in found.new.values() for title in publics]
    if titles:
        agreement_keys.active_for(titles, agreement_key)
    return found


def _add(
    found: PublicKeyPlan, line: ShipmentLine, owner: bytes | None, kinds: Mapping[bytes, tuple[str, int]]
) -> str | None:
    """Put a line where it belongs; or say what is wrong with it."""
    title, kind = line.system_title, kinds.get(line.system_title)
    if owner is not None and owner != title:
        return public_keys.refusal(owner)
    if owner == title and kind is not None:
        if line.scheme not in (None, kind[0]):
            return f"mismatch: the key of epoch {FIRST_EPOCH} is of scheme {kind[0]}"
        if line.algorithm not in (None, kind[1]):
            return f"mismatch: the key of epoch {FIRST_EPOCH} is for {algorithm_name(kind[1])}"
        found.unchanged += 1
        return None
    if owner == title or kind is not None:
        return "the meter has other keys: a new pair comes by a certificate (manage.py authority allow)"
    found.new.setdefault((line.scheme or USUAL, line.algorithm), {})[title] = line.public or b""
    return None


def _first_keys(titles: Sequence[bytes]) -> dict[bytes, tuple[str, int]]:
    """The scheme and algorithm of the lowest epoch from 1 on, by title; those of the transfer key where it is alone."""
    rows = fetch_rows(
        """SELECT DISTINCT ON (system_title) system_title, scheme, algorithm FROM keyvault_devicekey
           WHERE system_title = ANY(%s::bytea[]) ORDER BY system_title, epoch = 0, epoch""",
        octets_array(titles),
    )
    return {title: (scheme, algorithm) for title, scheme, algorithm in rows}


def store(found: PublicKeyPlan, agreement_key: str | None) -> None:
    """Agree with the meters on their first keys and transfer keys, in the caller's transaction; ProvisioningError."""
    for (scheme, algorithm), publics in found.new.items():
        for titles in chunks(list(publics)):
            some = {title: publics[title] for title in titles}
            provisioning.agree_with_devices(some, algorithm, scheme, agreement_key)
