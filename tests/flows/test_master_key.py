"""The master key is rotated under continuous ingest while workers are killed: nothing is lost, refused or left."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from ami_headend.core import locks
from keyvault import master_key
from keyvault.audit.chain import Actor
from keyvault.device_keys import provisioning
from keyvault.master_key import census, rewrap, rotation_lock
from keyvault.models import DeviceKey, MasterKeyRotation, RotationState
from tests.flows import site as sites
from tests.flows.site import Site, assert_one_verdict_each, assert_readings, energy, readings_expected
from tests.flows.stack import Stack, wait_for, with_own_master_key
from tests.keyvault.providers import SoftHsm

PAUSE_S = 0.05
FIRST = -9_000  # intervals in the past, so that none of the ingest is ahead of the clock


@pytest.fixture(params=["file", "pkcs11"])
def stack(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path: Path
) -> Iterator[Stack]:
    environ = {
        "MASTER_KEY_FILE": str(tmp_path / "master.keys"),
        "MASTER_KEY_DESTROY_AFTER_DAYS": "0",
        "UPLINK_RATE": "6000/minute",  # far above what is posted, however long a rotation takes
    }
    if request.param == "pkcs11":
        hsm: SoftHsm = request.getfixturevalue("softhsm")
        environ |= hsm.environ(hsm.new_token())
    with django_db_blocker.unblock(), with_own_master_key(tmp_path, environ) as stack:
        yield stack


@dataclass
class Ingest:
    """Posts an interval of every meter, again and again, until it is told to end."""

    site: Site
    uplinks: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    intervals: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._ended.is_set():
            number = FIRST + self.intervals
            answer = self.site.post(
                [one.frame(number, energy(one, number), counter=self.intervals) for one in self.site.devices]
            )
            if answer.status_code == 202:
                self.uplinks.append(answer.json()["uplink"])
            else:
                self.refused.append(answer.text)
            self.intervals += 1
            time.sleep(PAUSE_S)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def assert_nothing_lost(self, timeout_s: float) -> None:
        assert self.refused == []
        sites.sweep_until_verified(self.site.stack, self.uplinks, timeout_s)
        good = len(self.site.devices) * self.intervals
        assert assert_one_verdict_each(self.uplinks) == {"accepted": good}
        assert_readings(self.site.devices, readings_expected(self.site.devices, range(FIRST, FIRST + self.intervals)))


def provision(meters: int) -> None:
    """Device keys beside those of the meters that send: two a meter."""
    for start in range(0, meters, 10_000):
        numbers = range(start, min(meters, start + 10_000))
        provisioning.provision_devices([bytes.fromhex("02aa") + number.to_bytes(6, "big") for number in numbers])


def rotation() -> MasterKeyRotation:
    return MasterKeyRotation.objects.get()


def moved(count: int) -> Callable[[], bool]:
    return lambda: rotation().rewrapped >= count


def take_up(stack: Stack) -> None:
    """What beat does half a minute after a worker died, now."""
    MasterKeyRotation.objects.filter(state=RotationState.RUNNING).update(beat_at=timezone.now() - timedelta(seconds=60))
    stack.send("keyvault.tasks.sweep_master_key_rotation")


def assert_all_at(version: int, stack: Stack) -> None:
    assert [count.version for count in census.census()] == [version]
    verified = stack.manage("master_key", "verify")
    assert (verified.returncode, verified.stderr.count("Traceback")) == (0, 0)
    assert " 0 do not" in verified.stdout


def assert_destroyed(version: int, stack: Stack) -> None:
    done = stack.manage("master_key", "destroy", str(version), "--yes-destroy", str(version))
    assert done.returncode == 0, done.stderr
    assert version not in master_key.provider().fresh().versions
    assert stack.manage("audit", "verify").returncode == 0


@pytest.mark.parametrize("stack", ["file", pytest.param("pkcs11", marks=pytest.mark.soak)], indirect=True)
def test_workers_are_killed_during_a_rotation(stack: Stack) -> None:
    provision(450)
    ingest = Ingest(sites.found(stack, 10))
    before = {row.pk: (row.version, bytes(row.fingerprint or b"")) for row in DeviceKey.objects.all()}
    with ingest.going_on():
        begun = stack.manage("master_key", "rotate", "--no-wait", "--batch-size", "1")
        assert begun.returncode == 0, begun.stderr
        for number in range(2):
            wait_for("some batches are done", moved(200 * (number + 1)))
            stack.kill("worker")
            assert rotation().state == RotationState.RUNNING
            stack.start("worker")
            take_up(stack)
        wait_for("the rotation is finished", lambda: rotation().state == RotationState.FINISHED, 90)
    done = rotation()
    assert (done.rewrapped, done.unreadable) == (done.total, 0)
    assert {row.pk: (row.version, bytes(row.fingerprint or b"")) for row in DeviceKey.objects.all()} == before
    ingest.assert_nothing_lost(60)
    assert_all_at(2, stack)
    assert_destroyed(1, stack)
    status = json.loads(stack.manage("master_key", "status", "--json").stdout)
    assert status["rotation"]["state"] == "finished"


def test_a_rotation_waits_for_who_provisions(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    provision(5)
    with psycopg.connect(stack.env["DATABASE_URL"]) as other:
        other.execute("SELECT pg_advisory_xact_lock_shared(%s)", [locks.MASTER_KEY])  # wraps, and has not committed
        waiting = threading.Thread(target=lambda: results.append(stack.manage("master_key", "rotate", "--here")))
        results: list[object] = []
        waiting.start()
        wait_for("the rotation waits", lambda: bool(sites.waiting_backends()))
        assert not MasterKeyRotation.objects.exists()
        assert master_key.provider().fresh().active_version == 1
        other.rollback()
    waiting.join()
    assert_all_at(2, stack)
    waited_for = stack.manage("master_key", "rotate")  # by the worker this time, watched by the command
    assert (waited_for.returncode, "Finished: " in waited_for.stdout) == (0, True), waited_for.stderr
    assert_all_at(3, stack)
    with psycopg.connect(stack.env["DATABASE_URL"]) as other:
        other.execute("SELECT pg_advisory_xact_lock_shared(%s)", [locks.MASTER_KEY])
        monkeypatch.setattr(rotation_lock, "_WAIT_S", 1)
        with (
            pytest.raises(master_key.MasterKeyError, match="keys are being provisioned"),
            rotation_lock.changing_versions(),
        ):
            pytest.fail("the lock was held")


def test_two_workers_do_not_do_one_batch_twice(stack: Stack) -> None:
    stack.stop("worker")
    provision(10)
    rotation = rewrap.begin(5, Actor("officer", "test"))
    with psycopg.connect(stack.env["DATABASE_URL"]) as other:
        other.execute("SELECT 1 FROM keyvault_masterkeyrotation FOR UPDATE")  # another's batch
        assert not rewrap.rewrap_batch(rotation.pk)
        other.rollback()
    working = [threading.Thread(target=work, args=(rotation.pk,)) for _ in range(3)]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    rotation.refresh_from_db()
    assert (rotation.state, rotation.rewrapped, rotation.total) == (RotationState.FINISHED, 21, 21)
    assert_all_at(2, stack)


def work(rotation_id: int) -> None:
    """A worker that comes again until the rotation is finished."""
    try:
        while MasterKeyRotation.objects.filter(pk=rotation_id, state=RotationState.RUNNING).exists():
            rewrap.rewrap_batch(rotation_id)
    finally:
        connection.close()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_100_000_keys_under_ingest_and_three_kills(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path: Path
) -> None:
    environ = {
        "MASTER_KEY_FILE": str(tmp_path / "master.keys"),
        "MASTER_KEY_DESTROY_AFTER_DAYS": "0",
        "UPLINK_RATE": "6000/minute",  # far above what is posted, however long a rotation takes
    }
    environ["UPLINK_RATE"] = "1000000/second"  # one concentrator posts as fast as it is answered
    environ["UPLINK_QUEUE_SHARE"] = "5000"
    with django_db_blocker.unblock(), with_own_master_key(tmp_path, environ) as stack:
        provision(50_000)
        ingest = Ingest(sites.found(stack, 200))
        stack.start("beat")
        started = time.monotonic()
        killed_at = []
        with ingest.going_on():
            time.sleep(3)
            assert stack.manage("master_key", "rotate", "--no-wait", "--batch-size", "200").returncode == 0
            for number in range(3):
                wait_for("some batches are done", moved(25_000 * (number + 1)), 600)
                stack.kill("worker")
                killed_at.append(rotation().rewrapped)
                time.sleep(1)
                stack.start("worker")  # beat takes the rotation up
            wait_for("the rotation is finished", lambda: rotation().state == RotationState.FINISHED, 600)
            seconds = time.monotonic() - started
            time.sleep(3)
        done = rotation()
        assert (done.rewrapped, done.unreadable) == (done.total, 0)
        ingest.assert_nothing_lost(300)
        assert_all_at(2, stack)
        assert_destroyed(1, stack)
        frames = len(ingest.site.devices) * ingest.intervals
        print(
            f"\n{done.total} secrets in {seconds:.0f} s, worker killed at {killed_at}; meanwhile {frames} frames in "
            f"{len(ingest.uplinks)} uplinks, all accepted once ({os.cpu_count()} processors)"
        )
