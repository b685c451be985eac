"""How the head-end signs in at receivers by SSH: with a key of its own, or with a password that they gave.

Both are wrapped under the master key as the secrets of webhooks are, in the same table. Nobody sees the private key;
the public one is for the receiver's ``authorized_keys``.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from django.db import transaction

from keyvault import master_key
from keyvault.master_key import Purpose, UnwrapError
from keyvault.master_key.rotation_lock import keys_for_wrapping
from keyvault.master_key.secret_wrapping import SECRET_OCTETS
from keyvault.models import SigningSecret

PASSWORD_OCTETS_MAX = 127
_KEY = "key"
_PASSWORD = ("password 1", "password 2", "password 3", "password 4")  # in parts, as what is wrapped has 32 octets


class LoginError(Exception):
    """There is nothing to sign in with, or its row was changed: make a new key, or enter the password again."""


@dataclass(frozen=True)
class SshLogin:
    """One of them is not None: a private key in the form of OpenSSH, or a password."""

    private_key: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


def new_key(owner: str, now: datetime) -> str:
    """Make an Ed25519 key in place of what there was, and return its public half as a line of ``authorized_keys``."""
    seed = secrets.token_bytes(SECRET_OCTETS)
    _keep(owner, {_KEY: seed}, now)
    return _public(seed)


def check_password(password: str) -> None:
    """Raise ValueError for a password that is empty, too long, or that no server is sent."""
    try:
        octets = len(password.encode())
    except UnicodeEncodeError:
        octets = 0
    if not 0 < octets <= PASSWORD_OCTETS_MAX or "\0" in password:
        raise ValueError(f"a password has 1 to {PASSWORD_OCTETS_MAX} octets of UTF-8, none of them zero")


def keep_password(owner: str, password: str, now: datetime) -> None:
    """Keep a password in place of what there was. ValueError if it cannot be one."""
    check_password(password)
    octets = password.encode()
    parts = [octets[at : at + SECRET_OCTETS] for at in range(0, len(octets), SECRET_OCTETS)]
    _keep(owner, {part: one.ljust(SECRET_OCTETS, b"\0") for part, one in zip(_PASSWORD, parts, strict=False)}, now)


def public_key(owner: str) -> str:
    """Return the public key as a line of ``authorized_keys``; empty if there is a password. LoginError."""
    found = _open(owner)
    return _public(found[_KEY]) if _KEY in found else ""


def login(owner: str) -> SshLogin:
    """Return what to sign in with. LoginError; MasterKeyError if the master key cannot be used now."""
    found = _open(owner)
    if _KEY not in found:
        return SshLogin(password=b"".join(found[part] for part in _PASSWORD if part in found).rstrip(b"\0").decode())
    private = Ed25519PrivateKey.from_private_bytes(found[_KEY])
    return SshLogin(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode())


def withdraw(owner: str) -> None:
    """Delete what an owner signs in with."""
    SigningSecret.objects.filter(owner__in=[_named(owner, kind) for kind in (_KEY, *_PASSWORD)]).delete()


def _keep(owner: str, parts: Mapping[str, bytes], now: datetime) -> None:
    with transaction.atomic():
        master = keys_for_wrapping()
        withdraw(owner)
        for kind, octets in parts.items():
            name = _named(owner, kind)
            SigningSecret.objects.create(
                owner=name,
                wrapped=master.wrap(octets, Purpose.SIGNING_SECRET, name.encode()),
                master_key_version=master.active_version,
                created_at=now,
            )


def _open(owner: str) -> dict[str, bytes]:
    names = {_named(owner, kind): kind for kind in (_KEY, *_PASSWORD)}
    rows = list(SigningSecret.objects.filter(owner__in=names))
    if not rows:
        raise LoginError(f"there is neither a key nor a password of {owner}")
    try:
        master = master_key.current()
        return {
            names[row.owner]: master.unwrap(bytes(row.wrapped), Purpose.SIGNING_SECRET, row.owner.encode())
            for row in rows
        }
    except UnwrapError as error:
        raise LoginError(f"the key or password of {owner} does not open: {error}") from None


def _named(owner: str, kind: str) -> str:
    return f"{owner}, {kind}"


def _public(seed: bytes) -> str:
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return f"{public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()} ami-headend"
