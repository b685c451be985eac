"""Pruning deletes a backup's own files, and nothing else, whatever a row of the database says."""

import os
import shutil
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import DjangoDbBlocker, Settings

from ami_headend.backup import making, manifest, pruning
from keyvault import backups
from keyvault.audit.chain import Actor
from keyvault.models import Backup
from tests.flows import databases

OFFICER = Actor("officer", "test")


@pytest.fixture
def folder(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, settings: Settings, tmp_path: Path
) -> Iterator[Path]:
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    settings.BACKUP_DIR = tmp_path / "backups"
    with django_db_blocker.unblock(), databases.copied():
        yield tmp_path / "backups"


def made(folder: Path) -> Path:
    """A backup whose keeping has ended, and a newer one, which is kept in any case."""
    now = datetime.now(UTC)
    old, _ = making.make(folder, OFFICER, now - timedelta(days=5), 1)
    making.make(folder, OFFICER, now, 35)
    return old


def precious(tmp_path: Path) -> Path:
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "database.dump").write_text("not a backup")
    return folder


def prune(folder: Path) -> list[str]:
    return [result for _, result in pruning.prune(OFFICER, datetime.now(UTC), [], folder, dry_run=False)]


@pytest.mark.parametrize("name", [None, "../precious", "precious"])
def test_a_folder_that_a_row_names_is_left_alone(folder: Path, tmp_path: Path, name: str | None) -> None:
    old, victim = made(folder), precious(tmp_path)
    if name == "precious":
        victim = victim.rename(folder / name)
    row = Backup.objects.get(name=old.name)
    row.place, row.name = f"{socket.gethostname()}:{victim}", name or row.name
    row.save()
    with pytest.raises(CommandError, match="nothing is deleted"):
        call_command("backup", "prune")
    assert (victim / "database.dump").read_text() == "not a backup"
    assert old.is_dir()
    assert backups.retained().count() == 2


def test_a_manifest_that_is_not_proven_or_of_another_backup_is_left_alone(folder: Path) -> None:
    old = made(folder)
    (newest,) = {path for path in folder.iterdir() if path != old}
    own = (old / "manifest.json").read_bytes()
    for content, words in (
        ((newest / "manifest.json").read_bytes(), "by its manifest"),
        (own.replace(old.name.encode(), newest.name.encode()), "not proven"),
        (own.replace(b'"octets": ', b'"octets": 1'), "not proven"),
    ):
        (old / "manifest.json").write_bytes(content)
        with pytest.raises(CommandError, match=words):
            call_command("backup", "prune")
    (old / "manifest.json").unlink()
    with pytest.raises(CommandError, match="not a complete backup"):
        call_command("backup", "prune")
    (old / "manifest.json").write_bytes(own)
    (old / "notes.txt").write_text("mine")
    with pytest.raises(CommandError, match=r"holds 'notes\.txt', which is not a file of a backup"):
        call_command("backup", "prune")
    assert (old / "database.dump").is_file()


def test_no_link_is_followed(folder: Path, tmp_path: Path) -> None:
    old, victim = made(folder), precious(tmp_path)
    moved = old.rename(tmp_path / "moved")
    old.symlink_to(moved)
    with pytest.raises(CommandError, match=r"is not a folder that manage\.py backup made"):
        call_command("backup", "prune")
    old.unlink()
    moved.rename(old)
    (old / "database.dump").unlink()
    (old / "database.dump").symlink_to(victim / "database.dump")
    assert prune(folder) == ["deleted"]  # the link, and not what it points to
    assert (victim / "database.dump").is_file()
    assert not old.exists()


def test_a_backup_elsewhere_is_pruned_where_the_person_says(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    old = made(elsewhere)
    with pytest.raises(CommandError, match=r"is not in .*backups: .*--to"):
        call_command("backup", "prune", "--dry-run")
    call_command("backup", "prune", "--to", str(elsewhere))
    assert not old.exists()
    assert backups.retained().count() == 1


@pytest.mark.parametrize("step", ["renamed", "dump gone", "empty"])
def test_a_pruning_that_was_killed_is_ended_by_the_next(folder: Path, step: str) -> None:
    old = made(folder)
    left = old.rename(old.with_name(f".{old.name}.pruned"))
    if step != "renamed":
        (left / "database.dump").unlink()
    if step == "empty":
        (left / "manifest.json").unlink()
    assert prune(folder) == ["deleted"]
    assert not left.exists()
    assert backups.retained().count() == 1


def test_what_is_gone_already_is_forgotten(folder: Path) -> None:
    shutil.rmtree(made(folder))
    assert prune(folder) == ["removed from the list; its files are not here"]


def test_what_a_killed_backup_left_is_swept_by_the_next(folder: Path) -> None:
    folder.mkdir()
    left = folder / ".20260101T000000Z-00ff.abcd1234"
    others = [folder / ".20260101T000000Z-00ff.abcd1235", folder / ".cache", folder / ".20260101T000000Z-00ff.new_one1"]
    for path in (left, *others):
        path.mkdir()
        (path / "database.dump").write_text("half")
        os.utime(path, (1, 1))
    (others[0] / "else.txt").write_text("mine")
    os.utime(others[0], (1, 1))
    os.utime(others[2])  # made just now
    with pruning.held(left) as is_ours:
        assert is_ours
        made(folder)
        assert left.exists()  # its process lives
    made(folder)
    assert not left.exists()
    assert all((path / "database.dump").exists() for path in others)
    assert manifest.DUMP == "database.dump"
