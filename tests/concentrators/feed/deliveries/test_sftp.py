"""Files by SFTP, to a real server on loopback: whole or not there, from us alone, to that server alone, in time."""

import hashlib
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import paramiko
import pytest
from pytest_django import Settings

from concentrators.feed.cursor import FIRST, Cursor
from concentrators.feed.deliveries import sftp
from concentrators.feed.deliveries.errors import DeliveryError
from concentrators.feed.deliveries.parcels import Parcel
from concentrators.feed.deliveries.sftp import SftpAddressError
from concentrators.feed.rows import Resource
from concentrators.models import DeliveryKind, FeedDelivery, FeedSubscription
from keyvault import receiver_logins
from keyvault.models import SigningSecret
from tests.concentrators.feed.deliveries.sftp_server import USER, Server, new_key, serving
from tests.concentrators.fleet import NOW

pytestmark = pytest.mark.django_db
NAME = "mdm_e1_000000000001.000000-000000000002.000004.xml"
CONTENT = b"<x/>" * 20_000  # more than one packet
WHOLE = {NAME: CONTENT, f"{NAME}.sha256": f"{hashlib.sha256(CONTENT).hexdigest()}  {NAME}\n".encode()}


@pytest.fixture(autouse=True)
def _settings(settings: Settings) -> None:
    settings.WEBHOOK_REFUSED_NETWORKS, settings.FEED_EXCHANGE_S = [], 10.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    place = tmp_path / "in"
    place.mkdir()
    with serving(place) as server:
        yield server


def delivery_to(server: Server, folder: str = "/in") -> FeedDelivery:
    """A delivery that signs in with a key of its own, which the server knows."""
    address = f"sftp://{USER}@127.0.0.1:{server.port}{folder}"
    delivery = FeedDelivery(
        pk=7, subscription=FeedSubscription(name="mdm"), kind=DeliveryKind.SFTP, address=address,
        host_key=server.known_host,
    )  # fmt: skip
    server.public_key = receiver_logins.new_key(delivery.secret_owner, NOW)
    return delivery


def put(delivery: FeedDelivery, content: bytes = CONTENT) -> None:
    half = len(content) // 2
    parts = iter([content[:half], content[half:]])
    sftp.put(delivery, Parcel(NAME, "application/xml", {}, parts, 5, Cursor(Resource.READINGS, "e1", FIRST)), NOW)


@pytest.mark.parametrize("knows_posix_rename", [True, False])
def test_a_file_and_its_checksum_also_over_an_earlier_attempt(knows_posix_rename: bool, server: Server) -> None:
    server.knows_posix_rename = knows_posix_rename
    delivery = delivery_to(server)
    put(delivery)
    assert server.files() == WHOLE
    assert {Path(name).name for name in server.opened} == {f".{name}.part" for name in WHOLE}
    put(delivery)
    assert server.files() == WHOLE


def test_by_a_password_which_is_stored_wrapped(server: Server) -> None:
    delivery = delivery_to(server)
    server.public_key, server.password = "", "correct horse " * 9
    receiver_logins.keep_password(delivery.secret_owner, server.password, NOW)
    wrapped = [bytes(row.wrapped) for row in SigningSecret.objects.all()]  # the key has gone
    assert (len(wrapped), b"horse" in b"".join(wrapped)) == (4, False)
    assert "horse" not in repr(receiver_logins.login(delivery.secret_owner))
    put(delivery)
    assert server.files() == WHOLE
    server.password = "another"
    with pytest.raises(DeliveryError, match="does not let us in"):
        put(delivery)


def test_a_server_that_does_not_know_our_key(server: Server) -> None:
    delivery = delivery_to(server)
    receiver_logins.new_key(delivery.secret_owner, NOW)
    with pytest.raises(DeliveryError, match="does not let us in: is our public key entered there"):
        put(delivery)


def test_a_server_with_another_host_key_gets_nothing(server: Server) -> None:
    delivery = delivery_to(server)
    server.host_key = new_key()
    with pytest.raises(DeliveryError, match="another host key than the one that is entered"):
        put(delivery)
    assert server.opened == []


@pytest.mark.parametrize("how", ["is_silent", "stalls"])
def test_a_server_that_hangs(how: str, server: Server, settings: Settings) -> None:
    settings.FEED_EXCHANGE_S = 1.5
    setattr(server, how, True)
    began = time.monotonic()
    with pytest.raises(DeliveryError, match=r"the server took longer than 1.5 seconds"):
        put(delivery_to(server))
    assert time.monotonic() - began < 15
    assert not [name for name in server.files() if not name.startswith(".")]


@pytest.mark.parametrize("left", [0, 50_000, len(CONTENT)])
def test_a_full_disk_leaves_nothing_half(left: int, server: Server) -> None:
    """Before the first octet, within the file, and before its checksum."""
    delivery = delivery_to(server)
    server.disk_left = left
    with pytest.raises(DeliveryError, match="the server refuses to write"):
        put(delivery)
    assert server.files() == {}
    server.disk_left = 2**60
    put(delivery)
    assert server.files() == WHOLE


def test_a_folder_that_is_not_there(server: Server) -> None:
    with pytest.raises(DeliveryError, match="no such folder"):
        put(delivery_to(server, "/elsewhere"))


def test_nobody_listens(server: Server) -> None:
    delivery = delivery_to(server)
    delivery.address = f"sftp://{USER}@127.0.0.1:1/in"
    with pytest.raises(DeliveryError, match="does not answer"):
        put(delivery)


@pytest.mark.parametrize("greeting", [b"Welcome to mdm.example!\n", b"\0\0\0\1\x63", b"\0\0\0\2\2\0"])
def test_a_server_that_speaks_something_else(greeting: bytes, server: Server) -> None:
    """The greeting of a shell, another message than the version, and a version that is cut off."""
    delivery = delivery_to(server)
    server.greeting = greeting
    with pytest.raises(DeliveryError, match="does not speak SFTP"):
        put(delivery)


@pytest.mark.parametrize(
    "error",
    [
        paramiko.SFTPError("Expected status"), paramiko.SSHException("No existing session"), EOFError(),
        OSError("Failure"), TimeoutError(), struct.error("unpack requires 4 bytes"),
        UnicodeDecodeError("utf-8", b"Zugriff verweigert f\xfcr ami", 20, 21, "invalid start byte"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_whatever_breaks_off_is_a_failure_and_what_was_begun_is_removed(
    error: Exception, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = delivery_to(server)
    monkeypatch.setattr(paramiko.SFTPClient, "stat", Mock(side_effect=error))
    with pytest.raises(DeliveryError, match=r"^the server "):
        put(delivery)
    assert server.files() == {}


def test_an_address_that_is_refused(server: Server, settings: Settings) -> None:
    delivery = delivery_to(server)
    settings.WEBHOOK_REFUSED_NETWORKS = ["127.0.0.0/8"]
    delivery.address = delivery.address.replace("127.0.0.1", "localhost")
    with pytest.raises(DeliveryError, match="WEBHOOK_REFUSED_NETWORKS"):
        put(delivery)


def test_without_anything_to_sign_in_with(server: Server) -> None:
    delivery = delivery_to(server)
    receiver_logins.withdraw(delivery.secret_owner)
    with pytest.raises(DeliveryError, match="neither a key nor a password"):
        put(delivery)


def test_a_secret_of_another_delivery_does_not_open(server: Server) -> None:
    delivery = delivery_to(server)
    row = SigningSecret.objects.get()
    SigningSecret.objects.filter(pk=row.pk).update(owner=row.owner.replace("7", "8"))
    delivery.pk = 8
    with pytest.raises(DeliveryError, match="does not open"):
        put(delivery)


@pytest.mark.parametrize("line", ["{key}", "mdm.example {key}", "[mdm.example]:2222 {key} a comment"])
def test_host_keys_as_tools_write_them(line: str, server: Server) -> None:
    found = sftp.parse_host_key(line.format(key=server.known_host))
    assert found.asbytes() == server.host_key.asbytes()


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 %%%", "SHA256:abc", "ssh-dss AAAA", "ssh-rsa QUJD"])
def test_lines_that_are_none(line: str) -> None:
    with pytest.raises(SftpAddressError, match="ssh-keyscan"):
        sftp.parse_host_key(line)
