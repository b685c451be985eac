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
    """What holds the versions of the master key. Every method raises MasterKeyError where it cannot."""

    def __str__(self) -> str:
        """Where the versions are, for people."""

    def init(self) -> int:
        """Make version 1, active; refused where there is one already."""

    def current(self) -> MasterKeys:
        """The keys as last read: cheap, for every batch. A version not among them is looked for anew."""

    def fresh(self) -> MasterKeys:
        """The keys as they stand now."""

    def versions(self) -> list[Version]:
        """Every version that is known of, lowest first."""

    def add_version(self) -> int:
        """Make the next version and make it the active one; the others stay for opening. Gives its number."""

    def destroy(self, number: int) -> None:
        """Destroy a version's key for good; never the active one's."""


_instead: ContextVar[Provider | None] = ContextVar("master_key_provider", default=None)


@contextmanager
def using(instead: Provider) -> Iterator[None]:
    """Another provider than this deployment's until the block ends: a copy of its master key that is tried out."""
    token = _instead.set(instead)
    try:
        yield
    finally:
        _instead.reset(token)


def provider() -> Provider:
    """The provider of this deployment (setting MASTER_KEY_PROVIDER)."""
    return _instead.get() or _provider(
        settings.MASTER_KEY_PROVIDER,
        Path(settings.MASTER_KEY_FILE),
        settings.PKCS11_MODULE,
        settings.PKCS11_TOKEN,
        settings.PKCS11_PIN_FILE,
    )


def current() -> MasterKeys:
    """The master keys of this deployment, as last read. A changed file is read again."""
    return provider().current()


def probe() -> MasterKeys:
    """The master keys as they stand now, tried out: what is sealed opens. MasterKeyError where they cannot be used."""
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
