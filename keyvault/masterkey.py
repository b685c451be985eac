"""The master key: versions in one file, and the wrapping of secrets under them.

A wrapped secret is a COSE_Encrypt0 with A256GCM (RFC 9053 section 4.1): protected {1: 3, 4: kid},
kid = master key version in 4 octets, unprotected {5: IV of 12 random octets}, and as external AAD
CBOR [purpose, owner, epoch], so that a row copied to another owner, epoch or use does not open.
"""

import base64
import json
import os
import secrets
import stat
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import cbor2
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

from keyvault.cose.structures import enc_structure

MASTER_KEY_OCTETS = 32
SECRET_OCTETS = 32

_PROTECTED_HEAD = b"\xa2\x01\x03\x04\x44"  # {1: A256GCM, 4: h'<4 octets>'}
_HEAD = b"\xd0\x83\x49" + _PROTECTED_HEAD
_IV_HEAD = b"\xa1\x05\x4c"  # {5: h'<12 octets>'}
_CIPHERTEXT_HEAD = b"\x58\x30"  # 48 octets: secret and tag
_WRAPPED_OCTETS = 77


class MasterKeyError(Exception):
    """The master key cannot be used; the message says why and what to do. The administrator's to mend."""


class UnwrapError(Exception):
    """A wrapped secret does not open: changed in the database, another owner's, or of a foreign master key."""


class MasterKeyState(StrEnum):
    ACTIVE = "active"
    DECRYPT_ONLY = "decrypt_only"


class Purpose(StrEnum):
    """What a wrapped secret is for; part of its AAD."""

    DEVICE_KEY = "device key"
    TRANSFER_KEY = "transfer key"
    FLEET_KEY = "fleet key"
    AUDIT_KEY = "audit key"


class MasterKeys:
    """The versions of one master key file. Key octets stay inside: there is no way to print them."""

    __slots__ = ("_aeads", "active_version")

    def __init__(self, keys: dict[int, bytes], active_version: int) -> None:
        self._aeads = {version: AESGCM(key) for version, key in keys.items()}
        self.active_version = active_version

    @property
    def versions(self) -> list[int]:
        return sorted(self._aeads)

    def __reduce__(self) -> str:
        raise TypeError("master keys are never pickled")

    def wrap(self, secret: bytes, purpose: Purpose, owner: bytes, epoch: int = 0) -> bytes:
        """A secret of 32 octets as 77 octets of COSE_Encrypt0 under the active version.

        ``owner`` is the system title of a device or the name of a fleet key.
        """
        if len(secret) != SECRET_OCTETS:
            raise ValueError(f"a secret has {SECRET_OCTETS} octets, not {len(secret)}")
        protected = _PROTECTED_HEAD + self.active_version.to_bytes(4, "big")
        iv = secrets.token_bytes(12)
        aad = enc_structure(protected, _external_aad(purpose, owner, epoch))
        ciphertext = self._aeads[self.active_version].encrypt(iv, secret, aad)
        return b"\xd0\x83\x49" + protected + _IV_HEAD + iv + _CIPHERTEXT_HEAD + ciphertext

    def unwrap(self, wrapped: bytes, purpose: Purpose, owner: bytes, epoch: int = 0) -> bytes:
        """The 32 octets that ``wrap`` took. UnwrapError: the row was changed or belongs to another."""
        if (
            len(wrapped) != _WRAPPED_OCTETS
            or wrapped[:8] != _HEAD
            or wrapped[12:15] != _IV_HEAD
            or wrapped[27:29] != _CIPHERTEXT_HEAD
        ):
            raise UnwrapError("the wrapped secret is not in the form this head-end writes")
        version = int.from_bytes(wrapped[8:12], "big")
        aead = self._aeads.get(version)
        if aead is None:
            raise UnwrapError(f"the master key file has no version {version}")
        try:
            aad = enc_structure(wrapped[3:12], _external_aad(purpose, owner, epoch))
            return aead.decrypt(wrapped[15:27], wrapped[29:], aad)
        except InvalidTag:
            raise UnwrapError(
                f"master key version {version} does not open it: the row was changed, or the master key is another's"
            ) from None


def init(path: Path) -> int:
    """Make a master key file with version 1, mode 0600; never overwrites. Gives the active version."""
    key = base64.b64encode(secrets.token_bytes(MASTER_KEY_OCTETS)).decode()
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"versions": [{"version": 1, "state": MasterKeyState.ACTIVE, "created_at": created_at, "key": key}]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise MasterKeyError(f"cannot make the folder {path.parent}: {error.strerror}") from None
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise MasterKeyError(f"{path} exists already and is left as it is; move it away to make another") from None
    except OSError as error:
        raise MasterKeyError(f"cannot make {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    return 1


def load(path: Path) -> MasterKeys:
    """Read a master key file; MasterKeyError where it is missing, readable by others, or not in our form."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise MasterKeyError(f"{path} has mode {mode:04o}: others may read it. Make it 0600: chmod 600 {path}")
            content = json.load(file)
        keys = {int(row["version"]): base64.b64decode(row["key"], validate=True) for row in content["versions"]}
        active = [int(row["version"]) for row in content["versions"] if row["state"] == MasterKeyState.ACTIVE]
    except FileNotFoundError:
        raise MasterKeyError(f"there is no master key file {path}: make one with manage.py master_key init") from None
    except OSError as error:
        raise MasterKeyError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise MasterKeyError(f"{path} is not a master key file as manage.py master_key init writes it") from None
    if len(active) != 1 or any(len(key) != MASTER_KEY_OCTETS for key in keys.values()):
        raise MasterKeyError(f"{path} must hold keys of {MASTER_KEY_OCTETS} octets, one version of them active")
    return MasterKeys(keys, active[0])


def current() -> MasterKeys:
    """The master keys of this deployment (setting MASTER_KEY_FILE), read again when the file changes."""
    path = Path(settings.MASTER_KEY_FILE)
    try:
        changed_ns = path.stat().st_mtime_ns
    except OSError:
        changed_ns = 0
    return _load_cached(path, changed_ns)


@lru_cache(maxsize=2)
def _load_cached(path: Path, _changed_ns: int) -> MasterKeys:
    return load(path)


def _external_aad(purpose: Purpose, owner: bytes, epoch: int) -> bytes:
    return cbor2.dumps([purpose.value, owner, epoch])
