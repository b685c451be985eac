"""Mirrors of the key journal: what stands in how many places before an act is done, and what a lost host leaves."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from pytest_django import Settings

from ami_headend.health import host
from keyvault import master_key
from keyvault.device_keys.provisioning import provision_devices
from keyvault.journal import copies, mirrors, reading, writing
from keyvault.journal.copies import PartedError, Segment
from keyvault.journal.segments import JournalRecord
from keyvault.journal.writing import JournalError
from keyvault.models import DeviceKey
from tests.damage import damaged

WELL_S = 60.0  # for what is done at once, however busy the machine is
HANGS_S = 1.0


@pytest.fixture
def places(settings: Settings, tmp_path: Path) -> Iterator[list[Path]]:
    """The journal's own folder, and two mirrors, all of which are needed."""
    own, *others = [tmp_path / name for name in ("own", "a", "b")]
    for folder in others:
        folder.mkdir()
    settings.KEY_JOURNAL_DIR = own
    settings.KEY_JOURNAL_MIRRORS = [str(folder) for folder in others]
    settings.KEY_JOURNAL_MIRRORS_NEEDED = "all"
    settings.KEY_JOURNAL_MIRROR_S = WELL_S
    yield [own, *others]
    mirrors._mirrors.clear()


def write(number: int, octets: int = 10) -> None:
    writing.write(JournalRecord(number, number, "test", bytes(octets)))


def numbers(*folders: Path) -> list[int]:
    found = reading.read(folders, master_key.current())
    assert found.faults == []
    return [record.number for record in found]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.journal")}


def eventually(ready: object) -> None:
    deadline = time.monotonic() + WELL_S
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_place_has_the_same_octets_before_it_returns(places: list[Path]) -> None:
    own, *others = places
    for number in (1, 2, 3):
        write(number)
        assert content(own) == content(others[0]) == content(others[1])
    assert numbers(*places) == [1, 2, 3]  # copies of a segment count once
    [path] = others[0].glob("*.journal")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("needed", "is_done"), [("none", True), ("one", True), ("all", False)])
def test_a_mirror_that_is_away(places: list[Path], settings: Settings, needed: str, is_done: bool) -> None:
    own, first, second = places
    settings.KEY_JOURNAL_MIRRORS_NEEDED = needed
    shutil.rmtree(second)
    if is_done:
        write(1)
    else:
        with pytest.raises(JournalError, match=f"not on all of its mirrors .*there is no folder {second}.*nothing was"):
            write(1)
    assert numbers(own) == [1]
    eventually(lambda: content(first) == content(own))
    assert not second.exists()  # an empty place under a mount point is no mirror
    second.mkdir()
    write(2)
    eventually(lambda: content(own) == content(first) == content(second))


@pytest.mark.parametrize(("needed", "is_done"), [("none", True), ("one", True), ("all", False)])
def test_a_mirror_that_is_full(places: list[Path], settings: Settings, needed: str, is_done: bool) -> None:
    own, first, second = places
    write(1)
    settings.KEY_JOURNAL_MIRRORS_NEEDED = needed
    [path] = second.glob("*.journal")
    path.unlink()
    path.symlink_to("/dev/full")
    if is_done:
        write(2)
    else:
        with pytest.raises(JournalError, match=f"{second / path.name}: No space left on device"):
            write(2)
    eventually(lambda: numbers(first) == [1, 2])
    path.unlink()
    write(3)
    eventually(lambda: content(own) == content(first) == content(second))


def test_a_mirror_that_hangs_costs_one_wait(
    places: list[Path], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, first, second = places
    write(1)
    goes_on, copy = threading.Event(), copies.copy

    def slow(segment: Segment, mirror: Path) -> int:
        if mirror == second:
            goes_on.wait(WELL_S)
        return copy(segment, mirror)

    monkeypatch.setattr(copies, "copy", slow)
    settings.KEY_JOURNAL_MIRROR_S = HANGS_S
    with pytest.raises(JournalError, match=f"{second}: no answer within 1 s"):
        write(2)
    eventually(mirrors._mirrors[second].hangs)
    with pytest.raises(JournalError, match=f"{second}: it hangs"):
        write(3)
    assert mirrors._mirrors[second]._jobs.empty()  # so nobody waited for it
    settings.KEY_JOURNAL_MIRRORS_NEEDED = "one"
    write(4)
    assert numbers(first) == [1, 2, 3, 4]
    settings.KEY_JOURNAL_MIRRORS_NEEDED = "all"
    settings.KEY_JOURNAL_MIRROR_S = WELL_S
    goes_on.set()
    write(5)
    assert content(own) == content(first) == content(second)


def test_a_mirror_gets_earlier_segments_that_it_lacks(places: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    own, first, second = places
    monkeypatch.setattr(writing, "SEGMENT_OCTETS", 400)
    for number in range(1, 6):
        write(number, 150)
    assert len(content(own)) > 2
    shutil.rmtree(second)
    with pytest.raises(JournalError, match="there is no folder"):
        write(6, 150)
    second.mkdir()  # another disk
    write(7, 150)
    assert content(own) == content(first) == content(second)
    assert numbers(second) == [*range(1, 8)]


def set_back(own: Path, octets: bytes) -> Path:
    """Put this host's segment back to what it was, as a snapshot of its disk does; processes begin anew."""
    [path] = own.glob("*.journal")
    path.write_bytes(octets)
    writing._last.clear()
    mirrors._mirrors.clear()
    return path


def whole(own: Path) -> bytes:
    [path] = own.glob("*.journal")
    return path.read_bytes()


@pytest.mark.parametrize("number", [4, 3])  # 3: the database was set back with the disk
@pytest.mark.parametrize("octets", [10, 8, 300])  # the host's segment is as long as its mirror again, or not
def test_a_host_that_was_set_back_is_not_counted_as_mirrored(
    places: list[Path], settings: Settings, number: int, octets: int
) -> None:
    own, *others = places
    write(1)
    then = whole(own)
    write(2)
    write(3, 0)
    before = content(others[0])
    path = set_back(own, then)
    with pytest.raises(JournalError, match=f"/{path.name} is not the beginning of {path}"):
        write(number, octets)
    settings.KEY_JOURNAL_MIRRORS_NEEDED = "none"
    write(5)
    assert not host.journal_mirrors().well
    assert str(others[1] / path.name) in host.journal_mirrors().found
    with pytest.raises(CommandError, match=re.escape(f"2 records would be lost with this host (numbers {number} to")):
        call_command("journal", "drill", stdout=StringIO())
    said = StringIO()
    call_command("journal", "mirror", stdout=said)
    assert re.search(rf"{path} is {path.stem}-[0-9a-f]{{8}}\.journal now:", said.getvalue())
    settings.KEY_JOURNAL_MIRRORS_NEEDED = "all"
    write(6)
    assert host.journal_mirrors().well
    assert content(others[0]) == content(others[1]) == before | content(own)
    assert numbers(*others) == sorted([1, 2, 3, number, 5, 6])
    call_command("journal", "drill", stdout=StringIO())


def test_a_mirror_that_was_damaged_at_its_end_gets_no_more(places: list[Path]) -> None:
    own, first, _ = places
    write(1)
    [path] = own.glob("*.journal")
    (first / path.name).write_bytes(damaged(path.read_bytes()))
    with pytest.raises(PartedError, match="is not the beginning of"):
        copies.copy(Segment(path, path.stat().st_size), first)
    assert (first / path.name).read_bytes() == damaged(path.read_bytes())


def test_copies_that_part_count_with_all_their_records(places: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    own, first, second = places
    write(1)
    then = whole(own)
    for number in (2, 3, 4):
        write(number)
    path = set_back(own, then)
    shutil.rmtree(second)
    second.mkdir()
    with pytest.raises(JournalError):
        write(5)
    eventually(lambda: content(second) == content(own))
    assert numbers(own) == numbers(second) == [1, 5]
    assert numbers(*places) == numbers(second, first) == [1, 2, 3, 4, 5]
    assert "records of both count" in caplog.text
    said = StringIO()
    call_command("journal", "verify", stdout=said)
    assert f"1 record that {first / path.name} lacks" in said.getvalue()
    found = reading.read(places, master_key.current(), after=3)
    assert [record.number for record in found] == [4, 5]
    (second / path.name).write_bytes(damaged((second / path.name).read_bytes()))
    assert numbers(first, second) == [1, 2, 3, 4]  # what is left is the beginning of the other


def test_a_copy_that_was_damaged_in_its_middle_is_replaced(places: list[Path]) -> None:
    """The drill finds it, and says what to run: that has to help."""
    own, first, second = places
    for number in range(1, 6):
        write(number, 40_000)
    [path] = own.glob("*.journal")
    for mirror in (first, second):
        octets = bytearray((mirror / path.name).read_bytes())
        octets[60_000] ^= 1  # in record 2
        (mirror / path.name).write_bytes(octets)
    with pytest.raises(CommandError, match=r"4 records would be lost with this host .*: journal mirror"):
        call_command("journal", "drill", stdout=StringIO())
    call_command("journal", "mirror", stdout=StringIO())
    call_command("journal", "drill", stdout=StringIO())
    assert numbers(first) == numbers(second) == [1, 2, 3, 4, 5]
    said = StringIO()
    call_command("journal", "mirror", stdout=said)  # the copy that stays is not taken for this host's file again
    assert "another copy" not in said.getvalue()


def test_a_mirror_that_hangs_does_not_hold_acts_up_while_a_file_is_renamed(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the lock of the files nobody may ask a mirror anything."""
    write(1)
    [segment] = writing.own_segments()
    looked: list[Any] = []
    stat = os.stat

    def noted(path: Any, **kwargs: Any) -> os.stat_result:
        looked.append(path)
        return stat(path, **kwargs)

    monkeypatch.setattr(os, "stat", noted)
    aside = writing.set_aside(segment)
    assert aside.exists()
    assert [path for path in looked if Path(str(path)).is_relative_to(places[1])] == []


def test_what_another_process_left_behind_is_made_up_for_with_the_next_segment(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one could not write the end of a segment to a mirror, and died."""
    own, first, second = places
    write(1)
    write(2)
    [path] = second.glob("*.journal")
    path.write_bytes(path.read_bytes()[:-10])
    monkeypatch.setattr(writing, "SEGMENT_OCTETS", 1)
    write(3)
    assert content(own) == content(first) == content(second)


def test_segments_of_a_host_whose_name_begins_alike_are_not_ours(
    places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, *_ = places
    for number, name in enumerate(("web-2", "web", "web-2"), 1):
        writing._last.clear()
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        write(number)
    assert {path.name[:6] for path in own.glob("*.journal")} == {"web-20", "web-2-"}  # web's begins with a year
    monkeypatch.setattr(socket, "gethostname", lambda: "web")
    assert [segment.path.name[:6] for segment in writing.own_segments()] == ["web-20"]
    assert numbers(own) == [1, 2, 3]


@pytest.mark.django_db
def test_no_act_is_done_that_is_not_mirrored(places: list[Path]) -> None:
    shutil.rmtree(places[1])
    with pytest.raises(JournalError, match="nothing was done"), transaction.atomic():
        provision_devices([bytes.fromhex("02bc000000000001")])
    assert not DeviceKey.objects.exists()


@pytest.mark.django_db
def test_a_first_master_key_whose_record_is_refused_is_told_of(
    places: list[Path], settings: Settings, tmp_path: Path
) -> None:
    """The record needs the key: it cannot come first, and the key stays."""
    settings.MASTER_KEY_FILE = tmp_path / "first.keys"
    shutil.rmtree(places[1])
    with pytest.raises(CommandError, match=r"version 1 was made in .*first\.keys, and is the one to keep; .*no folder"):
        call_command("master_key", "init")
    assert settings.MASTER_KEY_FILE.exists()


def test_processes_beside_each_other_leave_the_same_everywhere(places: list[Path]) -> None:
    own, *others = places
    code = (
        "import django; django.setup()\n"
        "from keyvault.journal import writing\nfrom keyvault.journal.segments import JournalRecord\n"
        "for number in range(int(__import__('sys').argv[1]), 60, 2):\n"
        "    writing.write(JournalRecord(number, 1, 'test', None))"
    )
    env = {**os.environ, "DJANGO_SETTINGS_MODULE": "ami_headend.settings", "KEY_JOURNAL_DIR": str(own)}
    env |= {"KEY_JOURNAL_MIRRORS": ",".join(map(str, others)), "KEY_JOURNAL_MIRRORS_NEEDED": "one"}
    env["KEY_JOURNAL_MIRROR_S"] = str(WELL_S)
    write(1)
    running = [subprocess.Popen([sys.executable, "-c", code, start], env=env) for start in ("2", "3")]
    assert [one.wait(180) for one in running] == [0, 0]
    write(60)
    assert content(own) == content(others[0]) == content(others[1])
    assert numbers(*places) == [*range(1, 61)]


def test_of_copies_the_whole_one_counts(places: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    own, *others = places
    for number in (1, 2, 3):
        write(number)
    [path] = own.glob("*.journal")
    octets = bytearray(path.read_bytes())
    octets[-100] ^= 1  # in record 2
    path.write_bytes(octets)
    [behind] = others[0].glob("*.journal")
    behind.write_bytes(behind.read_bytes()[:-80])
    assert numbers(*places) == [1, 2, 3]
    assert f"its copy {others[1] / path.name} is whole" in caplog.text
    assert reading.read([own], master_key.current()).faults != []


def test_a_copy_that_is_behind_does_not_hide_what_is_damaged_after_it(places: list[Path]) -> None:
    own, mirror, _ = places
    for number in (1, 2):
        write(number)
    [path] = own.glob("*.journal")
    whole = path.stat().st_size
    write(3)
    write(4)
    octets = bytearray(path.read_bytes())
    octets[whole + 10] ^= 1  # in record 3
    path.write_bytes(octets)
    (mirror / path.name).write_bytes(octets[:whole])
    found = reading.read([own, mirror], master_key.current())
    assert [record.number for record in found] == [1, 2]
    assert found.faults == [f"{path}: damaged at octet {whole} of {len(octets)}"]
    assert len(reading.read_kinds([own, mirror], master_key.current(), frozenset({"test"}))[1]) == 1
    assert numbers(*places) == [1, 2, 3, 4]


def test_a_lost_host_leaves_its_mirrors(places: list[Path], settings: Settings) -> None:
    own, *others = places
    for number in (1, 2):
        write(number)
    said = StringIO()
    call_command("journal", "drill", stdout=said)
    assert "If this host were lost now, no record would be." in said.getvalue()
    for folder in others:
        shutil.rmtree(folder)
    assert not host.journal_mirrors().well
    with pytest.raises(JournalError, match="nothing was done"):
        write(3)
    eventually(lambda: all(mirror._trouble for mirror in mirrors._mirrors.values()))  # none is still about to write it
    for folder in others:
        folder.mkdir()
    with pytest.raises(CommandError, match="3 records would be lost with this host \\(numbers 1 to 3\\)"):
        call_command("journal", "drill", stdout=StringIO())
    assert "octets behind" in host.journal_mirrors().found
    call_command("journal", "mirror", stdout=StringIO())
    call_command("journal", "drill", stdout=StringIO())
    assert host.journal_mirrors() == ("journal mirrors", True, "2 hold all that this host wrote", "")
    shutil.rmtree(own)  # the host is lost, and another of its name begins
    assert numbers(others[1]) == [1, 2, 3]
    write(4)
    assert numbers(own) == [4]
    said = StringIO()
    call_command("journal", "verify", stdout=said)  # by default with its mirrors
    assert "4 records in 2 segments; the last record is number 4." in said.getvalue()
