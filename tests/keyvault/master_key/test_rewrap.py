"""Rotation of the master key: every secret moves, once, whatever happens beside it, and nothing else changes."""

import itertools
import json
import re
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.utils import timezone
from psycopg.errors import DeadlockDetected
from pytest_django import Settings

from keyvault import master_key, tasks
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import provisioning
from keyvault.device_keys.key_rows import purpose_of
from keyvault.master_key import MasterKeyError, MasterKeys, MasterKeyState, Provider, Purpose, census, rewrap, versions
from keyvault.master_key.rewrap import RotationError
from keyvault.master_key.versions import DestroyError
from keyvault.models import AuditKey, AuditRecord, DeviceKey, FleetKey, MasterKeyRotation
from tests.concentrators.statements import counting

pytestmark = pytest.mark.django_db
OFFICER = Actor("officer", "192.0.2.7")
TITLES = [bytes.fromhex("0024beffff") + number.to_bytes(3, "big") for number in range(15)]
DERIVED = [bytes.fromhex("0024beff00") + number.to_bytes(3, "big") for number in range(4)]
SECRETS = 2 * len(TITLES) + 2  # and the fleet key, and the audit key


@pytest.fixture
def secrets(provider: Provider) -> dict[int, bytes]:
    """Keys of every kind; gives the octets of the stored device keys by row."""
    provisioning.provision_devices(TITLES)
    provisioning.provision_devices(DERIVED, fleet_key=provisioning.create_fleet_key("north"))
    chain.record(OFFICER, "test", {})
    return octets()


@pytest.fixture
def in_file(settings: Settings, tmp_path: Path) -> Path:
    """Keys in a file of this test's own, for what does not depend on the provider."""
    path = tmp_path / "master.keys"
    settings.MASTER_KEY_FILE = path
    master_key.provider().init()
    provisioning.provision_devices(TITLES)
    chain.record(OFFICER, "test", {})
    return path


def octets() -> dict[int, bytes]:
    master = master_key.current()
    return {
        row.pk: master.unwrap(bytes(row.wrapped or b""), purpose_of(row.epoch), bytes(row.system_title), row.epoch)
        for row in DeviceKey.objects.exclude(wrapped=None)
    }


def versions_of(rows: "type[DeviceKey] | type[FleetKey] | type[AuditKey]" = DeviceKey) -> set[int | None]:
    return set(rows.objects.values_list("master_key_version", flat=True))


def run(rotation: MasterKeyRotation) -> int:
    """Batches until nothing is left; gives how many."""
    batches = 1
    while rewrap.rewrap_batch(rotation.pk):
        batches += 1
    rotation.refresh_from_db()
    return batches


def damage(row: DeviceKey) -> None:
    row.wrapped = bytes(row.wrapped or b"")[:-1] + bytes([bytes(row.wrapped or b"")[-1] ^ 1])
    row.save()


def acts() -> list[tuple[str, str]]:
    return list(AuditRecord.objects.order_by("number").values_list("act", "result"))


def call(*arguments: str) -> str:
    out = StringIO()
    call_command("master_key", *arguments, stdout=out, stderr=out)
    return out.getvalue()


class TestRotation:
    def test_every_secret_moves_and_stays_what_it_is(self, secrets: dict[int, bytes]) -> None:
        rows = {row.pk: row for row in DeviceKey.objects.all()}
        rotation = rewrap.begin(7, OFFICER)
        assert (rotation.to_version, rotation.total) == (2, SECRETS)
        assert run(rotation) == 6  # 5 batches of device keys, and the rest
        assert (rotation.state, rotation.rewrapped, rotation.unreadable) == ("finished", SECRETS, 0)
        assert octets() == secrets
        assert versions_of() == {2, None}
        assert versions_of(FleetKey) == versions_of(AuditKey) == {2}
        for row in DeviceKey.objects.all():
            before = rows[row.pk]
            assert (row.version, row.state, row.fingerprint) == (before.version, before.state, before.fingerprint)
            assert row.source == "derived" or row.wrapped != before.wrapped
        assert census.verify() == census.Verification(SECRETS, [])
        chain.verify()
        assert acts()[1:] == [
            ("master_key.rotate", "begun"),
            ("master_key.rotate", f"finished: {SECRETS} rewrapped"),
        ]

    def test_stopped_and_resumed(self, secrets: dict[int, bytes]) -> None:
        rotation = rewrap.begin(10, OFFICER)
        assert rewrap.rewrap_batch(rotation.pk)
        assert rewrap.stop(OFFICER).rewrapped == 10
        assert not rewrap.rewrap_batch(rotation.pk)
        assert [(count.version, count.device_keys) for count in census.census()] == [(1, 20), (2, 10)]
        assert octets() == secrets
        with pytest.raises(RotationError, match="stopped at 10 of 32"):
            rewrap.begin(10, OFFICER)
        with pytest.raises(RotationError, match="no rotation of the master key is running"):
            rewrap.stop(OFFICER)
        assert rewrap.resume(OFFICER) == rotation
        run(rotation)
        assert rotation.rewrapped == SECRETS
        assert versions_of() == {2, None}

    def test_an_unreadable_row_is_named_and_left(
        self, secrets: dict[int, bytes], caplog: pytest.LogCaptureFixture
    ) -> None:
        row = DeviceKey.objects.get(system_title=TITLES[3], epoch=1)
        damage(row)
        rotation = rewrap.begin(4, OFFICER)
        run(rotation)
        assert (rotation.rewrapped, rotation.unreadable) == (SECRETS - 1, 1)
        name = f"device key of {TITLES[3].hex()}, epoch 1"
        assert name in caplog.text
        (fault,) = rewrap.unreadable(rotation)
        assert fault.startswith(f"{name}: master key version 1 does not open it")
        after = DeviceKey.objects.get(pk=row.pk)
        assert (bytes(after.wrapped or b""), after.master_key_version) == (row.wrapped, 1)
        rotation = rewrap.resume(OFFICER)  # for what was left
        assert (rotation.to_version, rotation.total) == (2, 1)
        run(rotation)
        assert (rotation.state, rotation.rewrapped, rotation.unreadable) == ("finished", 0, 1)

    def test_after_a_rotation_there_is_nothing_to_resume(self, secrets: dict[int, bytes]) -> None:
        run(rewrap.begin(100, OFFICER))
        with pytest.raises(RotationError, match="every secret is under version 2"):
            rewrap.resume(OFFICER)

    @pytest.mark.parametrize("size", [3, 12])
    def test_a_batch_costs_the_same_whatever_its_size(self, in_file: Path, size: int) -> None:
        rotation = rewrap.begin(size, OFFICER)
        with counting() as statements:
            assert rewrap.rewrap_batch(rotation.pk)
        told = [line for line in statements if not line.startswith(("SAVEPOINT", "RELEASE"))]
        assert len(told) == 4, told  # the rotation, the keys, their update, the progress

    def test_a_deadlock_is_tried_again(self, in_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rotation = rewrap.begin(10, OFFICER)
        inner, tries = rewrap._batch, itertools.count()

        def losing(rotation_id: int) -> bool:
            done = inner(rotation_id)
            if next(tries) < 2:
                raise OperationalError from DeadlockDetected()
            return done

        monkeypatch.setattr(rewrap, "_batch", losing)
        run(rotation)
        assert (rotation.rewrapped, rotation.unreadable) == (31, 0)
        assert versions_of() == {2}


class TestBeside:
    """What others do while a batch is at work."""

    @pytest.fixture
    def beside(self, in_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
        """Does something between the reading of the first batch and its update."""

        def arrange(act: Callable[[], object]) -> None:
            acting = iter([act])
            inner = MasterKeys.rewrap

            def spied(keys: MasterKeys, wrapped: bytes, purpose: Purpose, owner: bytes, epoch: int = 0) -> bytes:
                next(acting, int)()
                return inner(keys, wrapped, purpose, owner, epoch)

            monkeypatch.setattr(MasterKeys, "rewrap", spied)

        return arrange

    def test_a_key_is_deleted(self, beside: Callable[[Callable[[], object]], None]) -> None:
        first = DeviceKey.objects.order_by("pk")[2]
        beside(lambda: DeviceKey.objects.filter(pk=first.pk).delete())
        rotation = rewrap.begin(10, OFFICER)
        run(rotation)
        assert (rotation.state, rotation.rewrapped, rotation.unreadable) == ("finished", 30, 0)
        assert not DeviceKey.objects.filter(pk=first.pk).exists()

    def test_a_key_is_replaced(self, beside: Callable[[Callable[[], object]], None]) -> None:
        row = DeviceKey.objects.order_by("pk")[2]
        old = master_key.current()
        secret = bytes(range(32))
        changed = old.wrap(secret, purpose_of(row.epoch), bytes(row.system_title), row.epoch)
        beside(lambda: DeviceKey.objects.filter(pk=row.pk).update(wrapped=changed, fingerprint=None))
        rotation = rewrap.begin(10, OFFICER)
        run(rotation)
        assert octets()[row.pk] == secret  # not the one that the batch had read
        assert versions_of() == {2}
        assert (rotation.rewrapped, rotation.unreadable) == (31, 0)

    def test_keys_are_provisioned(self, beside: Callable[[Callable[[], object]], None]) -> None:
        beside(lambda: provisioning.provision_devices([DERIVED[0]]))
        rotation = rewrap.begin(10, OFFICER)
        run(rotation)
        assert rotation.state == "finished"
        assert versions_of() == {2}
        assert DeviceKey.objects.count() == 32
        assert census.verify().faults == []

    def test_a_row_that_comes_late_below_the_cursor_is_found(self, in_file: Path) -> None:
        old = master_key.current()
        rotation = rewrap.begin(10, OFFICER)
        for _ in range(2):
            assert rewrap.rewrap_batch(rotation.pk)
        row = DeviceKey.objects.order_by("pk")[0]
        late = old.wrap(bytes(32), purpose_of(row.epoch), bytes(row.system_title), row.epoch)
        DeviceKey.objects.filter(pk=row.pk).update(wrapped=late, master_key_version=1, fingerprint=None)
        run(rotation)
        assert versions_of() == {2}
        assert octets()[row.pk] == bytes(32)


class TestBeginning:
    def test_an_interrupted_beginning_is_taken_up(self, secrets: dict[int, bytes], provider: Provider) -> None:
        provider.add_version()  # and killed before the commit
        rotation = rewrap.begin(100, OFFICER)
        assert rotation.to_version == 2
        assert provider.fresh().active_version == 2
        run(rotation)
        assert rewrap.begin(100, OFFICER).to_version == 3

    def test_one_at_a_time(self, in_file: Path) -> None:
        rewrap.begin(10, OFFICER)
        with pytest.raises(RotationError, match=re.escape("is running at 0 of 31: resume it (--resume)")):
            rewrap.begin(10, OFFICER)
        assert master_key.provider().fresh().active_version == 2

    @pytest.mark.parametrize("size", [0, -1, 100_001])
    def test_a_batch_of_another_size(self, in_file: Path, size: int) -> None:
        with pytest.raises(RotationError, match="is not 1 to 100000"):
            rewrap.begin(size, OFFICER)
        assert master_key.provider().fresh().active_version == 1

    def test_where_no_version_can_be_made_nothing_begins(self, in_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(MasterKeyError, match="No space left"):
            rewrap.begin(10, OFFICER)
        assert rewrap.current() is None
        assert master_key.current().active_version == 1

    def test_an_old_copy_of_the_file_rewraps_nothing(self, in_file: Path) -> None:
        copy = in_file.read_bytes()
        rotation = rewrap.begin(10, OFFICER)
        in_file.write_bytes(copy)
        with pytest.raises(MasterKeyError, match="has version 1 as the active one, and the rotation goes to 2"):
            rewrap.rewrap_batch(rotation.pk)
        assert versions_of() == {1}


class TestTasks:
    @pytest.fixture
    def enqueued(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        found: list[int] = []
        monkeypatch.setattr(tasks.rewrap_master_key, "delay", found.append)
        return found

    def test_it_comes_again_until_nothing_is_left(
        self, in_file: Path, enqueued: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tasks, "_SECONDS", -1)
        rotation = rewrap.begin(10, OFFICER)
        tasks.rewrap_master_key(rotation.pk)
        assert enqueued == [rotation.pk]
        while enqueued:
            tasks.rewrap_master_key(enqueued.pop())
        rotation.refresh_from_db()
        assert rotation.state == "finished"

    def test_the_sweep_takes_up_what_nobody_works_on(self, in_file: Path, enqueued: list[int]) -> None:
        rotation = rewrap.begin(10, OFFICER)
        tasks.sweep_master_key_rotation()
        assert enqueued == []
        late = timezone.now() - timedelta(seconds=rewrap.OVERDUE_S + 1)
        MasterKeyRotation.objects.update(beat_at=late)
        tasks.sweep_master_key_rotation()
        assert enqueued == [rotation.pk]
        tasks.sweep_master_key_rotation()  # it was given to someone just now
        assert enqueued == [rotation.pk]
        rewrap.stop(OFFICER)
        MasterKeyRotation.objects.update(beat_at=late)
        tasks.sweep_master_key_rotation()
        assert enqueued == [rotation.pk]

    def test_without_the_master_key_it_pauses(
        self, in_file: Path, enqueued: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        rotation = rewrap.begin(10, OFFICER)
        kept = in_file.rename(in_file.with_name("away"))
        tasks.rewrap_master_key(rotation.pk)
        assert "pauses: there is no master key file" in caplog.text
        assert enqueued == []
        kept.rename(in_file)
        tasks.rewrap_master_key(rotation.pk)
        rotation.refresh_from_db()
        assert rotation.state == "finished"


class TestVerify:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ("wrapped = set_byte(wrapped, 40, get_byte(wrapped, 40) # 1)", "does not open it"),
            ("wrapped = set_byte(wrapped, 11, 9)", "no version 9"),
            ("wrapped = substring(wrapped FROM 2)", "not in the form"),
            ("master_key_version = 7", "is under version 1; its row says 7"),
            ("fingerprint = '\\x0000000000000000'", "its fingerprint is another key's"),
            ("epoch = 2", "does not open it"),
            ("system_title = '\\x0024beffff0f0f0f'", "does not open it"),
        ],
    )
    def test_a_tampered_row_is_found(self, in_file: Path, change: str, said: str) -> None:
        from django.db import connection  # noqa: PLC0415 - for this statement only

        row = DeviceKey.objects.get(system_title=TITLES[3], epoch=1)
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE keyvault_devicekey SET {change} WHERE id = {row.pk}")
        found = census.verify()
        assert found.opened == 30
        assert len(found.faults) == 1
        assert said in found.faults[0]
        with pytest.raises(CommandError, match="1 secret does not open") as raised:
            call("verify")
        assert raised.value.returncode == 2
        assert acts()[-1] == ("master_key.verify", "30 secrets open, 1 does not")

    def test_all_is_well(self, secrets: dict[int, bytes]) -> None:
        assert f"{SECRETS} secrets open, 0 do not" in call("verify")


class TestDestroy:
    @pytest.fixture(autouse=True)
    def soon(self, settings: Settings) -> None:
        settings.MASTER_KEY_DESTROY_AFTER_DAYS = 0

    def test_an_old_version_that_nothing_needs(self, secrets: dict[int, bytes], provider: Provider) -> None:
        run(rewrap.begin(100, OFFICER))
        versions.destroy(1, OFFICER, timezone.now() + timedelta(seconds=1))
        standing = [one for one in provider.versions() if one.state != MasterKeyState.DESTROYED]
        assert [(one.number, one.state) for one in standing] == [(2, MasterKeyState.ACTIVE)]
        assert octets() == secrets
        assert acts()[-2:] == [("master_key.destroy", "begun"), ("master_key.destroy", "done")]
        with pytest.raises(DestroyError, match="there is no version 1"):
            versions.destroy(1, OFFICER, timezone.now())

    def test_the_active_one(self, secrets: dict[int, bytes]) -> None:
        with pytest.raises(DestroyError, match="is the active one"):
            versions.destroy(1, OFFICER, timezone.now())

    def test_a_version_that_never_was(self, in_file: Path) -> None:
        with pytest.raises(DestroyError, match="there is no version 5"):
            versions.destroy(5, OFFICER, timezone.now())

    def test_one_that_a_row_needs(self, secrets: dict[int, bytes], provider: Provider) -> None:
        rotation = rewrap.begin(30, OFFICER)
        rewrap.rewrap_batch(rotation.pk)
        with pytest.raises(DestroyError, match="2 secrets need version 1"):
            versions.destroy(1, OFFICER, timezone.now() + timedelta(seconds=1))
        run(rotation)
        row = DeviceKey.objects.exclude(wrapped=None)[0]
        DeviceKey.objects.filter(pk=row.pk).update(master_key_version=1)
        with pytest.raises(DestroyError, match="1 secret needs version 1"):
            versions.destroy(1, OFFICER, timezone.now() + timedelta(seconds=1))
        assert provider.fresh().versions == [1, 2]

    def test_one_that_octets_need_whatever_their_row_says(self, in_file: Path) -> None:
        row = DeviceKey.objects.all()[0]
        before = bytes(row.wrapped or b"")
        run(rewrap.begin(100, OFFICER))
        DeviceKey.objects.filter(pk=row.pk).update(wrapped=before)
        with pytest.raises(DestroyError, match="1 secret needs version 1"):
            versions.destroy(1, OFFICER, timezone.now())

    def test_not_before_its_time(self, secrets: dict[int, bytes], settings: Settings) -> None:
        settings.MASTER_KEY_DESTROY_AFTER_DAYS = 30
        run(rewrap.begin(100, OFFICER))
        now = timezone.now()
        for days in (-400, 0, 29):  # a clock that was set back, too
            with pytest.raises(DestroyError, match="30 days after it was replaced"):
                versions.destroy(1, OFFICER, now + timedelta(days=days))
        versions.destroy(1, OFFICER, now + timedelta(days=30, seconds=1))

    def test_the_command_asks(self, in_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        call("rotate", "--here")
        monkeypatch.setattr("builtins.input", lambda prompt: "yes")
        with pytest.raises(CommandError, match="'yes' is not 1: nothing was destroyed"):
            call("destroy", "1")
        with pytest.raises(CommandError, match="'2' is not 1: nothing was destroyed"):
            call("destroy", "1", "--yes-destroy", "2")
        assert master_key.provider().fresh().versions == [1, 2]
        monkeypatch.setattr("builtins.input", lambda prompt: "1")
        assert "Destroyed version 1" in call("destroy", "1")
        assert master_key.provider().fresh().versions == [2]
        with pytest.raises(CommandError, match="is the active one"):
            call("destroy", "2", "--yes-destroy", "2")


class TestCommand:
    def test_rotate_here_and_status(self, secrets: dict[int, bytes]) -> None:
        assert f"Finished: {SECRETS} secrets rewrapped under version 2" in call("rotate", "--here", "--batch-size", "9")
        told = call("status")
        assert (
            "version 1: decrypt_only, 0 device keys, 0 fleet keys, 0 audit keys, 0 signing secrets, 0 agreement keys"
            in told
        )
        assert (
            "version 2: active, 30 device keys, 1 fleet key, 1 audit key, 0 signing secrets, 0 agreement keys (" in told
        )
        assert f"Rotation to version 2: finished, {SECRETS} of {SECRETS} rewrapped, 0 unreadable" in told
        found = json.loads(call("status", "--json"))
        assert [(row["version"], row["device_keys"]) for row in found["versions"]] == [(1, 0), (2, 30)]
        assert found["rotation"]["state"] == "finished"

    def test_dry_run_changes_nothing(self, secrets: dict[int, bytes], provider: Provider) -> None:
        before = list(DeviceKey.objects.order_by("pk").values()), AuditRecord.objects.count(), provider.versions()
        assert f"Would make a new version and rewrap {SECRETS} of {SECRETS}" in call("rotate", "--dry-run")
        damage(DeviceKey.objects.exclude(wrapped=None)[0])
        damaged = list(DeviceKey.objects.order_by("pk").values())
        with pytest.raises(CommandError, match="1 secret would be left") as raised:
            call("rotate", "--dry-run")
        assert raised.value.returncode == 2
        assert (damaged, *before[1:]) == (
            list(DeviceKey.objects.order_by("pk").values()),
            AuditRecord.objects.count(),
            provider.versions(),
        )
        assert rewrap.current() is None

    def test_unreadable_rows_end_it_with_2(self, in_file: Path) -> None:
        damage(DeviceKey.objects.get(system_title=TITLES[3], epoch=0))
        out = StringIO()
        with pytest.raises(CommandError, match="1 secret was left as it is") as raised:
            call_command("master_key", "rotate", "--here", stdout=out, stderr=out)
        assert raised.value.returncode == 2
        assert f"transfer key of {TITLES[3].hex()}, epoch 0" in out.getvalue()

    def test_stop_and_resume(self, in_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tasks.rewrap_master_key, "apply_async", lambda *args, **options: None)
        assert "31 secrets to rewrap" in call("rotate", "--no-wait", "--batch-size", "10")
        rewrap.rewrap_batch(MasterKeyRotation.objects.get().pk)
        assert "Stopped at 10 of 31" in call("rotate", "--stop")
        assert "stopped, 10 of 31" in call("status")
        with pytest.raises(CommandError, match="resume it"):
            call("rotate", "--here")
        assert "Finished: 31 secrets" in call("rotate", "--resume", "--here")
        with pytest.raises(CommandError, match="nothing to resume"):
            call("rotate", "--resume", "--here")
        with pytest.raises(CommandError, match="no rotation"):
            call("rotate", "--stop")

    def test_a_version_that_is_missing_shows_in_the_status(self, in_file: Path) -> None:
        DeviceKey.objects.filter(epoch=0).update(master_key_version=7)
        assert "version 7: missing, 15 device keys" in call("status")

    def test_init_beside_secrets_of_another_master_key(self, in_file: Path) -> None:
        kept = in_file.rename(in_file.with_name("away"))
        with pytest.raises(CommandError, match=f"31 secrets under a master key: put that one back at {in_file}"):
            call("init")
        assert not in_file.exists()
        kept.rename(in_file)
        with pytest.raises(CommandError, match="31 secrets"):
            call("init")

    def test_init(self, empty_provider: Provider) -> None:
        assert "Made version 1" in call("init")
        assert acts() == [("master_key.init", "done")]
        with pytest.raises(CommandError, match="put that one back"):  # the audit key is under it now
            call("init")
        assert "version 1: active" in call("status")
