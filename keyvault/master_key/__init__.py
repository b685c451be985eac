"""The master key: its versions, where they are held, and the wrapping of secrets under them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from django.conf import settings

from keyvault.master_key.file import FileProvider, init, load
from keyvault.master_key.secret_wrapping import (
    MasterKeyError,
    MasterKeys,
    MasterKeyState,
    Purpose,
    UnwrapError,
    Version,
    wrapped_version,
)

__all__ = [
    "FileProvider",
    "MasterKeyError",
    "MasterKeyState",
    "MasterKeys",
    "Provider",
    "Purpose",
    "UnwrapError",
    "Version",
    "current",
    "init",
    "load",
    "probe",
    "provider",
    "using",
    "wrapped_version",
]

FILE, PKCS11 = "file", "pkcs11"
PROVIDERS = (FILE, PKCS11)


class Provider(Protocol):
    """Holds the versions of the master key. Every method raises MasterKeyError if it fails."""

    def __str__(self) -> str:
        """Return where the versions are, for people."""

    def init(self) -> int:
        """Make version 1 and activate it; refused if there is one already."""

    def current(self) -> MasterKeys:
        """Return the keys as last read: cheap, for every batch. An unknown version is looked up again."""

    def fresh(self) -> MasterKeys:
        """Read the keys now."""

    def versions(self) -> list[Version]:
        """Return every known version, lowest first."""

    def add_version(self) -> int:
        """Make the next version, activate it, and return its number; the others still open secrets."""

    def destroy(self, number: int) -> None:
        """Destroy a version's key for good; never the active one's."""


_instead: ContextVar[Provider | None] = ContextVar("master_key_provider", default=None)


@contextmanager
def using(instead: Provider) -> Iterator[None]:
    """Use another provider until the block ends, to try out a copy of the master key."""
    token = _instead.set(instead)
    try:
        yield
    finally:
        _instead.reset(token)


def provider() -> Provider:
    """Return the provider of this deployment (setting MASTER_KEY_PROVIDER)."""
    return _instead.get() or _provider(
        settings.MASTER_KEY_PROVIDER,
        Path(settings.MASTER_KEY_FILE),
        settings.PKCS11_MODULE,
        settings.PKCS11_TOKEN,
        settings.PKCS11_PIN_FILE,
    )


def current() -> MasterKeys:
    """Return the master keys of this deployment, as last read. A changed file is read again."""
    return provider().current()


def probe() -> MasterKeys:
    """Read the master keys now and try whether a secret that they wrap opens. MasterKeyError if they cannot be used."""
    keys = provider().fresh()
    secret, owner = bytes(32), b"probe"
    try:
        opened = keys.unwrap(keys.wrap(secret, Purpose.AUDIT_KEY, owner), Purpose.AUDIT_KEY, owner)
    except UnwrapError as error:
        raise MasterKeyError(f"{provider()} does not open what it sealed: {error}") from None
    if opened != secret:
        raise MasterKeyError(f"{provider()} opens to other octets than it sealed")
    return keys


@lru_cache(maxsize=4)
def _provider(kind: str, path: Path, module: str, token: str, pin_file: str) -> Provider:
    if kind == FILE:
        return FileProvider(path)
    if kind != PKCS11:
        raise MasterKeyError(f"MASTER_KEY_PROVIDER is {kind!r}: it must be one of {', '.join(PROVIDERS)}")
    try:
        from keyvault.master_key.pkcs11 import Pkcs11Provider  # noqa: PLC0415 - python-pkcs11 is installed for it only
    except ImportError:
        raise MasterKeyError(
            "MASTER_KEY_PROVIDER=pkcs11 needs python-pkcs11: pip install --require-hashes -r requirements/hsm.txt"
        ) from None
    return Pkcs11Provider(module, token, Path(pin_file))
