"""The master key on a PKCS#11 token: made there, used there, and never taken out.

A version is an AES-256 key labelled "ami-headend master <number>", its CKA_ID the time it was made; the
highest number is the active one. One session a process, opened anew after a failure and after a fork.
"""

import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import pkcs11
from cryptography.exceptions import InvalidTag
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass, PKCS11Error
from pkcs11.mechanisms import GCMParams

from keyvault.master_key.secret_wrapping import (
    IV_OCTETS,
    MASTER_KEY_OCTETS,
    TAG_OCTETS,
    MasterKeyError,
    MasterKeys,
    MasterKeyState,
    UnwrapError,
    Version,
)

LISTED_S = 60.0  # so long what was listed is relied on; a version is destroyed much later than it is replaced
_LABEL = "ami-headend master {}"
_LABELLED = re.compile(r"ami-headend master ([1-9][0-9]*)")
_BAD_TAG = (pkcs11.EncryptedDataInvalid, pkcs11.EncryptedDataLenRange, pkcs11.DataInvalid, pkcs11.SignatureInvalid)
_BAD_PIN = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange, pkcs11.PinLocked, pkcs11.PinExpired)
_Result = TypeVar("_Result")
_Key = Any  # pkcs11.SecretKey; its class is made at run time, with what the key can do


class Pkcs11Provider:
    """Holds the versions on one token, found by its label."""

    def __init__(self, module: str, token: str, pin_file: Path) -> None:
        self.module, self.token, self.pin_file = module, token, pin_file
        self._lock = RLock()
        self._session: pkcs11.Session | None = None
        self._handles: dict[int, _Key] = {}
        self._keys: MasterKeys | None = None
        self._listed_at = 0.0
        self._refused_pin: str | None = None
        os.register_at_fork(after_in_child=self._forget)

    def __str__(self) -> str:
        return f"token {self.token}"

    def init(self) -> int:
        """Make version 1 on the token."""
        with self._lock:
            self._session = None  # a token that was removed may list nothing in an old session
            if self._on_token(self._find):
                raise MasterKeyError(f"{self} holds a master key already, and it is left as it is")
            return self._make(1)

    def current(self) -> MasterKeys:
        """Return the keys as listed within the last minute, or before if the token does not answer.

        Another host may have made a version since, and destroy an older one: what is written under that would be lost.
        """
        with self._lock:
            if self._keys is None:
                return self.fresh()
            if time.monotonic() - self._listed_at < LISTED_S:
                return self._keys
            try:
                return self.fresh()
            except MasterKeyError:
                self._listed_at = time.monotonic()  # not again with each act, while the token is away
                return self._keys

    def fresh(self) -> MasterKeys:
        """List the keys on the token now."""
        with self._lock:
            self._handles = self._on_token(self._list)
            self._listed_at = time.monotonic()
            self._keys = MasterKeys(
                {number: _TokenKey(self, number) for number in self._handles}, max(self._handles), self.fresh
            )
            return self._keys

    def versions(self) -> list[Version]:
        """Return the versions on the token. A destroyed one is gone, but in the audit chain."""
        with self._lock:
            made = self._on_token(lambda: {number: _made_at(key) for number, key in sorted(self._find().items())})
        numbers = list(made)
        return [
            Version(number, MasterKeyState.DECRYPT_ONLY, made[number], made[following])
            for number, following in pairwise(numbers)
        ] + [Version(number, MasterKeyState.ACTIVE, made[number]) for number in numbers[-1:]]

    def add_version(self) -> int:
        """Make the next version on the token; as the highest, it is the active one."""
        with self._lock:
            return self._make(self.fresh().active_version + 1)

    def destroy(self, number: int) -> None:
        """Destroy a version's key on the token; never the active one's."""
        with self._lock:
            keys = self.fresh()
            if number not in keys.versions or number == keys.active_version:
                state = "active" if number in keys.versions else "not there"
                raise MasterKeyError(f"{self}: version {number} is {state}; only an older one can be destroyed")
            self._writing(lambda session: self._find(session)[number].destroy())
            self.fresh()

    def encrypt(self, number: int, iv: bytes, octets: bytes, aad: bytes) -> bytes:
        """AES-256-GCM on the token under one version."""
        return self._on_token(lambda: self._gcm(number, iv, octets, aad, decrypt=False))

    def decrypt(self, number: int, iv: bytes, octets: bytes, aad: bytes) -> bytes:
        """Decrypt and verify; InvalidTag if the tag is wrong."""
        return self._on_token(lambda: self._decrypt(number, iv, octets, aad))

    def _decrypt(self, number: int, iv: bytes, octets: bytes, aad: bytes) -> bytes:
        try:
            return self._gcm(number, iv, octets, aad, decrypt=True)
        except _BAD_TAG:
            raise InvalidTag from None
        except (pkcs11.GeneralError, pkcs11.FunctionFailed):
            # Some tokens report a bad tag only by this error: if the token still opens what it seals, it works.
            probe = self._gcm(number, iv := secrets.token_bytes(IV_OCTETS), aad, b"", decrypt=False)
            if self._gcm(number, iv, probe, b"", decrypt=True) != aad:
                raise
            raise InvalidTag from None

    def _gcm(self, number: int, iv: bytes, octets: bytes, aad: bytes, *, decrypt: bool) -> bytes:
        key = self._handles.get(number) or self._list().get(number)
        if key is None:  # destroyed since the keys were read
            error = UnwrapError if decrypt else MasterKeyError
            raise error(f"{self} has no version {number} any more: it was destroyed")
        self._handles[number] = key
        act = key.decrypt if decrypt else key.encrypt
        return bytes(
            act(octets, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(iv, aad, tag_bits=8 * TAG_OCTETS))
        )

    def _make(self, number: int) -> int:
        self._writing(
            lambda session: session.generate_key(
                KeyType.AES,
                8 * MASTER_KEY_OCTETS,
                id=datetime.now(UTC).isoformat(timespec="seconds").encode(),
                label=_LABEL.format(number),
                store=True,
                capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
                template={Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
            )
        )
        self.fresh()
        return number

    def _writing(self, act: Callable[[pkcs11.Session], object]) -> None:
        """Do one act in a separate read-write session, which shares the login of the process."""
        try:
            self._on_token(self._find)  # logged in, and the token answers
            session = pkcs11.lib(self.module).get_token(token_label=self.token).open(rw=True)
            try:
                act(session)
            finally:
                session.close()
        except PKCS11Error as error:
            raise MasterKeyError(f"{self} refuses: {_said(error)}") from None

    def _list(self) -> dict[int, _Key]:
        """List the versions on the token, at least one; in an old session, a token that was removed may list none."""
        found = self._find()
        if not found:
            raise pkcs11.NoSuchKey
        return found

    def _find(self, session: pkcs11.Session | None = None) -> dict[int, _Key]:
        found: dict[int, _Key] = {}
        session = session or self._session
        if session is None:
            raise pkcs11.SessionClosed
        key: _Key
        for key in session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES}):
            labelled = _LABELLED.fullmatch(key.label or "")
            if labelled is None:
                continue
            number = int(labelled[1])
            if number in found:
                raise MasterKeyError(f"{self} holds two keys labelled {key.label!r}: which is ours cannot be told")
            if key[Attribute.EXTRACTABLE]:
                raise MasterKeyError(f"{self}: the key labelled {key.label!r} is extractable; it was not made here")
            found[number] = key
        return found

    def _on_token(self, act: Callable[[], _Result]) -> _Result:
        """Do one act on the open session, and if that fails on a new one. Else MasterKeyError."""
        with self._lock:
            try:
                if self._session is not None:
                    return act()
            except PKCS11Error:
                self._session = None
            try:
                self._open()
                return act()
            except pkcs11.NoSuchKey:
                raise MasterKeyError(
                    f"{self} holds no master key: put it back; only for a new head-end, make one with manage.py "
                    "master_key init"
                ) from None
            except PKCS11Error as error:
                self._session = None
                raise MasterKeyError(f"{self} does not answer: {_said(error)}. See the HSM and PKCS11_MODULE") from None

    def _open(self) -> None:
        self._handles = {}
        pin = self._pin()
        try:
            library = pkcs11.lib(self.module)
            try:
                library.reinitialize()  # required after a fork, and a clean start after a failure
            except PKCS11Error:
                library.initialize()  # nothing was open
            self._session = library.get_token(token_label=self.token).open(user_pin=pin)
        except _BAD_PIN as error:
            self._refused_pin = pin  # no retry: tokens lock after a few wrong PINs
            raise MasterKeyError(f"{self} refuses the PIN in {self.pin_file}: {_said(error)}") from None
        except PKCS11Error:
            raise
        except (OSError, RuntimeError) as error:
            raise MasterKeyError(f"cannot load PKCS11_MODULE {self.module}: {error}") from None

    def _pin(self) -> str:
        try:
            mode = stat.S_IMODE(self.pin_file.stat().st_mode)
            pin = self.pin_file.read_text().strip()
        except OSError as error:
            raise MasterKeyError(f"cannot read PKCS11_PIN_FILE {self.pin_file}: {error.strerror}") from None
        if mode & 0o077:
            raise MasterKeyError(f"{self.pin_file} has mode {mode:04o}: others may read it. chmod 600 {self.pin_file}")
        if pin == self._refused_pin:
            raise MasterKeyError(f"{self} refused the PIN in {self.pin_file}; it is not tried again until it changes")
        return pin

    def _forget(self) -> None:
        """In a child after a fork: drop the session of the parent, whose lock may be held forever."""
        self._lock = RLock()
        self._session = None


class _TokenKey:
    """One version on the token, as an AEAD."""

    __slots__ = ("_number", "_provider")

    def __init__(self, provider: Pkcs11Provider, number: int) -> None:
        self._provider, self._number = provider, number

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes:
        return self._provider.encrypt(self._number, nonce, data, associated_data)

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes, /) -> bytes:
        return self._provider.decrypt(self._number, nonce, data, associated_data)


def _made_at(key: _Key) -> datetime | None:
    try:
        return datetime.fromisoformat(bytes(key.id).decode())
    except ValueError:
        return None


def _said(error: PKCS11Error) -> str:
    text = str(error)
    return f"{type(error).__name__} ({text})" if text else type(error).__name__
