"""Redis with a password and TLS, as production has it: web server, rate limits, worker, beat and doctor."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pytest_django import DjangoDbBlocker

from tests.flows import site as sites
from tests.flows.site import frames_of, wait_verified
from tests.flows.stack import Stack, free_port, running, wait_for

PASSWORD = "p%2Fw"


def speaks_tls() -> bool:
    """Whether the redis-server on the PATH was built with TLS (the wheel's was not)."""
    program = shutil.which("redis-server")
    if program is None:
        return False
    done = subprocess.run([program, "--tls-port", "x"], capture_output=True, timeout=10)
    return b"Bad directive" not in done.stdout + done.stderr


pytestmark = pytest.mark.skipif(not speaks_tls(), reason="this redis-server speaks no TLS")


def certificate(folder: Path) -> None:
    """An authority's certificate (ca.pem), and a server's for 127.0.0.1 that it signed, with its key."""
    now = datetime.now(UTC)

    def signed(name: str, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey, is_ca: bool) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
        builder = builder.not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        builder = builder.add_extension(address, critical=False)
        return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    (folder / "ca.pem").write_bytes(signed("authority", authority, authority, True))
    (folder / "server.pem").write_bytes(signed("redis", server, authority, False))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.key").write_bytes(server.private_bytes(*form))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    certificate(folder)
    options = {
        "port": "0",
        "tls-port": str(port),
        "bind": "127.0.0.1",
        "tls-cert-file": str(folder / "server.pem"),
        "tls-key-file": str(folder / "server.key"),
        "tls-ca-cert-file": str(folder / "ca.pem"),
        "tls-auth-clients": "no",
        "requirepass": "p/w",
        "save": "",
        "dir": str(folder),
    }
    command = ["redis-server", *(part for name, value in options.items() for part in (f"--{name}", value))]
    url = f"rediss://:{PASSWORD}@127.0.0.1:{port}/0?ssl_ca_certs={folder / 'ca.pem'}"
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        wait_for("Redis answers", lambda: answers(url))
        yield url
        server.terminate()


def answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture(scope="module")
def stack(
    url: str, django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    environ = {"REDIS_URL": url, "UPLINK_RATE": "5/minute"}
    with (
        django_db_blocker.unblock(),
        running(tmp_path_factory.mktemp("stack"), ("web", "worker", "beat"), environ) as stack,
    ):
        yield stack


def test_uplinks_are_verified_rates_are_limited_and_doctor_is_well(stack: Stack) -> None:
    site = sites.found(stack, 6)
    wait_verified([site.posted(frames_of([device], range(2))) for device in site.devices[:5]])
    assert site.post(frames_of(site.devices[5:], range(2))).status_code == httpx.codes.TOO_MANY_REQUESTS
    found = json.loads(stack.manage("doctor", "--json").stdout)
    assert {one["name"]: one["well"] for one in found} | {"broker": True, "workers": True, "schedule": True} == {
        one["name"]: one["well"] for one in found
    }
    assert PASSWORD not in stack.logs()
    assert "p/w" not in stack.logs()


def test_a_server_of_another_authority_gets_no_password(url: str, stack: Stack, tmp_path: Path) -> None:
    certificate(tmp_path)
    other = url.partition("?")[0] + f"?ssl_ca_certs={tmp_path / 'ca.pem'}"
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"), redis.Redis.from_url(other) as client:
        client.ping()
    stack.env["REDIS_URL"] = other
    found = json.loads(stack.manage("doctor", "--json").stdout)
    broker = next(one for one in found if one["name"] == "broker")
    assert not broker["well"]
    assert "certificate verify failed" in broker["found"]
