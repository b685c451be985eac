"""Wraps secrets under a version of the master key, whichever provider holds it.

A wrapped secret is a COSE_Encrypt0 with A256GCM (RFC 9053 section 4.1): protected {1: 3, 4: kid},
kid = master key version in 4 octets, unprotected {5: IV of 12 random octets}, and as external AAD
CBOR [purpose, owner, epoch], so that a row copied to another owner, epoch or use does not open.
"""

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

import cbor2
from cryptography.exceptions import InvalidTag

from keyvault.cose.structures import enc_structure

MASTER_KEY_OCTETS = 32
SECRET_OCTETS = 32
IV_OCTETS = 12
TAG_OCTETS = 16

_PROTECTED_HEAD = b"\xa2\x01\x03\x04\x44"  # {1: A256GCM, 4: h'<4 octets>'}
_HEAD = b"\xd0\x83\x49" + _PROTECTED_HEAD
_IV_HEAD = b"\xa1\x05\x4c"  # {5: h'<12 octets>'}
_CIPHERTEXT_HEADS = {octets: bytes((0x58, octets + TAG_OCTETS)) for octets in (16, 32, 64)}  # secret and tag
_AROUND = 45  # octets that a wrapped secret has beside the secret


class MasterKeyError(Exception):
    """The master key cannot be used; the message says why and what the administrator has to do."""


class UnwrapError(Exception):
    """A wrapped secret does not open: its row was changed, it is of another owner, or of another master key."""


class MasterKeyState(StrEnum):
    ACTIVE = "active"
    DECRYPT_ONLY = "decrypt_only"
    DESTROYED = "destroyed"


class Purpose(StrEnum):
    """The purpose of a wrapped secret; part of its AAD."""

    DEVICE_KEY = "device key"
    DLMS = "dlms"
    TRANSFER_KEY = "transfer key"
    FLEET_KEY = "fleet key"
    AGREEMENT_KEY = "agreement key"
    PUBLIC_KEY = "public key of a device"
    AUDIT_KEY = "audit key"
    JOURNAL_KEY = "journal key"
    BACKUP_KEY = "backup key"
    SIGNING_SECRET = "signing secret"  # noqa: S105 - what it is for


class Version(NamedTuple):
    """One version of the master key and its dates, as far as they are known; no octets."""

    number: int
    state: MasterKeyState
    created_at: datetime | None
    decrypt_only_at: datetime | None = None
    destroyed_at: datetime | None = None


class Aead(Protocol):
    """AES-256-GCM under one version: IV of 12 octets, tag of 16 at the end. A bad tag raises InvalidTag."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes: ...


class MasterKeys:
    """The versions that can be used now. Key octets cannot be printed.

    ``look_again`` returns newer keys, for a version that is not among these.
    """

    __slots__ = ("__weakref__", "_aeads", "_look_again", "active_version")

    def __init__(
        self,
        aeads: Mapping[int, Aead],
        active_version: int,
        look_again: "Callable[[], MasterKeys] | None" = None,
    ) -> None:
        self._aeads = dict(aeads)
        self.active_version = active_version
        self._look_again = look_again

    @property
    def versions(self) -> list[int]:
        return sorted(self._aeads)

    def __reduce__(self) -> str:
        raise TypeError("master keys are never pickled")

    def wrap(self, secret: bytes, purpose: Purpose, owner: bytes, epoch: int = 0) -> bytes:
        """Wrap a secret of 32 octets (for DLMS also 16 or 64) under the active version; COSE_Encrypt0 adds 45.

        ``owner`` is the system title of a device, the name of a fleet or agreement key, or who signs; ``epoch`` of an
        agreement key is its version.
        """
        if len(secret) != SECRET_OCTETS and (purpose is not Purpose.DLMS or len(secret) not in _CIPHERTEXT_HEADS):
            raise ValueError(f"a secret has {SECRET_OCTETS} octets, not {len(secret)}")
        return self._seal(secret, _external_aad(purpose, owner, epoch))

    def unwrap(self, wrapped: bytes, purpose: Purpose, owner: bytes, epoch: int = 0) -> bytes:
        """Return the octets that were wrapped. UnwrapError if the row was changed or has another owner."""
        return self._open(wrapped, _external_aad(purpose, owner, epoch))

    def rewrap(self, wrapped: bytes, purpose: Purpose, owner: bytes, epoch: int = 0) -> bytes:
        """Wrap a secret again, under the active version; UnwrapError as for ``unwrap``."""
        external_aad = _external_aad(purpose, owner, epoch)
        return self._seal(self._open(wrapped, external_aad), external_aad)

    def _seal(self, secret: bytes, external_aad: bytes) -> bytes:
        protected = _PROTECTED_HEAD + self.active_version.to_bytes(4, "big")
        iv = secrets.token_bytes(IV_OCTETS)
        ciphertext = self._aeads[self.active_version].encrypt(iv, secret, enc_structure(protected, external_aad))
        return b"\xd0\x83\x49" + protected + _IV_HEAD + iv + _CIPHERTEXT_HEADS[len(secret)] + ciphertext

    def _open(self, wrapped: bytes, external_aad: bytes) -> bytes:
        version = wrapped_version(wrapped)
        try:
            return self._aead(version).decrypt(wrapped[15:27], wrapped[29:], enc_structure(wrapped[3:12], external_aad))
        except InvalidTag:
            raise UnwrapError(
                f"master key version {version} does not open it: the row was changed, or the master key is another's"
            ) from None

    def _aead(self, version: int) -> Aead:
        aead = self._aeads.get(version)
        if aead is None and self._look_again is not None:
            aead = self._look_again()._aeads.get(version)  # noqa: SLF001 - its own class
        if aead is None:
            raise UnwrapError(f"the master key has no version {version}: it was destroyed, or is another's")
        return aead


def wrapped_version(wrapped: bytes) -> int:
    """Return the master key version that a wrapped secret names. UnwrapError if it has another form."""
    if (
        wrapped[:8] != _HEAD
        or wrapped[12:15] != _IV_HEAD
        or wrapped[27:29] != _CIPHERTEXT_HEADS.get(len(wrapped) - _AROUND)
    ):
        raise UnwrapError("the wrapped secret is not in the form this head-end writes")
    return int.from_bytes(wrapped[8:12], "big")


def _external_aad(purpose: Purpose, owner: bytes, epoch: int) -> bytes:
    return cbor2.dumps([purpose.value, owner, epoch])
