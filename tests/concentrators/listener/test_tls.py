"""TLS of the listener: the concentrator is the one that the client's certificate names."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from concentrators.listener.figures import Figures
from concentrators.listener.gatherer import Gatherer
from concentrators.listener.server import Listener
from concentrators.management.commands import dlms_listen
from tests.concentrators.listener.test_cutters import APDU, wrapped
from tests.concentrators.listener.test_server import LIMITS, Received

NAMES = {"Mill Lane": 3, "Hill Road": 4}


def certificate(folder: Path, name: str, issuer: tuple[str, Ed25519PrivateKey] | None = None) -> Ed25519PrivateKey:
    """A certificate of a common name, in NAME.pem and NAME.key; without an issuer it signs itself, as an authority."""
    key = Ed25519PrivateKey.generate()
    by, signer = issuer or (name, key)
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(signer, None)
    )
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return key


def client(folder: Path, name: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / "authority.pem")
    context.check_hostname = False
    if name is not None:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


def test_frames_are_of_the_concentrator_that_the_certificate_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dlms_listen, "_active", NAMES.get)
    authority = certificate(tmp_path, "authority")
    for name in ("server", *NAMES, "nobody"):
        certificate(tmp_path, name, ("authority", authority))
    certificate(tmp_path, "stranger")
    ours = [str(tmp_path / file) for file in ("server.pem", "server.key", "authority.pem")]
    received = Received()

    async def push(port: int, name: str | None) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client(tmp_path, name))
            writer.write(wrapped(APDU))
            await writer.drain()
            writer.write_eof() if writer.can_write_eof() else await asyncio.sleep(0.3)
            writer.close()
            await reader.read()
        except OSError:
            return

    async def run() -> None:
        gatherer = Gatherer(Figures("here"), received)
        listener = Listener(gatherer, "wrapper", dlms_listen._by_certificate, LIMITS)
        server = await asyncio.start_server(listener.connected, "127.0.0.1", 0, ssl=dlms_listen._tls(*ours))
        task = asyncio.create_task(gatherer.run())
        port = server.sockets[0].getsockname()[1]
        for name in (*NAMES, "nobody", "stranger", None):
            await push(port, name)
        server.close()
        await listener.end()
        gatherer.end()
        await task

    asyncio.run(run())
    assert sorted(received.uplinks) == [(3, [wrapped(APDU)]), (4, [wrapped(APDU)])]
