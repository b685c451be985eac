"""The key journal: what a crash leaves is told from what was changed, and no act goes on that is not in it."""

import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from ami_headend.core.sql import execute
from ami_headend.health import probes
from concentrators.ingest import verification
from concentrators.ingest.transaction_retry import TransientError
from keyvault import journal, master_key
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from keyvault.device_keys import epochs
from keyvault.device_keys.key_rows import set_key_state
from keyvault.device_keys.provisioning import create_fleet_key, provision_devices
from keyvault.journal import JournalError, NotReplayedError, reading, replay, writing
from keyvault.journal.replay import KeyReplayer
from keyvault.journal.segments import (
    HEAD_LINE,
    NO_MAC,
    End,
    JournalRecord,
    Scan,
    SegmentError,
    SegmentHeader,
    TornHeaderError,
    decode_record,
    encode_header,
    encode_record,
    framed,
    read_header,
)
from keyvault.models import AuditRecord, DeviceKey, FleetKey, KeyState
from tests.concentrators.fleet import commission, post
from tests.factories import ConcentratorFactory

KEY = bytes(range(32))
TITLES = [bytes.fromhex("02bb") + number.to_bytes(6, "big") for number in range(4)]
OFFICER = Actor("officer", "test")


# --- one segment ---------------------------------------------------------------------------------------


def segment(records: list[JournalRecord]) -> bytes:
    mac = NO_MAC
    octets = HEAD_LINE
    header = encode_header(SegmentHeader(b"i" * 16, "here", 1, 1, b"w" * 77))
    for payload in (header, *map(encode_record, records)):
        more, mac = framed(KEY, mac, payload)
        octets += more
    return octets


def scanned(octets: bytes) -> tuple[list[JournalRecord], End]:
    file = io.BytesIO(octets)
    _, start = read_header(file)
    scan = Scan(file, KEY, start, NO_MAC)
    found = [decode_record(one.payload) for one in list(scan)[1:]]
    return found, scan.end


RECORDS = [
    JournalRecord(7, 1_700_000_000_000_000, "state", ["retired", [b"a", 1]]),
    JournalRecord(9, 2, "given", [b"x" * 40]),
]
WHOLE = segment(RECORDS)
FIRST_END = len(segment(RECORDS[:1]))
HEADER_END = len(segment([]))


def test_what_was_written_is_read() -> None:
    assert scanned(WHOLE) == (RECORDS, End.CLEAN)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_segment_cut_anywhere_is_torn_and_keeps_what_comes_before(length: int) -> None:
    octets = WHOLE[:length]
    if length < HEADER_END - 32:
        with pytest.raises(TornHeaderError):
            scanned(octets)
        return
    kept = RECORDS[:1] if length >= FIRST_END else []
    assert scanned(octets) == (kept, End.CLEAN if length in (HEADER_END, FIRST_END) else End.TORN)


@given(st.integers(1, 400))
def test_octets_that_never_reached_the_disk_are_torn(zeros: int) -> None:
    assert scanned(WHOLE + bytes(zeros)) == (RECORDS, End.TORN)


@given(st.integers(HEADER_END, len(WHOLE) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_never_read(at: int, bit: int) -> None:
    octets = bytearray(WHOLE)
    octets[at] ^= 1 << bit
    found, end = scanned(bytes(octets))
    assert found == (RECORDS[:1] if at >= FIRST_END else [])
    assert end is not End.CLEAN


def test_a_foreign_file_is_no_segment() -> None:
    with pytest.raises(SegmentError, match="not a segment"):
        scanned(b"something else entirely")


# --- writing -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(settings: Settings, tmp_path: Path) -> Path:
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    return tmp_path / "journal"


def recorded(folder: Path, after: int = 0) -> list[JournalRecord]:
    found = reading.read([folder], master_key.current(), after)
    assert found.faults == []
    return list(found)


def write(number: int, body: Any = None) -> None:
    writing.write(JournalRecord(number, number, "test", body))


def test_records_go_on_in_one_segment_and_come_in_order(folder: Path) -> None:
    for number in (1, 3, 2):
        write(number, b"x" * number)
    assert [record.number for record in recorded(folder)] == [1, 2, 3]
    assert [record.number for record in recorded(folder, after=2)] == [3]
    [path] = folder.glob("*.journal")
    assert (path.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)


def test_another_process_goes_on_where_this_one_was(folder: Path) -> None:
    write(1)
    code = (
        "import django; django.setup()\n"
        "from keyvault.journal import writing\nfrom keyvault.journal.segments import JournalRecord\n"
        "for number in range(int(__import__('sys').argv[1]), 100, 2):\n"
        "    writing.write(JournalRecord(number, 1, 'test', None))"
    )
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "ami_headend.settings", "KEY_JOURNAL_DIR": str(folder)}
    others = [subprocess.Popen([sys.executable, "-c", code, start], env=env) for start in ("2", "3")]
    for number in range(100, 140):
        write(number)
    assert [other.wait(60) for other in others] == [0, 0]
    write(140)
    assert [record.number for record in recorded(folder)] == list(range(1, 141))
    assert len(list(folder.glob("*.journal"))) == 1


def test_after_a_torn_record_another_segment_is_begun(folder: Path) -> None:
    write(1)
    [path] = folder.glob("*.journal")
    with path.open("ab") as file:
        file.write(b"\x00\x00\x01\x00half")
    write(2)
    found = reading.read([folder], master_key.current())
    assert ([record.number for record in found], found.faults) == ([1, 2], [])
    assert [state.torn_octets for state in found.states] == [8, 0]


def test_a_changed_record_is_a_fault_and_the_next_goes_elsewhere(folder: Path) -> None:
    write(1)
    write(2)
    [path] = folder.glob("*.journal")
    octets = bytearray(path.read_bytes())
    octets[-40] ^= 1
    path.write_bytes(octets)
    writing._last.clear()
    write(3)
    found = reading.read([folder], master_key.current())
    assert [record.number for record in found] == [1, 3]
    [fault] = found.faults
    assert "damaged at octet" in fault


def test_a_write_that_fails_leaves_nothing(folder: Path) -> None:
    write(1)
    [path] = folder.glob("*.journal")
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
        with pytest.raises(JournalError, match="cannot be written \\(File too large\\): nothing was done"):
            write(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.stat().st_size == size
    write(3)
    assert [record.number for record in recorded(folder)] == [1, 3]


def test_a_folder_that_others_may_write_to_is_refused(folder: Path) -> None:
    write(1)
    folder.chmod(0o777)
    with pytest.raises(JournalError, match="chmod 700"):
        write(2)


def test_another_master_key_version_begins_another_segment(folder: Path, settings: Settings, tmp_path: Path) -> None:
    settings.MASTER_KEY_FILE = tmp_path / "master.keys"
    master_key.init(settings.MASTER_KEY_FILE)
    write(1)
    master_key.provider().add_version()
    write(2)
    write(3)
    states = reading.read([folder], master_key.current()).states
    assert [(state.first, state.last) for state in states] == [(1, 1), (2, 3)]
    master_key.provider().destroy(1)
    gone = reading.read([folder], master_key.current(), after=1)
    assert ([record.number for record in gone], gone.faults) == ([2, 3], [])
    [fault] = reading.read([folder], master_key.current()).faults
    assert "no version 1" in fault


# --- acts ----------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_every_act_on_keys_is_journaled(folder: Path) -> None:
    fleet_key = create_fleet_key("spring")
    provision_devices(TITLES[:2])
    provision_devices(TITLES[2:], fleet_key=fleet_key)
    epochs.begin(TITLES[:3])
    epochs.cancel([TITLES[2]])
    pending = DeviceKey.objects.get(system_title=TITLES[0], epoch=2)
    epochs.activate([pending.pk], pending.created_at)
    set_key_state([pending.pk], KeyState.RETIRED)
    epochs.compromise([pending.pk], OFFICER)
    records = recorded(folder)
    kinds = [record.kind for record in records]
    assert kinds[:7] == ["fleet_key", "keys", "keys", "keys", "gone", "activated", "state"]
    assert kinds[7:] in (["state", "audit_key", "audit"], ["state", "audit"])
    _, first_keys = records[1].body
    row = DeviceKey.objects.get(system_title=TITLES[0], epoch=0)
    expected = [row.pk, TITLES[0], 0, 10, "stored", None, bytes(row.wrapped or b""), row.master_key_version]
    assert first_keys[0] == [*expected, bytes(row.fingerprint or b""), "ccm", None]
    assert len(first_keys) == 4
    assert records[4].body[0][:2] == [TITLES[2], 2]
    assert records[7].body == ["compromised", [[TITLES[0], 2, bytes(pending.fingerprint or b"")]]]
    assert records[-1].body[0]["act"] == "device_key.compromise"


@pytest.mark.django_db
def test_no_act_is_done_that_cannot_be_journaled(settings: Settings, tmp_path: Path) -> None:
    provision_devices(TITLES[:1])
    key = DeviceKey.objects.get(system_title=TITLES[0], epoch=1)
    settings.KEY_JOURNAL_DIR = tmp_path / "file"
    settings.KEY_JOURNAL_DIR.write_text("in the way")
    acts = (
        lambda: provision_devices(TITLES[1:2]),
        lambda: create_fleet_key("spring"),
        lambda: epochs.begin(TITLES[:1]),
        lambda: epochs.compromise([key.pk], OFFICER),
        lambda: set_key_state([key.pk], KeyState.RETIRED),
        lambda: chain.record(OFFICER, "test", {}),
    )
    audited = AuditRecord.objects.count()
    for act in acts:
        with pytest.raises(JournalError, match="nothing was done"), transaction.atomic():
            act()
    assert DeviceKey.objects.count() == 2
    assert not FleetKey.objects.exists()
    assert DeviceKey.objects.get(pk=key.pk).state == KeyState.ACTIVE
    assert AuditRecord.objects.count() == audited


@pytest.mark.django_db
def test_a_batch_is_one_record(folder: Path) -> None:
    provision_devices([bytes.fromhex("02bc") + number.to_bytes(6, "big") for number in range(500)])
    assert len(recorded(folder)) == 1


@contextmanager
def restored() -> Iterator[None]:
    """The database as a restore leaves it: without the mark that no dump holds."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM keyvault_journal_replayed")
        yield
        transaction.set_rollback(True)


@pytest.mark.django_db
def test_a_restored_database_verifies_nothing_and_takes_no_act() -> None:
    concentrator = ConcentratorFactory.create()
    [device] = commission(1, concentrator)
    uplink = post(concentrator, [device.frame(1, 100, counter=1)])
    with restored():
        with pytest.raises(TransientError, match="restore --replay"):
            verification.verify(uplink.pk)
        with pytest.raises(NotReplayedError), transaction.atomic():
            provision_devices(TITLES[:1])
        assert not probes._well(journal.check_open)
    uplink.refresh_from_db()
    assert (uplink.verified_at, uplink.attempts) == (None, 0)
    verdicts = verification.verify(uplink.pk)
    assert verdicts is not None
    assert verdicts.accepted == 1


@pytest.mark.django_db
def test_a_standby_that_may_lag_verifies_nothing_once_it_is_promoted(folder: Path) -> None:
    journal.bind_to_timeline(may_lag=True)
    provision_devices(TITLES[1:2])
    execute("UPDATE keyvault_journal_replayed SET timeline = timeline - 1")  # as a promotion leaves it
    assert not journal.is_open()
    with pytest.raises(NotReplayedError, match="promoted"), transaction.atomic():
        provision_devices(TITLES[:1])
    for may_lag in (True, False):  # a change of the setting opens nothing
        journal.bind_to_timeline(may_lag=may_lag)
        assert not journal.is_open()
    found = reading.read([folder], master_key.current(), 0)
    replay.bring_up(found, [KeyReplayer(found)], OFFICER, timezone.now(), {})
    assert journal.is_open()
    journal.bind_to_timeline(may_lag=False)
    execute("UPDATE keyvault_journal_replayed SET timeline = timeline - 1")  # none is kept: any will do
    assert journal.is_open()


# --- the command ---------------------------------------------------------------------------------------


def test_the_journal_is_verified_and_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(1, [b"\x01"])
    write(2)
    call_command("journal", "verify")
    assert "2 records in 1 segment; the last record is number 2." in capsys.readouterr().out
    call_command("journal", "show", "--after", "1")
    assert json.loads(capsys.readouterr().out)["number"] == 2
    [path] = folder.glob("*.journal")
    path.write_bytes(path.read_bytes()[:-40] + b"\xff" * 40)
    with pytest.raises(CommandError, match=r"damaged or incomplete:\n.*damaged at octet"):
        call_command("journal", "verify")
    with pytest.raises(CommandError, match="there is no folder"):
        call_command("journal", "verify", "--journal", str(settings.BASE_DIR / "nowhere"))


@pytest.mark.django_db
def test_wrapped_keys_are_not_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create_fleet_key("spring")
    provision_devices(TITLES[:1])
    call_command("journal", "show")
    shown = capsys.readouterr().out
    wrapped = [*DeviceKey.objects.values_list("wrapped"), *FleetKey.objects.values_list("wrapped")]
    assert [octets for (octets,) in wrapped if octets is not None and bytes(octets).hex() in shown] == []
    assert TITLES[0].hex() in shown
