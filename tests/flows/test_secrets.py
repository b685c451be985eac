"""No key and no token in a dump, a log, Redis or an answer, after everything a head-end does was done to it."""

import base64
import json
import re
import secrets
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import cbor2
import httpx
import pytest
import redis
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from django.conf import settings
from django.contrib.auth.models import User
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from ami_headend.alerts import channels
from ami_headend.alerts.models import Channel
from ami_headend.local.embedded import postgres_program
from concentrators.commands import queue
from concentrators.fleet import tokens
from concentrators.models import Assignment
from keyvault import receiver_logins
from keyvault.audit.chain import Actor
from keyvault.cose.kdf import derived_device_key, downlink_key, uplink_key
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.device_keys.unwrapping import open_keys
from keyvault.models import DeviceKey
from meters.models import Place
from tests.concentrators.fleet import NOW, Device
from tests.concentrators.obedient import Receiver
from tests.damage import damaged
from tests.factories import MeterFactory
from tests.flows import leaks
from tests.flows import site as sites
from tests.flows.site import Site, assert_one_verdict_each, frames_of, wait_verified
from tests.flows.stack import Stack, with_own_master_key
from tests.keyvault.shipping import TRANSPORT, line, shipment_file, transport_file

PASSWORD = "a long password of the administrator"
PAGES = 60


class Recorder:
    """Every answer that was got, as octets: head and body."""

    def __init__(self) -> None:
        self.answers = bytearray()

    def __call__(self, response: httpx.Response) -> None:
        response.read()
        self.answers += repr(response.headers.multi_items()).encode() + response.content + b"\n"


@pytest.fixture(scope="module")
def stack(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    environ = {"LOG_LEVEL": "DEBUG", "MASTER_KEY_FILE": str(folder / "own.keys")}
    with django_db_blocker.unblock(), with_own_master_key(folder, environ) as stack:
        stack.start("beat")
        yield stack


@pytest.fixture(scope="module")
def site(stack: Stack) -> Site:
    return sites.found(stack, 4)


def derived(site: Site, fleet_secret: bytes) -> list[Device]:
    """Meters with keys derived from a fleet key, added to the site."""
    fleet_key = provisioning.create_fleet_key("fleet of the flow", fleet_secret)
    devices = [Device(meter, b"") for meter in MeterFactory.create_batch(3)]
    provisioning.provision_devices([device.title for device in devices], fleet_key=fleet_key)
    for device in devices:
        device.key = derived_device_key(fleet_secret, device.title, 1)
        Assignment.objects.create(meter=device.meter, concentrator=site.concentrator, valid_from=NOW)
    return devices


def traffic(name: str, key: bytes, title: bytes, epoch: int) -> dict[str, bytes]:
    """The traffic keys and Base IVs of both directions."""
    found = {}
    for direction, keys in (("up", uplink_key(key, title, epoch, 10)), ("down", downlink_key(key, title, epoch, 30))):
        found[f"{name} {direction} traffic key"] = keys.key
        found[f"{name} {direction} Base IV"] = keys.base_iv
    return found


def crawl(client: httpx.Client) -> list[str]:
    """Every admin and status page that links lead to, up to PAGES."""
    waiting = ["/", "/admin/"]
    seen: list[str] = []
    while waiting and len(seen) < PAGES:
        path = waiting.pop(0)
        seen.append(path)
        answer = client.get(path, follow_redirects=True)
        assert answer.status_code < 500, (path, answer.status_code)
        for link in map(unescape, re.findall(r'href="(/admin/[^"#?]*)"', answer.text)):
            if "logout" not in link and link not in seen and link not in waiting:
                waiting.append(link)
    return seen


def sign_in(client: httpx.Client) -> None:
    client.get("/admin/login/")
    form = {"username": "root", "password": PASSWORD, "csrfmiddlewaretoken": client.cookies["csrftoken"]}
    assert client.post("/admin/login/?next=/admin/", data=form).status_code == 302


def master_keys() -> dict[str, bytes]:
    versions = json.loads(Path(settings.MASTER_KEY_FILE).read_text())["versions"]
    return {f"master key {one['version']}": base64.b64decode(one["key"]) for one in versions}


def imported(stack: Stack, site: Site, folder: Path) -> dict[str, bytes]:
    """A meter whose keys come with a shipment: its secrets."""
    device = Device(MeterFactory.create(), secrets.token_bytes(32))
    transfer = secrets.token_bytes(32)
    Assignment.objects.create(meter=device.meter, concentrator=site.concentrator, valid_from=NOW)
    shipment = shipment_file(folder, [line(device.title, key=device.key, transfer_key=transfer)])
    done = stack.manage("import_keys", str(shipment), "--transport-key", str(transport_file(folder)))
    assert done.returncode == 0, done.stderr
    wait_verified([site.posted([device.frame(0)])])
    secret = {"transport key": TRANSPORT, "shipped key": device.key, "shipped transfer key": transfer}
    return secret | traffic("shipped", device.key, device.title, 1)


def renewed(client: httpx.Client, site: Site, device: Device) -> dict[str, bytes]:
    """A device gets a new key by a command, fetched over HTTP, and sends under it: the secrets of it."""
    queue.enqueue_keys([device.meter], "tester", timezone.now())
    row = DeviceKey.objects.get(system_title=device.title, epoch=2)
    new = Device(device.meter, open_keys([row.pk])[0].octets, 2)
    bearer = {"Authorization": f"Bearer {site.token}"}
    answer = client.get("/api/v1/commands", headers=bearer)
    number, _, octets = cbor2.loads(answer.content)
    assert Receiver.of(device).open(octets)[2][3] == new.key
    receipt = client.post(f"/api/v1/commands/{number}/receipt", json={"result": "delivered"}, headers=bearer)
    assert receipt.status_code == 204
    wait_verified([site.posted([new.frame(30)])])
    row.refresh_from_db()
    assert row.state == "active"
    return {"new device key": new.key} | traffic("new", new.key, new.title, 2)


def logins() -> dict[str, bytes]:
    """How the head-end signs in at two SFTP servers: by a password, and by a key of its own."""
    password = secrets.token_bytes(24)
    receiver_logins.keep_password("feed delivery 1", password.hex(), NOW)
    receiver_logins.new_key("feed delivery 2", NOW)
    private = receiver_logins.login("feed delivery 2").private_key or ""
    key: Any = load_ssh_private_key(private.encode(), None)
    return {"password of a server": password, "key for a server": key.private_bytes_raw()}


def test_no_secret_anywhere(stack: Stack, site: Site, tmp_path: Path) -> None:
    recorder = Recorder()
    fleet_secret = secrets.token_bytes(32)
    devices = [*site.devices, *derived(site, fleet_secret)]
    hidden = {"fleet key": fleet_secret}
    for number, device in enumerate(devices):
        hidden[f"device key {number}"] = device.key
        hidden |= traffic(f"device {number}", device.key, device.title, 1)
        if device in site.devices:
            transfer = secrets.token_bytes(32)
            provisioning.provision_stored([NewKey(device.title, 0, transfer)])
        else:
            transfer = derived_device_key(fleet_secret, device.title, 0)
        hidden[f"transfer key {number}"] = transfer
        hidden |= traffic(f"transfer {number}", transfer, device.title, 0)
    hidden |= master_keys()
    wrong = tokens.issue(site.concentrator, "revoked")
    tokens.revoke(site.concentrator.tokens.get(label="revoked"))
    hidden |= {"token": site.token.encode(), "revoked token": wrong.encode(), "password": PASSWORD.encode()}
    channel = Channel(name="duty", kind="webhook", address="https://hooks.example/")
    signing_secret = channels.save(channel, Actor("tester", "test"), NOW) or ""
    hidden |= {"signing secret": base64.b64decode(signing_secret.removeprefix("whsec_"))}
    hidden |= logins()
    planted = secrets.token_bytes(32)

    User.objects.create_superuser("root", password=PASSWORD)
    with httpx.Client(base_url=stack.base_url, timeout=30, event_hooks={"response": [recorder]}) as client:
        post_everything(client, site, devices, wrong)
        hidden |= imported(stack, site, tmp_path)
        hidden |= renewed(client, site, devices[0])
        rotated = stack.manage("master_key", "rotate", "--here").stdout
        assert "under version 2" in rotated, rotated
        hidden |= master_keys()
        assert {"master key 1", "master key 2"} <= set(hidden)
        hidden |= {f"{name}, rotated": value for name, value in renewed(client, site, devices[1]).items()}
        sign_in(client)
        pages = crawl(client)
        for path in ("meters", "readings", "events", "totals"):
            for kind in ("json", "csv"):
                client.get(f"/api/v1/{path}", params={"format": kind})
        client.get("/api/schema/")
        client.get(f"/api/v1/nothing/{planted.hex().upper()}")  # echoed in the answer and in the log
    assert len(pages) > 20, pages
    output = "".join(run_commands(stack))

    Place.objects.create(name=base64.urlsafe_b64encode(b"x" + planted).decode())
    DeviceKey.objects.filter(system_title=devices[0].title, epoch=0).update(wrapped=b"before" + planted + b"after")
    with stack.redis() as client_of_redis:
        client_of_redis.set("planted", b"..." + planted)
        contents = b"".join(dump(client_of_redis, key) for key in client_of_redis.keys("*"))
    places = {
        "database": database_dump(stack),
        "logs": b"".join(path.read_bytes() for path in stack.log_dir.glob("*.log")),
        "redis": contents,
        "answers": bytes(recorder.answers),
        "commands": output.encode(),
    }
    assert b"DEBUG" in places["logs"]
    assert devices[0].title.hex().encode() in places["database"]
    searched = {place for _, place in leaks.find({"planted": planted}, places)}
    assert searched == {"database", "logs", "redis", "answers"}
    assert leaks.find(hidden, places) == set()


def post_everything(client: httpx.Client, site: Site, devices: list[Device], wrong: str) -> None:
    """Good frames and bad ones of every kind, over good and bad requests."""
    frames = frames_of(devices, range(6))
    forged = bytearray(frames[0])
    forged[-1] ^= 1
    stranger = Device(MeterFactory.build(), secrets.token_bytes(32))
    bad = [
        bytes(forged),
        frames[1],
        stranger.frame(1),
        Device(devices[0].meter, devices[0].key, epoch=3).frame(1),
        Device(devices[0].meter, secrets.token_bytes(32)).frame(1),
        devices[1].frame(1, wh=7, counter=1),
        devices[1].frame(1, wh=7, counter=77),
        devices[2].seal(b"\x80", counter=78),
        devices[2].frame(10_000, counter=79),
        b"garbage",
    ]
    tampered = devices[3].row()
    DeviceKey.objects.filter(pk=tampered.pk).update(wrapped=damaged(tampered.wrapped))
    ids = [site.posted(frames)]
    wait_verified(ids)  # the good ones first: what contradicts them is refused
    ids.append(site.posted(bad))
    wait_verified(ids)
    kinds = assert_one_verdict_each(ids)
    assert kinds["accepted"] == 36
    assert len(kinds) >= 9, kinds
    for token in (wrong, "dcu_" + secrets.token_urlsafe(32), site.token[:-1]):
        headers = {**site.headers, "Authorization": f"Bearer {token}"}
        assert client.post("/api/v1/uplinks", content=b"\x41a", headers=headers).status_code == 401
    for body in (b"", b"hello", frames[0]):
        assert client.post("/api/v1/uplinks", content=body, headers=site.headers).status_code == 400
    for uplink_id in (*ids, 999_999):
        client.get(f"/api/v1/uplinks/{uplink_id}", headers=site.headers)


def run_commands(stack: Stack) -> Iterator[str]:
    """The output of commands, those that fail among them."""
    for arguments in (
        ["master_key", "init"],
        ["doctor"],
        ["recompute_totals", "--help"],
        ["concentrator", "--help"],
        ["import_meters", settings.MASTER_KEY_FILE],
        ["summary"],
        ["check", "--deploy"],
        ["master_key", "status"],
        ["audit", "export"],
        ["fleet_key", "list"],
    ):
        done = stack.manage(*map(str, arguments))
        assert "Traceback" not in done.stderr, done.stderr
        yield done.stdout + done.stderr


def dump(client: "redis.Redis", key: bytes) -> bytes:
    """Everything that Redis holds under a key."""
    kind = client.type(key)
    value: Any
    match kind:
        case b"string":
            value = client.get(key)
        case b"list":
            value = client.lrange(key, 0, -1)
        case b"hash":
            value = client.hgetall(key)
        case b"set":
            value = client.smembers(key)
        case _:
            value = client.zrange(key, 0, -1)
    return key + (value if isinstance(value, bytes) else repr(value).encode())


def database_dump(stack: Stack) -> bytes:
    """A dump as an administrator makes it."""
    command = [postgres_program("pg_dump"), "--inserts", "--dbname", stack.owner_url]
    return subprocess.run(command, check=True, capture_output=True).stdout
