"""A restore beside a live web and worker in the documented roles: whatever was answered 202 is there afterwards."""

import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import pytest
from django.db import connection, connections
from psycopg import sql
from pytest_django import DjangoDbBlocker, Settings

from ami_headend.backup import databases as ours
from ami_headend.backup import making, restoring
from ami_headend.backup.programs import ProgramError
from ami_headend.database_roles import grant_rights
from ami_headend.metrics import counting
from concentrators.models import Uplink
from keyvault import master_key
from keyvault.audit.chain import Actor
from keyvault.backups import BackupError
from keyvault.cose.structures import encode_sequence
from meters.readings import partitions
from tests.concentrators import fleet
from tests.flows import databases
from tests.flows import site as sites
from tests.flows.site import Site, assert_readings, frames_of, readings_expected, sweep_until_verified, wait_verified
from tests.flows.stack import TRUSTED, Stack, processes, wait_for

pytestmark = pytest.mark.timeout(300)

ACTOR = Actor("tester", "test")
_PASSWORD = secrets.token_hex()


def ignore(done: int) -> None:
    pass


@dataclass
class Roles:
    """A database with the two roles of the set-up for production: an owner that is no superuser, and a worker."""

    owner: str
    owner_url: str
    working_url: str
    working: str


@pytest.fixture
def roles(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Roles]:
    name = f"ami_headend_roles_{os.getpid()}"
    owner, working = f"{name}_owner", f"{name}_work"
    url = os.environ["DATABASE_URL"]
    with django_db_blocker.unblock():
        own_url = databases.at_database(url, str(connection.settings_dict["NAME"]))
        databases.drop(name)
        for role, extra in ((owner, "CREATEDB"), (working, "")):
            databases._run(f"CREATE ROLE {{}} LOGIN {extra} PASSWORD '{_PASSWORD}'", role)
        databases._run("CREATE DATABASE {} OWNER {} TEMPLATE template0", name, owner)
        owner_url = databases.in_role(databases.at_database(url, name), owner, _PASSWORD)
        working_url = databases.in_role(databases.at_database(url, name), working, _PASSWORD)
        try:
            with databases.moved_to(owner_url, own_url):
                partitions.maintain()
                grant_rights(working)
                yield Roles(owner, owner_url, working_url, working)
        finally:
            databases.drop(name)
            for role in (owner, working):
                databases.drop_role(role)


@pytest.fixture
def stack(roles: Roles, tmp_path: Path, settings: Settings) -> Iterator[Stack]:
    settings.MASTER_KEY_FILE = tmp_path / "keys" / "master.keys"
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    settings.BACKUP_DIR = tmp_path / "backups"
    master_key.init(settings.MASTER_KEY_FILE)
    environ = {name: str(getattr(settings, name)) for name in ("MASTER_KEY_FILE", "KEY_JOURNAL_DIR", "BACKUP_DIR")}
    (tmp_path / "logs").mkdir()
    environ |= {"DATABASE_URL": roles.working_url}
    with processes(tmp_path / "logs", ("web", "worker"), environ, roles.owner_url) as stack:
        yield stack


def manage(stack: Stack, *words: str) -> "subprocess.CompletedProcess[str]":
    connections.close_all()
    return Stack(stack.port, {**stack.env, "OWNER_DATABASE_URL": stack.owner_url}, stack.log_dir).manage(*words)


@dataclass
class Poster:
    """A concentrator that posts without a pause: which intervals were acknowledged, and under which uplink."""

    site: Site
    acknowledged: dict[int, int] = field(default_factory=dict)
    refused: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        interval = 1
        with httpx.Client(timeout=30) as client:
            while not self.ended.is_set():
                # Into the past, as there are more of them than intervals since yesterday.
                body = encode_sequence(
                    [device.frame(-interval, 500 + interval, counter=interval) for device in self.site.devices]
                )
                url = f"{self.site.stack.base_url}/api/v1/uplinks"
                try:
                    answer = client.post(url, content=body, headers=self.site.headers)
                except httpx.TransportError:
                    answer = httpx.Response(599)
                if answer.status_code == 202:
                    self.acknowledged[interval] = int(answer.json()["uplink"])
                    interval += 1
                else:
                    self.refused += 1
                time.sleep(0.01)


def assert_owner_is_no_superuser(roles: Roles) -> None:
    with psycopg.connect(roles.owner_url) as owner:
        assert owner.execute("SELECT current_setting('is_superuser')").fetchone() == ("off",)


def test_sessions_of_the_working_role_are_seen_by_an_owner_without_superuser(roles: Roles) -> None:
    assert_owner_is_no_superuser(roles)
    connections.close_all()
    assert ours.other_sessions([roles.working]) == 0
    with psycopg.connect(roles.working_url):
        assert ours.other_sessions([roles.working]) == 1


def test_what_was_acknowledged_is_there_after_a_restore_beside_live_processes(
    stack: Stack, roles: Roles, tmp_path: Path
) -> None:
    site = sites.found(stack, 3)
    wait_verified([site.posted(frames_of(site.devices, [0]))])
    backup, _ = making.make(tmp_path / "backups", ACTOR, datetime.now(UTC), 35)
    poster = Poster(site)
    thread = threading.Thread(target=poster)
    thread.start()
    try:
        wait_for("uplinks are acknowledged after the backup", lambda: len(poster.acknowledged) >= 10)
        name = str(connection.settings_dict["NAME"])
        done = manage(stack, "restore", str(backup), "--replace", "--yes-replace", name)
        assert (done.returncode, "sessions are connected" in done.stderr) == (1, True), done.stderr
        # Nobody was connected when that was asked, and came then: nothing is lost all the same.
        before = len(poster.acknowledged)
        restoring.load(backup / "database.dump", ignore, replace=True)
        restoring.bring_up_to_date(roles.working)
        restoring.replay_journal([tmp_path / "journal"], ACTOR, datetime.now(UTC))
        wait_for("uplinks are acknowledged after the restore", lambda: len(poster.acknowledged) >= before + 10)
    finally:
        poster.ended.set()
        thread.join()
    ids = list(poster.acknowledged.values())
    assert len(set(ids)) == len(ids), "an id was given out twice"
    assert set(ids) <= set(Uplink.objects.values_list("pk", flat=True)), "an acknowledged uplink is gone"
    assert poster.refused, "the restore was over before anything was posted"
    stack.stop("worker")
    stack.start("worker")
    sweep_until_verified(stack, ids, 90)
    posted = {(device.meter.pk, -number): 500 + number for device in site.devices for number in poster.acknowledged}
    assert_readings(site.devices, {**readings_expected(site.devices, [0]), **posted})
    assert manage(stack, "audit", "verify").returncode == 0


def test_a_writer_that_is_in_the_middle_is_waited_for_and_carried_over(
    roles: Roles, stack: Stack, tmp_path: Path
) -> None:
    site = sites.found(stack, 1)
    backup, _ = making.make(tmp_path / "backups", ACTOR, datetime.now(UTC), 35)
    body = frames_of(site.devices, [0])[0]
    with psycopg.connect(roles.working_url) as web:
        web.execute(
            """INSERT INTO concentrators_uplink (id, concentrator_id, received_at, sha256, body, octets, frames, due_at,
                      accepted, duplicate, rejected, failures, waiting, attempts, last_error)
               VALUES (777, %s, now(), sha256(%s), %s, 1, 1, now(), 0, 0, 0, '{}', 0, 0, '')""",
            [site.concentrator.pk, body, body],
        )
        timer = threading.Timer(1, web.commit)
        timer.start()
        restoring.load(backup / "database.dump", ignore, replace=True)
        timer.join()
    restoring.bring_up_to_date(roles.working)
    restoring.replay_journal([tmp_path / "journal"], ACTOR, datetime.now(UTC))
    assert bytes(Uplink.objects.get(pk=777).sha256)


def test_somebody_who_does_not_end_is_told_of_and_nothing_is_touched(
    roles: Roles, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites.found(stack, 1)
    backup, _ = making.make(tmp_path / "backups", ACTOR, datetime.now(UTC), 35)
    monkeypatch.setattr(ours, "_LOCK_WAIT_S", 1)
    with psycopg.connect(roles.working_url) as web:
        web.execute("SELECT 1 FROM concentrators_concentrator")
        with pytest.raises(BackupError, match="the database is in use: stop web"):
            restoring.load(backup / "database.dump", ignore, replace=True)
    assert not ours.is_aside()
    assert Uplink.objects.count() == 0


@pytest.mark.parametrize(
    "at",
    [
        "put aside",
        "brought up to date",
        pytest.param("loaded", marks=pytest.mark.soak),
        pytest.param("opened", marks=pytest.mark.soak),
    ],
)
def test_killed_anywhere_the_same_words_finish_it(
    at: str, roles: Roles, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = sites.found(stack, 2)
    backup, _ = making.make(tmp_path / "backups", ACTOR, datetime.now(UTC), 35)
    wait_verified([later := site.posted(frames_of(site.devices, [0]))])
    for name in ("web", "worker"):
        stack.stop(name)

    class KilledError(BaseException):
        """The process is no more: nothing is taken back."""

    def killed(*args: object, **words: object) -> None:
        raise KilledError

    def until_killed(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(ours, "put_back", lambda: True)
        if at == "put aside":
            patch.setattr(restoring, "_run", killed)
        restoring.load(backup / "database.dump", ignore, replace=True)
        if at == "loaded":
            killed()
        restoring.bring_up_to_date(roles.working)
        if at == "brought up to date":
            killed()
        patch.setattr(ours, "drop_aside", killed)
        restoring.replay_journal([tmp_path / "journal"], ACTOR, datetime.now(UTC))

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        until_killed(patch)
    taken = []
    if at == "brought up to date":
        stack.start("web")
        taken = [site.posted(frames_of(site.devices, [1]))]  # taken between load and replay
        stack.stop("web")
    name = str(connection.settings_dict["NAME"])
    done = manage(stack, "restore", str(backup), "--replace", "--yes-replace", name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("is loaded already" in done.stderr) == (at in ("loaded", "brought up to date"))
    assert not ours.is_aside()
    for name in ("web", "worker"):
        stack.start(name)
    sweep_until_verified(stack, [later, *taken], 60)
    assert_readings(site.devices, readings_expected(site.devices, range(1 + len(taken))))
    assert site.status(later)["accepted"] == 2


def test_ids_of_uplinks_that_are_lost_never_come_again(roles: Roles, stack: Stack, tmp_path: Path) -> None:
    site = sites.found(stack, 1)
    backup, _ = making.make(tmp_path / "backups", ACTOR, datetime.now(UTC), 35)
    given = [site.posted(frames_of(site.devices, [number])) for number in range(3)]
    for name in ("web", "worker"):
        stack.kill(name)
    connections.close_all()
    with psycopg.connect(roles.owner_url, autocommit=True) as owner:  # all is lost: nothing can be carried over
        owner.execute("DROP SCHEMA public CASCADE")
        owner.execute(sql.SQL("CREATE SCHEMA public AUTHORIZATION pg_database_owner"))
        owner.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
    done = manage(stack, "restore", str(backup))
    assert done.returncode == 0, done.stderr
    stack.start("web")
    for number in given:
        url = f"{stack.base_url}/api/v1/uplinks/{number}"
        assert httpx.get(url, headers=site.headers, timeout=30, verify=TRUSTED).status_code == 404
    stack.start("worker")
    again = [site.posted(frames_of(site.devices, [number])) for number in range(2)]
    assert not set(again) & set(given)
    assert max(given) < min(again) < 1 << 53
    wait_verified(again)
    assert_readings(site.devices, readings_expected(site.devices, range(2)))


def test_a_dump_that_does_not_load_is_put_back_by_the_owner(roles: Roles, stack: Stack, tmp_path: Path) -> None:
    sites.found(stack, 1)
    backup, _ = making.make(tmp_path / "backups", ACTOR, datetime.now(UTC), 35)
    for name in ("web", "worker"):
        stack.stop(name)
    before = Uplink.objects.count()
    (tmp_path / "broken.dump").write_bytes((backup / "database.dump").read_bytes()[:-9000])
    connections.close_all()
    with pytest.raises(ProgramError, match="pg_restore failed"):
        restoring.load(tmp_path / "broken.dump", ignore, replace=True)
    assert (Uplink.objects.count(), ours.is_aside()) == (before, False)
    stack.start("web")


def test_what_workers_verify_in_their_role_is_counted_once_it_is_committed(roles: Roles, stack: Stack) -> None:
    for name in ("web", "worker"):
        stack.stop(name)
    site = sites.found(stack, 1)
    uplink = fleet.post(site.concentrator, [site.devices[0].frame(0)], datetime.now(UTC))
    verdict = "UPDATE concentrators_uplink SET accepted = 1, verified_at = clock_timestamp() WHERE id = %s"
    counting.count()
    with psycopg.connect(roles.working_url) as other:
        other.execute(verdict, [uplink.pk])
        assert counting.count()[0].uplinks == 0
        other.commit()
    assert counting.count()[0].uplinks == 1
