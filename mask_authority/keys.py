"""The key file of a mask authority: JSON, mode 0600.

Its keys are for good: meters get the public one in the factory.
"""

import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

_FORM = "ami-headend mask authority 1"
FILE = "keys.json"


class AuthorityStateError(Exception):
    """The authority's folder cannot be used as it is; the message says what to do."""


class AuthorityKeys:
    """The private keys of an authority: X25519 to share masks with meters, Ed25519 to sign. Never printed or pickled.

    ``witness`` is the file, on another disk, that tells whether the state was restored.
    """

    def __init__(self, name: str, masks: X25519PrivateKey, signing: Ed25519PrivateKey, witness: Path) -> None:
        self.name, self.masks, self.signing, self.witness = name, masks, signing, witness

    def __reduce__(self) -> str:
        raise TypeError("an authority's keys are never pickled")

    @property
    def mask_public(self) -> bytes:
        """What meters get in the factory: X25519, 32 octets."""
        return self.masks.public_key().public_bytes_raw()

    @property
    def sign_public(self) -> bytes:
        """What head-ends pin: Ed25519, 32 octets."""
        return self.signing.public_key().public_bytes_raw()


def make(folder: Path, name: str, witness: Path) -> AuthorityKeys:
    """Make an authority's folder and keys; never over another. AuthorityStateError."""
    if not name.isprintable() or not 1 <= len(name) <= 60:
        raise AuthorityStateError("the name of an authority has 1 to 60 printable characters")
    keys = AuthorityKeys(name, X25519PrivateKey.generate(), Ed25519PrivateKey.generate(), witness.absolute())
    content = {
        "form": _FORM,
        "name": name,
        "witness": str(keys.witness),
        "x25519": keys.masks.private_bytes_raw().hex(),
        "ed25519": keys.signing.private_bytes_raw().hex(),
    }
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(descriptor)
    except FileExistsError:
        raise AuthorityStateError(f"{folder / FILE} exists already and is left as it is: name a new folder") from None
    except OSError as error:
        raise AuthorityStateError(f"cannot write {folder / FILE}: {error.strerror}") from None
    return keys


def load(folder: Path) -> AuthorityKeys:
    """The keys in an authority's folder; AuthorityStateError where there are none, or others may read them."""
    path = folder / FILE
    try:
        mode = path.stat().st_mode & 0o777
        content = json.loads(path.read_text())
        if content["form"] != _FORM:
            raise ValueError
        keys = AuthorityKeys(
            content["name"],
            X25519PrivateKey.from_private_bytes(bytes.fromhex(content["x25519"])),
            Ed25519PrivateKey.from_private_bytes(bytes.fromhex(content["ed25519"])),
            Path(content["witness"]),
        )
    except OSError as error:
        raise AuthorityStateError(
            f"cannot read {path}: {error.strerror}. Make an authority with manage.py mask_authority init"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise AuthorityStateError(f"{path} is no key file of a mask authority") from None
    if mode & 0o077:
        raise AuthorityStateError(f"{path} has mode {mode:04o}: others may read it. chmod 600 {path}")
    return keys
