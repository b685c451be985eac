"""Writes a parcel as a file by SFTP (draft-ietf-secsh-filexfer-02): aside, then under its name, with its SHA-256.

The server's host key is pinned, and the name is checked as that of a webhook is. One deadline holds for all of it.
"""

import base64
import binascii
import hashlib
import io
import logging
import struct
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from datetime import datetime
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import paramiko
from django.conf import settings

from ami_headend.core.refused_addresses import RefusedAddressError, check_host, connect
from ami_headend.core.timed_exchange import Exchange, exchange
from concentrators.feed.deliveries.errors import DeliveryError
from concentrators.feed.deliveries.folder import checksum_line, checksum_name
from concentrators.feed.deliveries.parcels import Parcel
from concentrators.models import FeedDelivery
from keyvault import receiver_logins
from keyvault.receiver_logins import LoginError, SshLogin

logger = logging.getLogger(__name__)

_PORT = 22
# What paramiko raises of a server that speaks something else than SFTP, and of one that breaks off.
_NO_SFTP = (paramiko.SFTPError, struct.error, UnicodeDecodeError)
_BROKEN = (*_NO_SFTP, paramiko.SSHException, EOFError, OSError)
_KEY_TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


class SftpAddressError(ValueError):
    """An address or host key that cannot be used; the message says why. The administrator's mistake."""


class Server(NamedTuple):
    """Where files go: a folder of a server, as a user."""

    user: str
    host: str
    port: int
    folder: str


def parse_address(text: str) -> Server:
    """Parse ``sftp://user@host:port/folder``; SftpAddressError."""
    try:
        parts = urlsplit(text)
        server = Server(unquote(parts.username or ""), parts.hostname or "", parts.port or _PORT, unquote(parts.path))
    except ValueError as error:
        raise SftpAddressError(f"{text[:200]!r} is not an address: {error}") from None
    if parts.scheme != "sftp" or not server.user or not server.host or not server.folder.startswith("/"):
        raise SftpAddressError(f"{text[:200]!r} is not of the form sftp://user@host:port/folder")
    if parts.password is not None or parts.query or parts.fragment:
        raise SftpAddressError("an address has user, host, port and folder alone: a password is given apart")
    check_host(server.host)
    return server


def parse_host_key(text: str) -> paramiko.PKey:
    """Parse a host key as ``ssh-keyscan`` or ``known_hosts`` have it, with or without the host; SftpAddressError."""
    words = text.split()
    kind = next((word for word in words if word in _KEY_TYPES), "")
    try:
        octets = base64.b64decode(words[words.index(kind) + 1], validate=True)
        return paramiko.PKey.from_type_string(kind, octets)
    except (ValueError, IndexError, binascii.Error, paramiko.SSHException, paramiko.UnknownKeyType):
        raise SftpAddressError(
            "the host key is not a line such as `ssh-ed25519 AAAA...`: take it from the server's operator, or from "
            "ssh-keyscan and compare its fingerprint with theirs"
        ) from None


def put(delivery: FeedDelivery, parcel: Parcel, now: datetime) -> None:
    """Write a parcel; nothing half stays under a final name. DeliveryError; MasterKeyError."""
    try:
        server, host_key = parse_address(delivery.address), parse_host_key(delivery.host_key)
        login = receiver_logins.login(delivery.secret_owner)
    except (SftpAddressError, RefusedAddressError, LoginError) as error:
        raise DeliveryError(str(error)) from None
    with ExitStack() as stack:
        try:
            this = stack.enter_context(exchange(settings.FEED_EXCHANGE_S))
            transport = stack.enter_context(paramiko.Transport(connect(this, server.host, server.port)))
            _sign_in(this, transport, server.user, host_key, login)
            _upload(transport, server.folder, parcel)
        except RefusedAddressError as error:
            raise DeliveryError(str(error)) from None
        except _BROKEN as error:
            logger.warning("the SFTP server of %s: %s: %s", delivery, type(error).__name__, error)
            if this.is_over:
                raise DeliveryError(f"the server took longer than {settings.FEED_EXCHANGE_S:g} seconds") from None
            raise DeliveryError(_in_words(error)) from None


def _sign_in(
    this: Exchange, transport: paramiko.Transport, user: str, host_key: paramiko.PKey, login: SshLogin
) -> None:
    for name in ("banner", "handshake", "auth", "channel"):
        setattr(transport, f"{name}_timeout", this.left_s())
    key = None
    if login.private_key is not None:
        key = paramiko.Ed25519Key.from_private_key(io.StringIO(login.private_key))
    transport.connect(host_key, user, login.password, key)


def _upload(transport: paramiko.Transport, folder: str, parcel: Parcel) -> None:
    client = paramiko.SFTPClient.from_transport(transport)
    if client is None:
        raise EOFError
    beside = checksum_name(parcel.name)
    aside = {name: f"{folder.rstrip('/')}/.{name}.part" for name in (beside, parcel.name)}
    try:
        digest = _write(client, aside[parcel.name], parcel.parts or ())
        _write(client, aside[beside], [checksum_line(digest, parcel.name)])
        for name, path in aside.items():
            _rename(client, path, f"{folder.rstrip('/')}/{name}")
    except _BROKEN:
        for path in aside.values():
            with suppress(*_BROKEN):  # it failed already; the next attempt writes over
                client.remove(path)
        raise


def _write(client: paramiko.SFTPClient, path: str, parts: Iterable[bytes]) -> str:
    """Write a file, and return its SHA-256; OSError if the server did not keep all of it.

    Writes do not wait for each other's answers, and one that failed would go unnoticed. So the last octet is held back:
    its write is not pipelined, and reads the answers to all.
    """
    digest, octets, held = hashlib.sha256(), 0, b""
    with client.open(path, "wb") as file:
        file.set_pipelined(True)
        for part in parts:
            digest.update(part)
            octets += len(part)
            ahead = held + part
            file.write(ahead[:-1])
            held = ahead[-1:]
        file.set_pipelined(False)
        file.write(held)
    if client.stat(path).st_size != octets:
        raise OSError("the server did not keep all octets")
    return digest.hexdigest()


def _rename(client: paramiko.SFTPClient, path: str, name: str) -> None:
    """Give a file its name, in place of one that an earlier attempt left; plain SFTP would refuse that."""
    try:
        client.posix_rename(path, name)
    except OSError:  # the server lacks this extension of OpenSSH
        with suppress(OSError):  # usually there is none
            client.remove(name)
        client.rename(path, name)


def _in_words(error: Exception) -> str:
    if isinstance(error, paramiko.BadHostKeyException) or "host key" in str(error).lower():
        return "the server has another host key than the one that is entered: somebody may be in between"
    if isinstance(error, _NO_SFTP):
        return f"the server does not speak SFTP as it should: {error}"
    if isinstance(error, paramiko.AuthenticationException):
        return "the server does not let us in: is our public key entered there, or the password right?"
    if isinstance(error, FileNotFoundError):
        return "the server has no such folder"
    if isinstance(error, OSError) and str(error) in ("Failure", "[Errno 13] Permission denied", "Permission denied"):
        return f"the server refuses to write: {error} (disk full, no rights?)"
    return f"the server broke off, or does not answer: {error}" if str(error) else "the server broke off"
