"""Proofs for files outside the database: a holder of the master key wrote them, and nobody changed them since."""

import hmac
import secrets
from typing import NamedTuple

from keyvault import master_key
from keyvault.master_key import MasterKeys, Purpose, UnwrapError

_KEY_OCTETS = 32


class ProofError(Exception):
    """The octets were changed, or written under another master key, or under a version that is gone."""


class Proof(NamedTuple):
    """HMAC-SHA-256 (32 octets) over the octets, and its key, made only for them and wrapped under the master key."""

    key: bytes
    mac: bytes


def prove(octets: bytes, owner: bytes) -> Proof:
    """Make a proof for octets that ``owner`` names. MasterKeyError if the master key cannot be used."""
    key = secrets.token_bytes(_KEY_OCTETS)
    wrapped = master_key.provider().fresh().wrap(key, Purpose.BACKUP_KEY, owner)
    return Proof(wrapped, hmac.digest(key, octets, "sha256"))


def check(proof: Proof, octets: bytes, owner: bytes, master: MasterKeys) -> None:
    """Check a proof; ProofError if it is not one for these octets under this master key."""
    try:
        key = master.unwrap(proof.key, Purpose.BACKUP_KEY, owner)
    except UnwrapError as error:
        raise ProofError(str(error)) from None
    if not hmac.compare_digest(hmac.digest(key, octets, "sha256"), proof.mac):
        raise ProofError("it was changed")
