"""The key file of an authority, for laboratories and small utilities: what it signs with, and what it issued.

JSON, mode 0600. The file is the authority: it is kept where certificates are made, and never comes to the head-end,
which has its public key alone. Issuing and revoking write it before the certificate leaves.
"""

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyvault.cose.structures import SYSTEM_TITLE_OCTETS
from keyvault.enrolment import certificates
from keyvault.enrolment.authorities import AuthorityError, PublicAuthority, approval_subject
from keyvault.enrolment.certificates import (
    CERTIFICATE_MAX_OCTETS,
    CTI_OCTETS,
    CURVE_X25519,
    CertificateError,
    check_authority_key,
)
from keyvault.schemes.agreed import AgreementError, check_public

_FORM = "ami-headend authority 1"


class AuthorityFile:
    """An authority that was read from its file. It cannot be printed or pickled."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self._path = path
        self._content = content
        self._private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(content["private"]))

    def __reduce__(self) -> str:
        raise TypeError("an authority's key is never pickled")

    @property
    def public(self) -> PublicAuthority:
        """What others pin."""
        until = self._content["expires_s"]
        return PublicAuthority(
            self._content["kid"].encode(),
            self._content["issuer"],
            self._private.public_key().public_bytes_raw(),
            None if until is None else datetime.fromtimestamp(until, UTC),
        )

    def issue(
        self,
        system_title: bytes,
        audience: str,
        public: bytes,
        now: datetime,
        expires_at: datetime,
        curve: int = CURVE_X25519,
    ) -> tuple[bytes, list[bytes]]:
        """A certificate for a meter's public key (32 octets), and the revocations of those that it had before.

        Those for another audience stand: they are of other keys.

        AuthorityError where the key is refused, the times do not fit, or it would be too long.
        """
        if len(system_title) != SYSTEM_TITLE_OCTETS:
            raise AuthorityError(f"a system title has {SYSTEM_TITLE_OCTETS} octets, not {len(system_title)}")
        try:
            check_public(public) if curve == CURVE_X25519 else check_authority_key(public)
        except (AgreementError, CertificateError) as error:
            raise AuthorityError(str(error)) from None
        until = self.public.expires_at
        if expires_at <= now or (until is not None and expires_at > until):
            raise AuthorityError("a certificate ends after it begins, and not after its authority")
        title, cti = system_title.hex(), secrets.token_bytes(CTI_OCTETS)
        times = int(now.timestamp()), int(expires_at.timestamp())
        kid, issuer, *_ = self.public
        octets = certificates.issue(self._private, kid, issuer, system_title, audience, public, cti, *times, curve)
        if len(octets) > CERTIFICATE_MAX_OCTETS:
            raise AuthorityError(
                f"a certificate has at most {CERTIFICATE_MAX_OCTETS} octets: issuer or aud are too long"
            )
        before = [
            bytes.fromhex(one["cti"])
            for one in self._valid()
            if one["system_title"] == title and one.get("audience", audience) == audience
        ]
        revocations = [self._revoke(one, now) for one in before]
        issued = {"cti": cti.hex(), "system_title": title, "audience": audience, "expires_s": times[1]}
        self._content["issued"].append(issued)
        self._write()
        return octets, revocations

    def revoke(self, system_title: bytes, now: datetime) -> list[bytes]:
        """Revocations of the certificates that a meter has; AuthorityError where it has none."""
        title = system_title.hex()
        standing = [bytes.fromhex(one["cti"]) for one in self._valid() if one["system_title"] == title]
        if not standing:
            raise AuthorityError(f"{self._path} issued no certificate for {title} that is not revoked")
        revocations = [self._revoke(cti, now) for cti in standing]
        self._write()
        return revocations

    def _valid(self) -> list[dict[str, Any]]:
        return [one for one in self._content["issued"] if "revoked_s" not in one]

    def _revoke(self, cti: bytes, now: datetime) -> bytes:
        for one in self._content["issued"]:
            if one["cti"] == cti.hex():
                one["revoked_s"] = int(now.timestamp())
        return certificates.revoke(self._private, self.public.kid, cti, int(now.timestamp()))

    def _write(self) -> None:
        _write(self._path, self._content)


def init(path: Path, kid: str, issuer: str, expires_at: datetime | None) -> AuthorityFile:
    """Make an authority and its file, mode 0600; never overwrites. AuthorityError where it cannot."""
    content: dict[str, Any] = {
        "form": _FORM,
        "kid": kid,
        "issuer": issuer,
        "expires_s": None if expires_at is None else int(expires_at.timestamp()),
        "private": Ed25519PrivateKey.generate().private_bytes_raw().hex(),
        "issued": [],
    }
    authority = AuthorityFile(path, content)
    approval_subject(authority.public)
    with _alone(path):
        if path.exists() or path.is_symlink():
            raise AuthorityError(f"{path} exists already and is left as it is: name a new file")
        _write(path, content)
    return authority


@contextmanager
def changing(path: Path) -> Iterator[AuthorityFile]:
    """The authority of a file, for whoever issues or revokes with it: one process at a time, the others wait.

    AuthorityError: see ``load``.
    """
    with _alone(path):
        yield load(path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the folder's lock: the file itself is replaced by each change."""
    try:
        folder = os.open(path.absolute().parent, os.O_RDONLY)
    except OSError as error:
        raise AuthorityError(f"cannot open the folder of {path}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # until it is closed
        yield
    finally:
        os.close(folder)


def load(path: Path) -> AuthorityFile:
    """The authority of a file; AuthorityError where it is none, or where others may read it."""
    try:
        mode = path.stat().st_mode & 0o777
        content = json.loads(path.read_text())
        if content["form"] != _FORM:
            raise ValueError
        authority = AuthorityFile(path, content)
        approval_subject(authority.public)
    except OSError as error:
        raise AuthorityError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AuthorityError(f"{path} is no key file of an authority") from None
    if mode & 0o077:
        raise AuthorityError(f"{path} has mode {mode:04o}: others may read it. chmod 600 {path}")
    return authority


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write the file whole, or not at all."""
    name = ""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except OSError as error:
        with suppress(OSError):
            Path(name).unlink()
        raise AuthorityError(f"cannot write {path}: {error.strerror}") from None
