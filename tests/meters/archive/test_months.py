"""Months of readings as files: queries give what they gave before, and whoever is killed on the way loses nothing."""

import errno
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.test import Client
from pytest_django import DjangoAssertNumQueries, Settings

from ami_headend.core import locks
from concentrators.models import Concentrator
from meters import tasks
from meters.archive import layout, months, restoring, verification
from meters.archive import reading as archived
from meters.archive.files import ArchiveError, Store
from meters.archive.layout import Part
from meters.archive_models import ArchivedMonth, MonthState
from meters.models import Meter, Reading, Register
from meters.readings import partitions, queries
from meters.readings.obis import LOAD_PROFILE
from meters.readings.queries import ReadingSelection
from tests.builders import senml_payload
from tests.concentrators import fleet
from tests.damage import damaged
from tests.factories import ConcentratorFactory
from tests.meters.archive.readings import END, HOUR, LATER, MONTH, NOW, START, answers, stored

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, settings: Settings) -> Path:
    settings.ARCHIVE_URL, settings.ARCHIVE_AFTER_MONTHS = f"file://{tmp_path}/archive", 13
    return tmp_path / "archive"


@pytest.fixture
def meters() -> list[Meter]:
    return stored()


def archive_both() -> None:
    for month in (MONTH, LATER):
        months.archive(month, NOW)


def test_every_query_gives_what_it_gave_before(meters: list[Meter], archive: Path) -> None:
    before = answers(meters)
    assert len(before["all, CSV"]) > 5000
    rows = Reading.objects.count()
    archive_both()
    assert Reading.objects.count() < rows / 2
    assert answers(meters) == before
    assert not [one for one in partitions.maintain(NOW).created if one == partitions.name_of(MONTH)]
    assert verification.verify(MONTH, NOW) == restoring.restore(MONTH, NOW) > 0
    assert answers(meters) == before, "one month is back, one in files"
    assert ArchivedMonth.objects.get(month=MONTH).state == MonthState.RESTORED
    assert MONTH not in months.due(NOW)
    months.archive(MONTH, NOW)
    assert answers(meters) == before
    manifest = json.loads(next(archive.glob(f"readings-{MONTH:%Y-%m}/manifest-*.json")).read_text())
    assert sum(part["rows"] for part in manifest["parts"]) == sum(
        one["rows"] for one in manifest["sums_by_register_id"].values()
    )
    assert not list(archive.glob(".being-made-*"))


def test_without_an_archive_nothing_is_asked(
    meters: list[Meter], settings: Settings, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    settings.ARCHIVE_URL = ""
    with django_assert_num_queries(1), archived.stretches(START, END) as found:
        assert found == [(START, END, None)]
    with django_assert_num_queries(0), archived.stretches(NOW - 80 * 24 * HOUR, NOW) as found:
        assert len(found) == 1
    assert tasks.archive_readings.run() is None
    with pytest.raises(ArchiveError, match="set ARCHIVE_URL"):
        months.archive(MONTH, NOW)


def test_an_archived_month_takes_no_reading_and_no_change(meters: list[Meter]) -> None:
    months._close(MONTH, NOW)
    assert partitions.stored_from() == LATER
    rows = Reading.objects.filter(captured_at__gte=MONTH, captured_at__lt=LATER)
    for change in (
        lambda: rows.update(interval_minutes=30),
        lambda: Reading.objects.create(
            captured_at=MONTH + 99 * HOUR, meter=meters[0], register_id=1, value=1, uplink_id=1
        ),
    ):
        with pytest.raises(IntegrityError, match="closed"), transaction.atomic():
            change()
    with connection.cursor() as cursor, pytest.raises(Exception, match="not closed and written"), transaction.atomic():
        cursor.execute("SELECT meters_archive_month(%s)", [MONTH])


def test_frames_of_an_archived_month_are_too_old_or_replayed_and_stored_once() -> None:
    concentrator: Concentrator = ConcentratorFactory.create()
    (device,) = fleet.commission(1, concentrator)
    Meter.objects.filter(pk=device.meter.pk).update(commissioned_at=MONTH - HOUR)
    at_s = int((MONTH + HOUR).timestamp())
    frame = device.seal(senml_payload({"1-0:1.8.0": 7}, at_s), 0)
    assert fleet.verified(concentrator, [frame]).accepted == 1
    months.archive(MONTH, NOW)
    other = device.seal(senml_payload({"1-0:1.8.0": 8}, at_s), 1)
    late = device.seal(senml_payload({"1-0:1.8.0": 9}, int((LATER + HOUR).timestamp())), 2)
    uplink = fleet.verified(concentrator, [frame, other, late])
    assert (uplink.accepted, uplink.duplicate, uplink.rejected) == (1, 0, 2)
    assert fleet.outcome(uplink) == {"accepted": 1, "replayed": 1, "too_old": 1}
    selection = ReadingSelection(MONTH, END, [device.meter.pk])
    assert [row.value for row in queries.readings(selection, 10)[0]] == [7, 9]


def test_a_file_that_was_changed_or_lost_is_noticed(meters: list[Meter], archive: Path) -> None:
    months.archive(MONTH, NOW)
    part = next(archive.glob("readings-*/*.parquet"))
    octets = part.read_bytes()
    part.write_bytes(octets[:-1] + bytes([octets[-1] ^ 1]))
    for act in (verification.verify, restoring.restore):
        with pytest.raises(ArchiveError, match="not there as it was written"):
            act(MONTH, NOW)
    part.unlink()
    with pytest.raises(ArchiveError, match="cannot be read"):
        queries.readings(ReadingSelection(MONTH, LATER), 1000)
    assert months.archive(MONTH, NOW), "what was to be restored is given up"
    assert ArchivedMonth.objects.get().state == MonthState.ARCHIVED


def test_the_month_that_was_verified_longest_ago_is_verified_next(meters: list[Meter], archive: Path) -> None:
    assert verification.verify_next(NOW) is None
    archive_both()
    ArchivedMonth.objects.update(checked_at=None)
    assert [verification.verify_next(NOW + n * HOUR) for n in (-9, -8, -7)] == [MONTH, LATER, MONTH]
    verified = {one.month: one.checked_at for one in months.plan(NOW)}
    assert (verified[MONTH], verified[LATER]) == (NOW - 7 * HOUR, NOW - 8 * HOUR)
    part = next(archive.glob(f"readings-{MONTH:%Y-%m}/*.parquet"))
    octets = part.read_bytes()
    part.write_bytes(octets[:-1] + bytes([octets[-1] ^ 1]))
    assert verification.verify_next(NOW - 6 * HOUR) == LATER
    assert verification.fault() is None
    tasks.verify_archive.run()
    assert f"{part.name} is not there as it was written" in (verification.fault() or "")
    assert verification.verify_next(NOW + 3 * HOUR) == LATER, "a damaged month does not keep the others waiting"
    part.write_bytes(octets)
    verification.verify(MONTH, NOW + 4 * HOUR)
    assert verification.fault() is None


def test_partitions_that_are_made_meanwhile_do_not_open_an_archived_month(
    meters: list[Meter], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    take = locks.take

    def waits(lock: int) -> None:
        """Take a lock; the month is archived while the first process that makes partitions waits for it."""
        taken.append(lock)
        if taken == [locks.PARTITIONS]:
            months.archive(MONTH, NOW)
        take(lock)

    monkeypatch.setattr(locks, "take", waits)
    assert partitions.create_months(NOW) == []
    assert ArchivedMonth.objects.get().state == MonthState.ARCHIVED
    assert taken[-2:] == [locks.ARCHIVE, locks.PARTITIONS], "who drops a partition keeps others from making one"


def test_a_month_without_readings_stays_open_for_them(meters: list[Meter], capsys: pytest.CaptureFixture[str]) -> None:
    earlier = partitions.month_start(MONTH - timedelta(days=20))
    Reading.objects.filter(captured_at__lt=MONTH).delete()
    assert partitions.create_months(NOW) == []
    assert months.due(NOW) == [MONTH, LATER]
    call_command("archive", "plan")
    assert f"{earlier:%Y-%m}  empty" in capsys.readouterr().out
    with pytest.raises(ArchiveError, match="no readings"):
        months.archive(earlier, NOW)
    Reading.objects.create(captured_at=earlier, meter=meters[0], register_id=1, value=1, uplink_id=1)
    assert months.due(NOW) == [earlier, MONTH, LATER]


def test_verify_goes_on_after_a_damaged_month_and_ends_with_a_failure(
    meters: list[Meter], archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive_both()
    part = next(archive.glob(f"readings-{MONTH:%Y-%m}/*.parquet"))
    part.write_bytes(damaged(part.read_bytes()))
    with pytest.raises(CommandError, match=f"1 of 2 months did not pass. {MONTH:%Y-%m}: .*{part.name} is not there as"):
        call_command("archive", "verify")
    assert f"{LATER:%Y-%m}: " in capsys.readouterr().out


def test_counting_reads_no_file_past_what_is_asked_for(meters: list[Meter], monkeypatch: pytest.MonkeyPatch) -> None:
    archive_both()
    whole = ReadingSelection(START, END)
    number = queries.count(whole, 10**6)
    read: list[str] = []
    batches = archived.Month._batches

    def counted(self: archived.Month, part: Part, *rest: Any) -> Any:
        read.append(part.name)
        return batches(self, part, *rest)

    monkeypatch.setattr(archived.Month, "_batches", counted)
    assert queries.count(whole, 10**6) == number
    files = len(read)
    read.clear()
    before = Reading.objects.filter(captured_at__lt=MONTH).count()
    assert (queries.count(whole, before), read) == (before, [])
    assert (queries.count(whole, before + 1), len(read)) == (before + 1, 1)
    assert files > 2


def test_a_file_that_does_not_hold_the_month_leaves_it_in_the_database(
    meters: list[Meter], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = answers(meters)
    whole = months._copy_out
    monkeypatch.setattr(months, "_copy_out", lambda *span: (batch.slice(1) for batch in whole(*span)))
    with pytest.raises(ArchiveError, match="stays in the database"):
        months.archive(MONTH, NOW)
    assert ArchivedMonth.objects.get().state == MonthState.CLOSED
    assert answers(meters) == before


def test_nothing_is_archived_where_the_months_before_are_not(meters: list[Meter], archive: Path) -> None:
    months.archive(MONTH, NOW)
    archive.rename(archive.parent / "mounted elsewhere")
    with pytest.raises(ArchiveError, match=f"no file of {MONTH:%Y-%m} is in the archive"):
        months.archive(LATER, NOW)
    assert not ArchivedMonth.objects.filter(month=LATER).exists()
    assert not archive.exists()


def test_a_full_disk_is_said_and_leaves_nothing_behind(
    meters: list[Meter], archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = answers(meters)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (archive / ".being-made-by-one-that-was-killed").mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(layout, "write", full)
        with pytest.raises(CommandError, match=r"nothing can be written to the archive: .*No space left"):
            call_command("archive", "run", f"{MONTH:%Y-%m}")
    assert list(archive.iterdir()) == []
    assert ArchivedMonth.objects.get().state == MonthState.CLOSED
    assert answers(meters) == before
    months.archive(MONTH, NOW)
    assert answers(meters) == before


def test_a_file_that_is_there_as_it_should_be_is_not_written_again(
    meters: list[Meter], archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket could keep a part of what is written: a backup of the database may need the whole."""
    months.archive(MONTH, NOW)
    restoring.restore(MONTH, NOW)
    puts: list[str] = []
    put = Store.put

    def counted(self: Store, made: Path, name: str) -> None:
        puts.append(name)
        put(self, made, name)

    monkeypatch.setattr(Store, "put", counted)
    months.archive(MONTH, NOW)
    assert [name for name in puts if name.endswith(".parquet")] == []


def test_files_go_with_retention(meters: list[Meter], archive: Path, settings: Settings) -> None:
    archive_both()
    later = LATER + timedelta(days=settings.RETENTION_DAYS + 2)
    assert months.forget_expired(later) == [partitions.name_of(MONTH)]
    assert not list(archive.glob(f"readings-{MONTH:%Y-%m}/*"))
    assert list(archive.glob(f"readings-{LATER:%Y-%m}/*"))
    assert [row.month for row in ArchivedMonth.objects.all()] == [LATER]
    assert months.forget_expired(later) == []


def test_files_are_not_forgotten_while_they_are_away(meters: list[Meter], archive: Path, settings: Settings) -> None:
    """Else they would be kept for ever once their folder is mounted again."""
    archive_both()
    later = LATER + timedelta(days=settings.RETENTION_DAYS + 2)
    archive.rename(archive.parent / "mounted elsewhere")
    with pytest.raises(ArchiveError, match=f"no file of {LATER:%Y-%m} is in the archive"):
        months.forget_expired(later)
    (archive.parent / "mounted elsewhere").rename(archive)
    assert months.forget_expired(later) == [partitions.name_of(MONTH)]
    assert not list(archive.glob(f"readings-{MONTH:%Y-%m}/*"))


def test_the_command(meters: list[Meter], capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        call_command("archive", *words)
        return capsys.readouterr().out

    assert f"{MONTH:%Y-%m}  old enough" in said("plan")
    assert f"{MONTH:%Y-%m} would be archived" in said("run", "--dry-run")
    assert not ArchivedMonth.objects.exists()
    assert said("run", f"{MONTH:%Y-%m}") == f"{MONTH:%Y-%m} is archived\n"
    assert f"{MONTH:%Y-%m}  archived" in said("plan")
    assert "readings, as written" in said("verify")
    assert "would be restored" in said("restore", f"{MONTH:%Y-%m}", "--dry-run")
    assert "is restored" in said("restore", f"{MONTH:%Y-%m}")
    for words, reason in (
        (["run", "March"], "is no month"),
        (["run", f"{NOW:%Y-%m}"], "not ARCHIVE_AFTER_MONTHS old"),
        (["restore", f"{LATER:%Y-%m}"], "is not archived"),
        (["verify", f"{LATER:%Y-%m}"], "has no files"),
    ):
        with pytest.raises(CommandError, match=reason):
            call_command("archive", *words)


@pytest.mark.parametrize("what", ["the files are away", "ARCHIVE_URL is gone"])
def test_every_door_says_that_the_archive_cannot_be_read(
    meters: list[Meter], archive: Path, reader: Client, settings: Settings, tmp_path: Path, what: str
) -> None:
    months.archive(MONTH, NOW)
    if what == "ARCHIVE_URL is gone":
        settings.ARCHIVE_URL = ""
    else:
        archive.rename(archive.parent / "elsewhere")
    title, period = meters[0].system_title.hex(), {"from": START.isoformat(), "to": LATER.isoformat()}
    asked = {"meter": title, "register": LOAD_PROFILE}
    for path, query in (
        ("readings", {}),
        ("readings", {"format": "csv"}),
        ("readings", asked),
        (f"meters/{title}/gaps", {"register": LOAD_PROFILE}),
    ):
        answer = reader.get(f"/api/v1/{path}", period | query)
        said = (answer.status_code, answer.headers["Content-Type"])
        assert said == (503, "application/problem+json"), (path, query, said)
    with pytest.raises(ArchiveError):
        queries.load_curve(meters[0].pk, Register.objects.get(obis_code=LOAD_PROFILE).pk, START, LATER)
    words = ["evidence", "export", title, "--from", period["from"], "--to", period["to"], "--output"]
    with pytest.raises(CommandError, match=r"no archive|cannot be read"):
        call_command(*words, str(tmp_path / "evidence"))
    assert not (tmp_path / "evidence").exists()
    assert verification.fault() is not None
    recent = reader.get("/api/v1/readings", {"from": LATER.isoformat(), "to": END.isoformat()})
    assert (recent.status_code, len(recent.json()["results"]) > 0) == (200, True)
