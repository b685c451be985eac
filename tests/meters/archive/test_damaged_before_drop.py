"""A month is dropped from the database only right after its files were read and found as they were written."""

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from concentrators.models import RegistryGeneration
from meters.archive import months, verification
from meters.archive.files import ArchiveError
from meters.archive_models import ArchivedMonth, MonthState
from meters.models import Meter, Reading
from tests.damage import damaged
from tests.meters.archive.readings import LATER, MONTH, NOW, answers, stored

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, settings: Settings) -> Path:
    settings.ARCHIVE_URL, settings.ARCHIVE_AFTER_MONTHS = f"file://{tmp_path}/archive", 13
    return tmp_path / "archive"


@pytest.fixture
def meters() -> list[Meter]:
    return stored()


def written(monkeypatch: pytest.MonkeyPatch) -> ArchivedMonth:
    """The month as a process leaves it that was killed before it dropped the partition."""
    with monkeypatch.context() as patched:
        patched.setattr(months, "_drop", lambda *_: True)
        months.archive(MONTH, NOW)
    ArchivedMonth.objects.update(under_way={})
    row = ArchivedMonth.objects.get()
    assert row.state == MonthState.WRITTEN
    return row


def lose(file: Path) -> None:
    file.unlink()


def damage(file: Path) -> None:
    file.write_bytes(damaged(file.read_bytes()))


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("mischief", [lose, damage, cut])
def test_a_damaged_file_is_made_again_before_the_partition_is_dropped(
    meters: list[Meter], archive: Path, monkeypatch: pytest.MonkeyPatch, mischief: Callable[[Path], None]
) -> None:
    before = answers(meters)
    parts = written(monkeypatch).parts
    for part in parts[:2]:
        mischief(archive / part["name"])
    with pytest.raises(CommandError, match=r"not there as it was written.*\(2 of \d+ files are damaged\)"):
        call_command("archive", "verify")
    assert ArchivedMonth.objects.get().fault
    assert months.archive(MONTH, NOW)
    row = ArchivedMonth.objects.get()
    assert (row.state, row.fault) == (MonthState.ARCHIVED, "")
    assert sorted(part["name"] for part in row.parts) == sorted(part["name"] for part in parts)
    assert not Reading.objects.filter(captured_at__gte=MONTH, captured_at__lt=LATER).exists()
    assert answers(meters) == before
    verification.verify(MONTH, NOW)


def test_files_that_keep_being_damaged_keep_the_month_in_the_database(
    meters: list[Meter], archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = answers(meters)
    written(monkeypatch)
    whole = months._write

    def write(*args: object) -> bool:
        done = whole(*args)  # type: ignore[arg-type]
        damage(next(archive.glob("readings-*/*.parquet")))
        return done

    monkeypatch.setattr(months, "_write", write)
    with pytest.raises(ArchiveError, match="stays in the database"):
        months.archive(MONTH, NOW)
    assert ArchivedMonth.objects.get().state != MonthState.ARCHIVED
    assert answers(meters) == before


def test_reading_before_the_drop_goes_on_where_time_was_over(
    meters: list[Meter], archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = answers(meters)
    files = len(written(monkeypatch).parts)
    generation = RegistryGeneration.objects.get().registers
    assert files > 1
    for read in range(1, files):
        assert not months.archive(MONTH, NOW, until_s=0)
        assert ArchivedMonth.objects.get().under_way["files"] == read
    assert RegistryGeneration.objects.get().registers == generation, "workers keep what they know meanwhile"
    assert months.archive(MONTH, NOW, until_s=0), "all were read within the day"
    assert answers(meters) == before


def test_files_that_were_read_days_ago_are_read_again(
    meters: list[Meter], archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = answers(meters)
    for _ in written(monkeypatch).parts[1:]:
        assert not months.archive(MONTH, NOW, until_s=0)
    damage(archive / ArchivedMonth.objects.get().parts[0]["name"])
    assert months.archive(MONTH, NOW + timedelta(days=2))
    assert answers(meters) == before


def test_a_file_that_went_after_it_was_read_keeps_the_partition(
    meters: list[Meter], archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = answers(meters)
    for _ in written(monkeypatch).parts[1:]:
        assert not months.archive(MONTH, NOW, until_s=0)
    lose(archive / ArchivedMonth.objects.get().parts[0]["name"])
    assert months.archive(MONTH, NOW)
    assert answers(meters) == before
