"""A month comes back day by day: the feed goes on, nothing is doubled, and readers see each reading once."""

from datetime import timedelta
from pathlib import Path
from unittest import mock

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from ami_headend.health import doctor
from concentrators.fleet import assignments
from concentrators.fleet.assignments import AssignmentError
from concentrators.models import IntervalTotal, UncheckedDay
from concentrators.totals import totals
from concentrators.validation import register_checks
from keyvault.models import AuditRecord
from meters.archive import files, months, restoring, verification
from meters.archive.files import ArchiveError
from meters.archive_models import ArchivedMonth, MonthState
from meters.models import Meter, Reading
from meters.readings import partitions
from meters.readings.partitions import NotStoredError
from tests.damage import damaged
from tests.factories import ConcentratorFactory
from tests.meters.archive.readings import LATER, MONTH, NOW, answers, stored

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, settings: Settings) -> Path:
    settings.ARCHIVE_URL, settings.ARCHIVE_AFTER_MONTHS = f"file://{tmp_path}/archive", 13
    return tmp_path / "archive"


@pytest.fixture
def meters() -> list[Meter]:
    return stored()


def in_month() -> int:
    return Reading.objects.filter(captured_at__gte=MONTH, captured_at__lt=LATER).count()


def half_restored() -> None:
    """Leave a month of two files as a process does that was killed after the first."""
    months.archive(MONTH, NOW)
    restoring._begin(MONTH, NOW)
    assert restoring._restore_file(files.store(), MONTH)


def test_a_half_restored_month_is_read_from_files_and_goes_on(meters: list[Meter]) -> None:
    before, rows = answers(meters), in_month()
    half_restored()
    assert 0 < in_month() < rows
    assert answers(meters) == before
    assert partitions.stored_from() == LATER, "it takes nothing yet"
    assert MONTH not in months.due(NOW)
    assert partitions.create_months(NOW) == []
    assert verification.verify_next(NOW) is None, "rounds of verification leave it alone"
    assert restoring.restore(MONTH, NOW) == rows == in_month()
    assert ArchivedMonth.objects.get().state == MonthState.RESTORED
    assert answers(meters) == before


def test_a_restore_that_stands_still_is_said(meters: list[Meter]) -> None:
    half_restored()
    now = timezone.now()
    assert restoring.interrupted(now) == ""
    assert restoring.interrupted(now + timedelta(hours=2)).endswith("UTC: 1 of 2 files")
    with mock.patch("django.utils.timezone.now", return_value=now + timedelta(hours=2)):
        result = doctor._partitions()
    assert not result.well
    assert f"the restore of {MONTH:%Y-%m} has stood still since {now:%Y-%m-%d}" in result.found
    assert restoring.restore(MONTH, NOW)
    assert restoring.interrupted(now + timedelta(hours=2)) == ""


def test_a_half_restored_month_is_archived_again_by_run(meters: list[Meter]) -> None:
    before = answers(meters)
    half_restored()
    assert months.archive(MONTH, NOW)
    assert ArchivedMonth.objects.get().state == MonthState.ARCHIVED
    assert in_month() == 0
    assert answers(meters) == before
    assert restoring.restore(MONTH, NOW) > 0
    assert answers(meters) == before


def test_a_damaged_file_stops_a_restore_and_it_goes_on_once_it_is_back(meters: list[Meter], archive: Path) -> None:
    before = answers(meters)
    half_restored()
    file = archive / ArchivedMonth.objects.get().parts[1]["name"]
    octets = file.read_bytes()
    file.write_bytes(damaged(octets))
    with pytest.raises(ArchiveError, match="not there as it was written"):
        restoring.restore(MONTH, NOW)
    assert ArchivedMonth.objects.get().state == MonthState.RESTORING
    file.write_bytes(octets)
    restoring.restore(MONTH, NOW)
    assert answers(meters) == before


def test_a_half_restored_month_is_verified_by_hand_and_goes_on(meters: list[Meter], archive: Path) -> None:
    """As the doctor asks for, where a file was damaged when the restore began."""
    before = answers(meters)
    half_restored()
    ArchivedMonth.objects.update(fault="it was damaged")
    file = archive / ArchivedMonth.objects.get().parts[0]["name"]
    octets = file.read_bytes()
    file.write_bytes(damaged(octets))
    with pytest.raises(ArchiveError, match="not there as it was written"):
        verification.verify(MONTH, NOW)
    assert ArchivedMonth.objects.get().under_way["files"] == 1, "what is in is not restored again"
    file.write_bytes(octets)
    assert verification.verify(MONTH, NOW) > 0
    assert ArchivedMonth.objects.get().fault == ""
    restoring.restore(MONTH, NOW)
    assert answers(meters) == before


def test_a_month_whose_retention_is_over_is_not_restored(meters: list[Meter], settings: Settings) -> None:
    months.archive(MONTH, NOW)
    later = MONTH + timedelta(days=settings.RETENTION_DAYS + 40)
    with pytest.raises(ArchiveError, match="its retention is over"):
        restoring.restore(MONTH, later)
    assert ArchivedMonth.objects.get().state == MonthState.ARCHIVED
    with (
        mock.patch("django.utils.timezone.now", return_value=later),
        pytest.raises(CommandError, match="its retention is over"),
    ):
        call_command("archive", "restore", f"{MONTH:%Y-%m}")
    with pytest.raises(CommandError, match="is not archived"):
        call_command("archive", "restore", "2019-01")
    assert not AuditRecord.objects.filter(act="archive.restore").exists()


def test_a_restored_month_that_differs_is_archived_as_before(meters: list[Meter]) -> None:
    before = answers(meters)
    half_restored()
    Reading.objects.create(captured_at=MONTH + 9 * DAY, meter=meters[0], register_id=1, value=1, uplink_id=1)
    with pytest.raises(ArchiveError, match="nothing was restored"):
        restoring.restore(MONTH, NOW)
    assert (ArchivedMonth.objects.get().state, in_month()) == (MonthState.ARCHIVED, 0)
    assert answers(meters) == before


def test_a_restored_month_with_other_readings_is_archived_under_other_names(meters: list[Meter], archive: Path) -> None:
    months.archive(MONTH, NOW)
    first = ArchivedMonth.objects.get().parts
    restoring.restore(MONTH, NOW)
    Reading.objects.create(captured_at=MONTH + DAY / 4, meter=meters[0], register_id=1, value=1, uplink_id=1)
    before = answers(meters)
    months.archive(MONTH, NOW)
    second = ArchivedMonth.objects.get().parts
    assert first[0]["name"] != second[0]["name"]
    assert first[1:] == second[1:]
    assert (archive / first[0]["name"]).exists(), "for backups that were made in between"
    assert answers(meters) == before


def test_a_month_whose_retention_is_over_on_its_way_is_not_archived(meters: list[Meter]) -> None:
    months._close(MONTH, NOW)
    with connection.cursor() as cursor:
        cursor.execute("SELECT meters_drop_month(%s)", [MONTH])
    with pytest.raises(CommandError, match="retention is over"):
        call_command("archive", "run", f"{MONTH:%Y-%m}")
    assert ArchivedMonth.objects.get().parts == []


def test_what_reads_the_database_alone_refuses_archived_time(meters: list[Meter]) -> None:
    concentrator, other = ConcentratorFactory.create_batch(2)
    assignments.assign([(meters[0].pk, concentrator.pk)], MONTH - DAY)
    count = IntervalTotal.objects.filter(interval_start__gte=MONTH, interval_start__lt=LATER).count()
    assert count > 0
    months.archive(MONTH, NOW)
    period = {"start": (MONTH + DAY).isoformat(), "end": (MONTH + 2 * DAY).isoformat()}
    for command in ("recompute_totals", "check_registers"):
        with pytest.raises(CommandError, match=f"readings of {MONTH:%Y-%m} are archived, and not in the database"):
            call_command(command, **period)
    with pytest.raises(NotStoredError):
        totals.recompute(MONTH - DAY, MONTH + DAY)
    assert IntervalTotal.objects.filter(interval_start__gte=MONTH, interval_start__lt=LATER).count() == count
    with pytest.raises(AssignmentError, match="are archived, and their totals stay"):
        assignments.assign([(meters[0].pk, other.pk)], MONTH + DAY)
    with pytest.raises(AssignmentError, match="are archived, and their totals stay"):
        assignments.end([meters[0].pk], MONTH + DAY)
    assignments.assign([(meters[0].pk, other.pk)], LATER + DAY)
    restoring.restore(MONTH, NOW)
    assert totals.compare(MONTH, LATER) == []


def test_marks_of_archived_days_are_dropped_with_a_warning(
    meters: list[Meter], caplog: pytest.LogCaptureFixture
) -> None:
    months.archive(MONTH, NOW)
    UncheckedDay.objects.create(day=MONTH.date(), meter=meters[0])
    assert register_checks.check(NOW) == 0
    assert not UncheckedDay.objects.exists()
    assert f"marks of 1 meter for {MONTH:%Y-%m-%d} are dropped: readings of {MONTH:%Y-%m} are archived" in caplog.text
