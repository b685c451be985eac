"""A syslog receiver over TLS (RFC 5425) that can die, hang, close too early, and refuse; and an authority for it."""

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_FRAME = re.compile(rb"(\d+) ")


class Manner(Enum):
    """What the receiver does with a connection."""

    READ = "reads all, and closes in good order"
    DIE = "reads all, and is gone without a word"
    HANG = "accepts, and never reads"
    REFUSE = "closes before TLS"


def authority(folder: Path, host: str = "localhost") -> Path:
    """Write an authority, and a certificate of it for a host, into the folder; give the authority's file."""
    now = datetime.now(UTC)

    def certificate(name: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        )
        return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "ca.pem").write_bytes(certificate("authority", root, "authority", root))
    (folder / "cert.pem").write_bytes(certificate(host, leaf, "authority", root))
    (folder / "key.pem").write_bytes(leaf.private_bytes(*form))
    return folder / "ca.pem"


class Receiver:
    """Keeps the messages of each connection, as it read them."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.manner = Manner.READ
        self.connections: list[list[bytes]] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def messages(self) -> list[bytes]:
        """Every message that was read, in order."""
        return [message for connection in self.connections for message in connection]

    def close(self) -> None:
        """Stop listening, and end every connection."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for one in self._open:
            one.close()
        self._thread.join(5)

    def _run(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(plain)
            with suppress(OSError, ssl.SSLError):
                self._serve(plain)

    def _serve(self, plain: socket.socket) -> None:
        manner = self.manner
        if manner is Manner.REFUSE:
            plain.close()
            return
        secured = self._context.wrap_socket(plain, server_side=True)
        self._open.append(secured)
        if manner is Manner.HANG:
            return
        octets = b""
        while part := secured.recv(65_536):
            octets += part
        self.connections.append(split(octets))
        if manner is Manner.DIE:
            secured.shutdown(socket.SHUT_RDWR)  # the connection alone: TLS says nothing
        else:
            secured.unwrap()
        secured.close()


def split(octets: bytes) -> list[bytes]:
    """Split a stream by its octet counts (RFC 5425 section 4.3)."""
    found = []
    while octets:
        match = _FRAME.match(octets)
        assert match is not None, octets[:80]
        end = match.end() + int(match[1])
        found.append(octets[match.end() : end])
        assert len(found[-1]) == int(match[1])
        octets = octets[end:]
    return found


@contextmanager
def receiving(folder: Path, port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver(folder, port)
    try:
        yield receiver
    finally:
        receiver.close()
