"""A restore over real processes: a database is lost, and its backup is days behind what meters and people did since."""

import io
import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import cbor2
import httpx
import pytest
from django.db import connection, connections
from django.utils import timezone
from pytest_django import DjangoDbBlocker, Settings

from ami_headend.backup import databases as ours
from ami_headend.backup import restoring
from ami_headend.backup.programs import ProgramError
from concentrators.commands.queue import CommandRequest, enqueue, enqueue_keys
from concentrators.fleet import tokens
from concentrators.models import CommandKind, Uplink
from keyvault import master_key
from keyvault.cose.structures import parse_frame
from keyvault.device_keys.provisioning import NewKey, provision_stored
from keyvault.journal import writing
from keyvault.journal.segments import JournalRecord
from keyvault.models import AuditRecord, Backup, DeviceKey, KeyState
from tests.concentrators.fleet import Device
from tests.concentrators.obedient import Receiver
from tests.flows import site as sites
from tests.flows.feed_consumer import Consumer
from tests.flows.site import Site, assert_one_verdict_each, frames_of, wait_verified
from tests.flows.stack import TRUSTED, Stack, running, wait_for

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def stack(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path: Path, settings: Settings
) -> Iterator[Stack]:
    settings.MASTER_KEY_FILE = tmp_path / "keys" / "master.keys"
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    settings.BACKUP_DIR = tmp_path / "backups"
    master_key.init(settings.MASTER_KEY_FILE)
    names = ("MASTER_KEY_FILE", "KEY_JOURNAL_DIR", "BACKUP_DIR")
    environ = {name: str(getattr(settings, name)) for name in names} | {"MASTER_KEY_DESTROY_AFTER_DAYS": "0"}
    (tmp_path / "logs").mkdir()
    with django_db_blocker.unblock(), running(tmp_path / "logs", environ=environ) as stack:
        yield stack


def as_owner(stack: Stack, *words: str) -> "subprocess.CompletedProcess[str]":
    """A management command in the role that owns the tables, as an administrator runs it."""
    return replace(stack, env={**stack.env, "OWNER_DATABASE_URL": stack.owner_url}).manage(*words)


@dataclass
class Offered:
    """The commands that a concentrator was given, by number, and the nonces that they were sealed under."""

    octets: dict[int, bytes] = field(default_factory=dict)
    nonces: dict[tuple[bytes, int], bytes] = field(default_factory=dict)

    def fetch(self, site: Site) -> dict[bytes, bytes]:
        """Fetches commands; gives them by system title. Fails where a nonce has sealed something else before."""
        answer = httpx.get(f"{site.stack.base_url}/api/v1/commands", headers=site.headers, timeout=30, verify=TRUSTED)
        assert answer.status_code == 200, answer.text
        given = {}
        stream = io.BytesIO(answer.content)
        while stream.tell() < len(answer.content):
            number, title, octets = cbor2.load(stream)
            frame = parse_frame(octets)
            assert self.nonces.setdefault((frame.kid, frame.counter), octets) == octets, "a nonce was used twice"
            assert self.octets.setdefault(number, octets) == octets, "a number was used twice"
            given[title] = octets
        return given


def backed_up(stack: Stack) -> Path:
    done = as_owner(stack, "backup")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def lose_database(stack: Stack) -> None:
    """The database is gone, and an empty one stands in its place."""
    for name in ("worker", "web"):
        stack.kill(name)
    name = str(connection.settings_dict["NAME"])
    connections.close_all()
    ours._outside("DROP DATABASE {} WITH (FORCE)", name)
    ours.create(name)


def ready(stack: Stack) -> int:
    return httpx.get(f"{stack.base_url}/health/ready", timeout=30, verify=TRUSTED).status_code


@dataclass
class Since:
    """What came after the backup: the meters with their new keys, tokens, the head of the audit chain, the commands."""

    renewed: list[Device]
    stolen: str
    later: str
    head: str
    acts: int
    offered: Offered


def go_on(site: Site, receivers: list[Receiver], stolen: str) -> Since:
    """Readings, new keys, keys in other hands, a stolen token and a new one, all after the backup."""
    stack, devices = site.stack, site.devices
    wait_verified([site.posted(frames_of(devices, [1]))])
    enqueue_keys([device.meter for device in devices[:4]], "tester", timezone.now())
    enqueue([CommandRequest(devices[5].meter, CommandKind.READ_NOW, {})], "tester", timezone.now())
    offered = Offered()
    brought = offered.fetch(site)
    assert set(brought) == {device.title for device in (*devices[:4], devices[5])}
    renewed = [receiver.renewed(brought[receiver.device.title]) for receiver in receivers[:4]]
    wait_verified([site.posted(frames_of(renewed[:1], [2]))])  # proves its key; 1 and 2 say nothing yet
    for device, epoch in ((devices[4], "1"), (devices[3], "2")):
        done = stack.manage("compromise_keys", "--device", device.title.hex(), "--epoch", epoch, "--yes")
        assert done.returncode == 0, done.stderr
    tokens.revoke(site.concentrator.tokens.get(label="stolen"))
    later = tokens.issue(site.concentrator, "later")
    head = stack.manage("audit", "head").stdout.strip()
    return Since(renewed, stolen, later, head, AuditRecord.objects.count(), offered)


def write_ahead(folder: Path, settings: Settings) -> Path:
    """A journal of a host whose clock was an hour ahead."""
    own = settings.KEY_JOURNAL_DIR
    settings.KEY_JOURNAL_DIR = folder
    later = timezone.now() + timedelta(hours=1)
    writing.write(JournalRecord(1, int(later.timestamp() * 1_000_000), "state", ["retired", []]))
    settings.KEY_JOURNAL_DIR = own
    return folder


def test_nothing_is_forgotten_over_a_restore(stack: Stack, tmp_path: Path, settings: Settings) -> None:
    site = sites.found(stack, 6)
    devices = site.devices
    provision_stored([NewKey(device.title, 0) for device in devices])
    receivers = [Receiver.of(device) for device in devices]
    stolen = tokens.issue(site.concentrator, "stolen")
    wait_verified([site.posted(frames_of(devices, [0]))])
    billing = Consumer(stack, tmp_path / "billing", random.Random(7))
    billing.catch_up()
    backup = backed_up(stack)
    since = go_on(site, receivers, stolen)
    renewed = since.renewed
    billing.catch_up()  # it has more than the backup

    lose_database(stack)
    ahead = write_ahead(tmp_path / "ahead", settings)
    done = as_owner(stack, "restore", str(backup), "--journal", stack.env["KEY_JOURNAL_DIR"], "--journal", str(ahead))
    assert (done.returncode, "set the clock right first" in done.stderr) == (2, True), done.stderr
    assert_received_but_not_verified(
        site, waiting := frames_of([*renewed[:2], devices[2], devices[5]], [3]), devices[0].title
    )
    done = as_owner(stack, "restore", "--replay")
    assert (done.returncode, "Verification continues" in done.stdout) == (0, True), done.stderr
    assert ready(stack) == 200
    sites.sweep_until_verified(stack, [uplink_id := site.posted(waiting)], 60)  # the same body: the same uplink
    assert assert_one_verdict_each([uplink_id]) == {"accepted": 4}

    assert_frames_and_tokens(site, since)
    assert_nothing_is_used_again(site, since, receivers)
    billing.catch_up()
    billing.kill()
    assert "discard the rows that you took at positions after" in billing.said()
    # The chain of acts goes on, with what was done after the backup in it.
    done = stack.manage("audit", "verify", "--head", since.head)
    assert done.returncode == 0, done.stderr
    later = AuditRecord.objects.filter(number__gt=since.acts)
    assert list(later.values_list("act", flat=True)) == ["database.restore"]
    assert backup.name == Backup.objects.exclude(finished_at=None).get().name


def assert_received_but_not_verified(site: Site, frames: list[bytes], title: bytes) -> None:
    """Loaded, and not replayed: uplinks are taken, and wait; no command leaves, and no act on keys is done."""
    stack = site.stack
    for name in ("web", "worker"):
        stack.start(name)
    uplink_id = site.posted(frames)
    assert ready(stack) == 503
    assert (
        httpx.get(f"{stack.base_url}/api/v1/commands", headers=site.headers, timeout=30, verify=TRUSTED).content == b""
    )
    assert stack.manage("compromise_keys", "--device", title.hex(), "--yes").returncode == 1
    stack.enqueue("verify_backlog", uplink_id)
    log = stack.log("worker")
    wait_for("the worker says what it waits for", lambda: "restore --replay" in log.read_text(errors="replace"))
    assert Uplink.objects.get(pk=uplink_id).verified_at is None


def assert_frames_and_tokens(site: Site, since: Since) -> None:
    """What was sent since the backup is new to this database, what it knows is not; what was cut off stays so."""
    devices = site.devices
    again = [*frames_of(devices[:4], [1]), *frames_of(devices[5:], [1]), *frames_of(devices[:4], [0])]
    wait_verified([resent := site.posted(again)])
    assert assert_one_verdict_each([resent]) == {"accepted": 5, "duplicate": 4}
    wait_verified([cut_off := site.posted(frames_of([devices[4], since.renewed[3]], [4]))])
    assert assert_one_verdict_each([cut_off]) == {"key_retired": 2}
    for number, (token, status) in enumerate(((since.stolen, 401), (since.later, 202), (site.token, 202))):
        other = Site(site.stack, site.concentrator, token, devices)
        assert other.post(frames_of(devices[:1], [5 + number])).status_code == status
    assert DeviceKey.objects.get(system_title=devices[0].title, epoch=2).state == KeyState.ACTIVE


def assert_nothing_is_used_again(site: Site, since: Since, receivers: list[Receiver]) -> None:
    """Commands that left are offered again octet for octet; new ones have numbers and nonces that none has had."""
    devices = site.devices
    before = set(since.offered.octets)
    given = since.offered.fetch(site)
    assert set(since.offered.octets) == before
    assert receivers[2].renewed(given[devices[2].title]).key == since.renewed[2].key
    enqueue_keys([devices[5].meter], "tester", timezone.now())
    enqueue([CommandRequest(devices[0].meter, CommandKind.READ_NOW, {})], "tester", timezone.now())
    assert set(since.offered.fetch(site)) >= {devices[0].title, devices[5].title}
    assert len(set(since.offered.octets) - before) == 2


def test_a_backup_is_drilled_and_restored_by_commands(stack: Stack, tmp_path: Path, settings: Settings) -> None:
    site = sites.found(stack, 3)
    wait_verified([site.posted(frames_of(site.devices, [0]))])
    backup = backed_up(stack)
    assert ((backup / "database.dump").stat().st_mode & 0o777, backup.stat().st_mode & 0o777) == (0o600, 0o700)
    provision_stored([NewKey(device.title, 0) for device in site.devices])
    copy = shutil.copy(settings.MASTER_KEY_FILE, tmp_path / "copy.keys")
    done = as_owner(stack, "restore_drill", str(backup), "--master-key", str(copy), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert list(findings) == ["manifest", "dump", "load", "counts", "keys", "audit chain", "key journal"]
    assert findings["keys"]["found"] == "all 4 open"
    assert "7 keys open" in findings["key journal"]["found"]
    foreign = tmp_path / "foreign.keys"
    master_key.init(foreign)
    done = as_owner(stack, "restore_drill", str(backup), "--master-key", str(foreign))
    assert (done.returncode, "FAIL  manifest" in done.stdout, "Traceback" in done.stderr) == (1, True, False)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_database WHERE datname LIKE '%%_drill_%%'")
        assert cursor.fetchone() == (0,)

    # Into a database that is not empty: only where that is said, twice.
    name = str(connection.settings_dict["NAME"])
    before = DeviceKey.objects.count()
    done = as_owner(stack, "restore", str(backup), "--replace", "--yes-replace", name)
    assert (done.returncode, "other sessions are connected" in done.stderr) == (1, True), done.stderr
    stack.stop("worker")
    stack.stop("web")
    for words, reason in (([], "is not empty"), (["--replace", "--yes-replace", "another"], "'another' is not")):
        connections.close_all()
        done = as_owner(stack, "restore", str(backup), *words)
        assert (done.returncode, reason in done.stderr) == (1, True), done.stderr
    assert DeviceKey.objects.count() == before
    connections.close_all()
    done = as_owner(stack, "restore", str(backup), "--replace", "--yes-replace", name)
    assert done.returncode == 0, done.stderr
    assert DeviceKey.objects.count() == before
    assert stack.manage("audit", "verify").returncode == 0

    # A dump that does not load leaves everything as it is.
    connections.close_all()
    broken = shutil.copytree(backup, tmp_path / "broken")
    (broken / "database.dump").write_bytes((backup / "database.dump").read_bytes()[:-5000])
    done = as_owner(stack, "restore", str(broken), "--replace", "--yes-replace", name)
    assert (done.returncode, "the backup is incomplete" in done.stderr) == (1, True), done.stderr
    with pytest.raises(ProgramError, match="pg_restore failed"):
        restoring.load(broken / "database.dump", lambda octets: None, replace=True)
    assert DeviceKey.objects.count() == before


def test_a_master_key_version_is_kept_while_a_backup_needs_it(stack: Stack) -> None:
    sites.found(stack, 2)
    first = backed_up(stack)
    assert stack.manage("master_key", "rotate", "--here").returncode == 0
    done = stack.manage("master_key", "destroy", "1", "--yes-destroy", "1")
    assert (done.returncode, f"need version 1: {first.name}" in done.stderr) == (1, True), done.stderr
    assert as_owner(stack, "backup", "prune", first.name).returncode == 1  # the newest whole one is kept
    second = backed_up(stack)
    assert [row["master_key_versions"] for row in json.loads(as_owner(stack, "backup", "list", "--json").stdout)] == [
        [1],
        [2],
    ]
    done = as_owner(stack, "backup", "prune", first.name)
    assert (done.returncode, first.exists(), second.exists()) == (0, False, True), done.stderr
    destroyed = stack.manage("master_key", "destroy", "1", "--yes-destroy", "1")
    assert destroyed.returncode == 0, destroyed.stderr
    assert as_owner(stack, "restore_drill", str(second)).returncode == 0
    assert master_key.provider().fresh().versions == [2]
