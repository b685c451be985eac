"""An SFTP server on loopback, of paramiko's parts, that keeps files in a folder; it may hang, or have a full disk."""

import errno
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

USER = "ami"


def new_key() -> Any:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return paramiko.Ed25519Key.from_private_key(io.StringIO(pem.decode()))


@dataclass
class Server:
    """Where it listens, what it lets in, and how it fails: ``is_silent`` never greets, ``stalls`` never answers open.

    ``disk_left`` are the octets that files may still have.
    """

    folder: Path
    port: int = 0
    host_key: Any = field(default_factory=new_key)
    public_key: str = ""
    password: str = ""
    is_silent: bool = False
    stalls: bool = False
    disk_left: int = 2**60
    greeting: bytes = b""  # what its shell prints where SFTP should begin, as that of a wrong set-up does
    knows_posix_rename: bool = True
    opened: list[str] = field(default_factory=list)

    @property
    def known_host(self) -> str:
        return f"{self.host_key.get_name()} {self.host_key.get_base64()}"

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}


class _Shell(paramiko.SubsystemHandler):  # type: ignore[misc]  # paramiko has no types
    def start_subsystem(self, name: str, transport: Any, channel: Any) -> None:
        channel.sendall(self.get_server().server.greeting)
        while channel.recv(1_024):  # until the client hangs up
            pass


class _Login(paramiko.ServerInterface):  # type: ignore[misc]  # paramiko has no types
    def __init__(self, server: Server) -> None:
        self.server = server

    def check_auth_password(self, username: str, password: str) -> int:
        right = username == USER and password == self.server.password != ""
        return int(paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED)

    def check_auth_publickey(self, username: str, key: Any) -> int:
        right = username == USER and f"{key.get_name()} {key.get_base64()}" in self.server.public_key
        return int(paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)


class _File(paramiko.SFTPHandle):  # type: ignore[misc]  # paramiko has no types
    def __init__(self, server: Server, file: Any, flags: int) -> None:
        super().__init__(flags)
        self.server, self.writefile = server, file

    def write(self, offset: int, data: bytes) -> int:
        if len(data) > self.server.disk_left:
            return int(paramiko.SFTPServer.convert_errno(errno.ENOSPC))
        self.server.disk_left -= len(data)
        return int(super().write(offset, data))


class _Files(paramiko.SFTPServerInterface):  # type: ignore[misc]  # paramiko has no types
    def __init__(self, login: _Login, *args: Any, **kwargs: Any) -> None:
        self.server = login.server

    def _path(self, path: str) -> Path:
        return self.server.folder / Path(path).name if Path(path).parent.name == "in" else Path("/nowhere") / path

    def open(self, path: str, flags: int, attr: Any) -> Any:
        self.server.opened.append(path)
        while self.server.stalls:
            time.sleep(0.02)
        try:
            return _File(self.server, self._path(path).open("wb", buffering=0), flags)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)

    def stat(self, path: str) -> Any:
        return self._done(lambda: paramiko.SFTPAttributes.from_stat(self._path(path).stat()))

    def remove(self, path: str) -> Any:
        return self._done(lambda: self._path(path).unlink())

    def rename(self, oldpath: str, newpath: str) -> Any:
        if self._path(newpath).exists():
            return paramiko.SFTP_FAILURE
        return self._done(lambda: self._path(oldpath).rename(self._path(newpath)))

    def posix_rename(self, oldpath: str, newpath: str) -> Any:
        if not self.server.knows_posix_rename:
            return paramiko.SFTP_OP_UNSUPPORTED
        return self._done(lambda: self._path(oldpath).replace(self._path(newpath)))

    @staticmethod
    def _done(act: Any) -> Any:
        try:
            found = act()
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno)
        return found if isinstance(found, paramiko.SFTPAttributes) else paramiko.SFTP_OK


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server until the block ends."""
    server = Server(folder)
    transports: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]

        def accept() -> None:
            while True:
                try:
                    connected, _ = listener.accept()
                except OSError:
                    return
                if server.is_silent:
                    transports.append(connected)
                    continue
                transport = paramiko.Transport(connected)
                transport.add_server_key(server.host_key)
                handler = (_Shell,) if server.greeting else (paramiko.SFTPServer, _Files)
                transport.set_subsystem_handler("sftp", *handler)
                transports.append(transport)
                try:
                    transport.start_server(server=_Login(server))
                except (paramiko.SSHException, EOFError, OSError):  # whoever connected went away again
                    transport.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.stalls = False
            listener.shutdown(socket.SHUT_RDWR)
            for one in transports:
                one.close()
            thread.join()
