"""Backups: whole or not there, held against their manifest, kept as long as told; and clear words when it fails."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from pytest_django import DjangoDbBlocker, Settings

from ami_headend.backup import databases as ours
from ami_headend.backup import making, manifest, programs, pruning, restoring
from ami_headend.backup.programs import ProgramError
from ami_headend.core import locks
from ami_headend.local import embedded
from concentrators.fleet import concentrator_keys
from keyvault import backups, journal, master_key
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.backups import BackupError
from keyvault.device_keys import agreement_keys, epochs
from keyvault.device_keys.provisioning import NewKey, provision_devices, provision_pending, provision_stored
from keyvault.enrolment import authorities
from keyvault.master_key import census
from keyvault.models import AuditRecord, Backup, DeviceKey
from keyvault.schemes.dlms.security import algorithm_of
from tests.concentrators.enrolling import Newcomer, pin
from tests.concentrators.fleet import judged
from tests.factories import ConcentratorFactory, MeterFactory
from tests.flows import databases, warm
from tests.keyvault import agreeing

OFFICER = Actor("officer", "test")
HOLDER = bytes.fromhex("0024befffe00c001")  # a concentrator
TITLES = [bytes.fromhex("02bf") + number.to_bytes(6, "big") for number in range(4)]


@pytest.fixture
def folder(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, settings: Settings, tmp_path: Path
) -> Iterator[Path]:
    """Where backups go, of a database of its own: dumps see what is committed alone."""
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    settings.BACKUP_DIR = tmp_path / "backups"
    with django_db_blocker.unblock(), databases.copied():
        yield tmp_path / "backups"


def made(folder: Path, days: int = 35, now: datetime | None = None) -> Path:
    return making.make(folder, OFFICER, now or datetime.now(UTC), days)[0]


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_backup_is_made_listed_and_pruned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    provision_devices(TITLES)
    call_command("backup")
    printed = capsys.readouterr()
    backup = Path(printed.out.strip())
    assert f"It needs master key version {master_key.current().active_version}." in printed.err
    assert visible(folder) == [backup.name]
    found = manifest.read(backup, master_key.current())
    assert found.counts["keyvault_devicekey"] == 8
    assert chain.verify(found.head).number == found.head.number + 1
    assert AuditRecord.objects.order_by("-number").values_list("act", flat=True)[0] == "backup.create"
    call_command("backup", "create", "--keep-days", "0")
    second = Path(capsys.readouterr().out.strip())
    call_command("backup", "list")
    listed = capsys.readouterr().out
    assert listed.count("MiB, kept until") == 2
    call_command("backup", "prune", "--dry-run")
    assert "Nothing to prune" in capsys.readouterr().out  # the newest is kept, the other's time has not come
    with pytest.raises(CommandError, match="is the newest complete backup"):
        call_command("backup", "prune", second.name)
    with pytest.raises(CommandError, match="there is no backup nothing"):
        call_command("backup", "prune", "nothing")
    call_command("backup", "prune", backup.name)
    assert visible(folder) == [second.name]
    call_command("backup", "list", "--json")
    [left] = json.loads(capsys.readouterr().out.partition("elsewhere too.\n")[2])
    assert (left["name"], left["whole"]) == (second.name, True)


def test_days_that_are_over_are_pruned_but_for_the_newest(folder: Path) -> None:
    now = datetime.now(UTC)
    old = [made(folder, days=1, now=now - timedelta(days=age)) for age in (5, 4)]
    assert [one.name for one, _ in pruning.prune(OFFICER, now, [], folder, dry_run=True)] == [old[0].name]
    pruning.prune(OFFICER, now, [], folder, dry_run=False)
    assert visible(folder) == [old[1].name]
    assert list(backups.retained().values_list("name", flat=True)) == [old[1].name]


def test_a_full_disk_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(making, "_pump", full)
    with pytest.raises(CommandError, match=r"No space left on device\. Nothing was left"):
        call_command("backup")
    assert visible(folder) == []
    assert not backups.retained().exists()
    assert Backup.objects.get().pruned_at is not None


def test_a_dump_that_fails_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "environment", lambda: {"PGHOST": "/nowhere", "PATH": os.environ["PATH"]})
    with pytest.raises(CommandError, match=r"pg_dump failed: .*nowhere"):
        call_command("backup")
    assert visible(folder) == []
    assert not backups.retained().exists()


def test_a_folder_that_cannot_be_written_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CommandError, match=r"cannot write to .*file"):
        call_command("backup", "create", "--to", str(tmp_path / "file"))
    with pytest.raises(CommandError, match="--keep-days must be a number"):
        call_command("backup", "create", "--keep-days", "-1")


def test_programs_of_a_wrong_version_or_none_are_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert programs.find("pg_dump").major >= 16  # the embedded database's
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    with pytest.raises(ProgramError, match=rf"{old} is version 9: install .*postgresql-client-\d+"):
        programs.find("pg_dump")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(ProgramError, match="none was found"):
        programs.find("pg_dump")


def test_no_password_stands_in_arguments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict, "PASSWORD", "s3cret")
    assert programs.environment()["PGPASSWORD"] == "s3cret"


def test_what_is_no_whole_backup_is_not_restored(folder: Path, tmp_path: Path) -> None:
    provision_devices(TITLES)
    backup = made(folder)
    step = lambda name, total: lambda done: None  # noqa: E731
    journals = [tmp_path / "journal"]
    master = master_key.current()
    with pytest.raises(BackupError, match="not a complete backup"):
        restoring.examine(tmp_path, journals, step)
    text = (backup / "manifest.json").read_text()
    for changed, words in (
        (text.replace('"keyvault_devicekey": 8', '"keyvault_devicekey": 7'), "it was changed"),
        (text.replace('"format": 1', '"format": 2'), "of format 2"),
        (text[:100], "is not a manifest"),
    ):
        (backup / "manifest.json").write_text(changed)
        with pytest.raises(BackupError, match=words):
            manifest.read(backup, master)
    (backup / "manifest.json").write_text(text)
    dump = (backup / "database.dump").read_bytes()
    for octets, words in ((dump[:-1], "the backup is incomplete"), (dump[:-1] + b"!", "another SHA-256")):
        (backup / "database.dump").write_bytes(octets)
        with pytest.raises(BackupError, match=words):
            restoring.examine(backup, journals, step)
    (backup / "database.dump").write_bytes(dump)
    with pytest.raises(BackupError, match="lacks the record of backup"):
        restoring.examine(backup, [tmp_path / "backups"], step)
    restoring.examine(backup, [tmp_path / "backups"], step, incomplete=True)
    restoring.examine(backup, journals, step)


def test_a_restore_that_was_killed_is_begun_again(folder: Path, tmp_path: Path) -> None:
    provision_devices(TITLES)
    backup = made(folder)
    provision_devices([bytes(8)])
    with (
        transaction.atomic(),
        connection.cursor() as cursor,
    ):  # what stood there was put aside, and the process is no more
        cursor.execute(f"ALTER SCHEMA public RENAME TO {ours.ASIDE}")
        ours._make_public()
    ignore = lambda octets: None  # noqa: E731
    with pytest.raises(BackupError, match="run that restore again, with --replace"):
        restoring.load(backup / "database.dump", ignore, replace=False)
    broken = tmp_path / "broken.dump"
    broken.write_bytes((backup / "database.dump").read_bytes()[:-9000])
    with pytest.raises(ProgramError, match="pg_restore failed"):
        restoring.load(broken, ignore, replace=True)
    assert DeviceKey.objects.count() == 10  # all is back as it was before the first
    assert journal.is_open()
    restoring.load(backup / "database.dump", ignore, replace=True)
    assert DeviceKey.objects.count() == 8
    assert not journal.is_open()
    outcome = restoring.replay_journal([tmp_path / "journal"], OFFICER, datetime.now(UTC))
    assert (DeviceKey.objects.count(), outcome.records["keys"]) == (10, 1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_namespace WHERE nspname = %s", [ours.ASIDE])
        assert cursor.fetchone() == (0,)


def test_a_foreign_master_key_restores_nothing(folder: Path, tmp_path: Path, settings: Settings) -> None:
    backup = made(folder)
    master_key.init(tmp_path / "foreign.keys")
    settings.MASTER_KEY_FILE = tmp_path / "foreign.keys"
    with pytest.raises(CommandError, match=r"not proven by the master key.*Nothing was changed"):
        call_command("restore", str(backup), "--replace", "--yes-replace", "whatever")


def test_a_new_machine_is_restored_with_the_embedded_database(folder: Path, tmp_path: Path) -> None:
    provision_devices(TITLES)
    backup = made(folder)
    epochs.begin(TITLES[:1])
    env = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    env |= {"AMI_LOCAL": "1", "AMI_VAR_DIR": str(tmp_path / "var"), "KEY_JOURNAL_DIR": str(tmp_path / "journal")}

    def manage(*words: str) -> "subprocess.CompletedProcess[str]":
        return warm.run([sys.executable, "manage.py", *words], env)

    done = manage("restore", str(backup))
    assert (done.returncode, "Verification continues" in done.stdout) == (0, True), done.stderr
    assert not embedded.running(tmp_path / "var")
    done = manage("restore_drill", manage("backup").stdout.strip(), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {one["name"]: one["found"] for one in json.loads(done.stdout)}["keys"] == "all 10 open"


@pytest.mark.parametrize("words", [[], ["somewhere", "--replay"]])
def test_restore_asks_for_one_of_two(words: list[str]) -> None:
    with pytest.raises(CommandError, match="Name the backup to restore, or --replay"):
        call_command("restore", *words)


def test_a_drill_names_what_is_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    provision_devices(TITLES)
    backup = made(folder)
    counts = making.counts
    monkeypatch.setattr(making, "counts", lambda: {**counts(), "keyvault_devicekey": 3})
    with pytest.raises(SystemExit):
        call_command("restore_drill", str(backup), "--without-journal", "--json")
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert [name for name, one in found.items() if not one["well"]] == ["counts"]
    assert "keyvault_devicekey 3 instead of 8" in found["counts"]["found"]
    assert AuditRecord.objects.order_by("-number")[0].result == "failed: counts"


def test_a_drill_misses_the_journal_of_a_host(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    """Two hosts act in turn: what one did after what only the other's journal has cannot be put back."""
    backup = made(folder)
    hosts = [tmp_path / "journal", tmp_path / "other"]
    for host in (hosts[1], *hosts):
        settings.KEY_JOURNAL_DIR = host
        with transaction.atomic():
            chain.record(OFFICER, "export", {"keys": 1})
    whole = ["--journal", str(hosts[0]), "--journal", str(hosts[1])]
    call_command("restore_drill", str(backup), *whole, "--json")
    assert all(one["well"] for one in json.loads(capsys.readouterr().out))
    with pytest.raises(SystemExit):
        call_command("restore_drill", str(backup), *whole[:2], "--json")
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert [name for name, one in found.items() if not one["well"]] == ["key journal"]
    assert "1 act cannot be put back" in found["key journal"]["found"]


def test_a_drill_misses_the_last_acts_of_a_host(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: Settings
) -> None:
    """Nothing follows on them, so that the audit chain has no gap: the present database knows them."""
    backup = made(folder)
    settings.KEY_JOURNAL_DIR = tmp_path / "other"
    for _ in range(2):
        with transaction.atomic():
            chain.record(OFFICER, "export", {"keys": 1})
    words = ["restore_drill", str(backup), "--journal", str(tmp_path / "journal")]
    with pytest.raises(SystemExit):
        call_command(*words, "--json")
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert [name for name, one in found.items() if not one["well"]] == ["key journal"]
    assert "the present database knows 2 acts more: a journal was not read" in found["key journal"]["found"]
    call_command(*words, "--journal", str(tmp_path / "other"))
    with connection.cursor() as cursor:  # as on a new machine, or in another head-end
        cursor.execute("ALTER TABLE keyvault_auditrecord RENAME TO elsewhere")
    call_command(*words)


def test_a_snapshot_waits_for_acts_under_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = databases.at_database(os.environ["DATABASE_URL"], str(connection.settings_dict["NAME"]))
    with psycopg.connect(url) as other:
        # has a number, and has not committed
        other.execute("SELECT pg_advisory_xact_lock_shared(%s)", [locks.KEY_JOURNAL])
        with pytest.raises(BackupError, match="acts on keys have been under way"), backups.snapshot(wait_s=0.3):
            pytest.fail("a snapshot was taken in the middle of an act")
        other.rollback()
    with backups.snapshot(wait_s=1):
        pass


def test_secrets_of_every_scheme_are_in_a_backup_or_come_from_the_journal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Agreement keys, agreed and concentrators' keys, key sets, authorities, used certificates: before and since."""
    concentrator = ConcentratorFactory.create()
    first = agreement_keys.init("hes-1", OFFICER)
    agreeing.provision(agreeing.pairs(TITLES[:2]), first)
    concentrator_keys.give(OFFICER, concentrator, HOLDER)
    concentrator_keys.make_keys(OFFICER, concentrator, 10)
    pin(datetime.now(UTC))
    enrolled = [Newcomer(MeterFactory.create(), first) for _ in range(2)]
    authorities.allow([one.title for one in enrolled], OFFICER, datetime.now(UTC))
    assert judged(concentrator, [enrolled[0].frame(enrolled[0].certificate())]) == {"accepted": 1}
    key_set = NewKey(TITLES[3], 1, os.urandom(64), algorithm_of(0x32), "dlms")
    provision_stored([key_set, key_set._replace(epoch=0, key=os.urandom(32))])
    backup = made(folder)
    provision_pending([key_set._replace(epoch=2, key=os.urandom(64))], {})
    assert judged(concentrator, [enrolled[1].frame(enrolled[1].certificate())]) == {"accepted": 1}
    agreement_keys.rotate("hes-1", OFFICER, datetime.now(UTC))
    epochs.begin([*TITLES[:2], HOLDER])
    call_command("restore_drill", str(backup), "--json")
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert all(one["well"] for one in found.values())
    secrets = sum(count.secrets for count in census.census())
    assert any(f"{secrets} " in one["found"] for one in found.values()), (secrets, found)
