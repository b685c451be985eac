"""Recorded readings: shifted by whole weeks, cut to days, holes kept; a bad line is named with its number."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from concentrators.simulator.recorded_loads import HEADER, RecordedError, RecordedLoad

NOW = datetime(2026, 11, 22, 16, 10, tzinfo=UTC)
LINES = [
    "a,2012-02-09T22:00:00Z,141",
    "a,2012-02-09T22:30:00Z,88",
    "a,2012-02-09T23:30:00Z,151",  # 23:00 is missing
    "b,2012-02-10T00:00:00Z,7",
]


def write(folder: Path, lines: list[str], header: str = HEADER) -> Path:
    path = folder / "readings.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def read(path: Path, **options: object) -> RecordedLoad:
    return RecordedLoad.read(path, **{"meters": None, "days": None, "end_before": None} | options)  # type: ignore[arg-type]


def test_holes_stay_holes(tmp_path: Path) -> None:
    load = read(write(tmp_path, LINES))
    assert load.start_s == datetime(2012, 2, 9, 22, tzinfo=UTC).timestamp()
    assert load.energy_wh(0, 0, 6, 30) == [141, 88, None, 151, None, None]
    assert load.energy_wh(1, 0, 6, 30) == [None, None, None, None, 7, None]
    assert load.energy_wh(1, 90, 3, 30) == [None, 7, None]


def test_shifted_by_whole_weeks_to_end_now(tmp_path: Path) -> None:
    as_recorded, shifted = read(write(tmp_path, LINES)), read(write(tmp_path, LINES), end_before=NOW)
    shift_s = shifted.start_s - as_recorded.start_s
    assert shift_s % (7 * 86_400) == 0
    assert 0 <= NOW.timestamp() - shifted.end_s < 7 * 86_400
    assert shifted.energy_wh(0, 0, 4, 30) == [141, 88, None, 151]


def test_last_days_of_each_meter(tmp_path: Path) -> None:
    lines = [f"a,2012-02-{day:02}T00:00:00Z,{day}" for day in range(1, 6)]
    lines += [f"b,2012-03-{day:02}T00:00:00Z,{day}" for day in range(1, 6)]
    load = read(write(tmp_path, lines), days=2)
    assert [len(recording.energy_wh) for recording in load.recordings] == [96, 96]
    assert {value for value in load.recordings[0].energy_wh if value >= 0} == {4, 5}


def test_first_meters_only(tmp_path: Path) -> None:
    assert [recording.meter for recording in read(write(tmp_path, LINES), meters=1).recordings] == ["a"]
    with pytest.raises(RecordedError, match="holds 2 meters, not 3"):
        read(write(tmp_path, LINES), meters=3)


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "readings.csv.gz"
    path.write_bytes(gzip.compress(write(tmp_path, LINES).read_bytes()))
    assert read(path).energy_wh(0, 0, 1, 30) == [141]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(RecordedError, match="cannot be read"):
        read(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a,2012-02-10T00:00:00Z", "2 fields"),
        (",2012-02-10T00:00:00Z,1", "the meter is empty"),
        ("a,yesterday,1", "is not a time"),
        ("a,2012-02-10T00:00:00,1", "not in UTC"),
        ("a,2012-02-10T00:00:00+10:00,1", "not in UTC"),
        ("a,2012-02-10T00:10:00Z,1", "not the start of a 30-minute interval"),
        ("a,2012-02-10T00:00:00.5Z,1", "not the start of a 30-minute interval"),
        ("a,2012-02-10T00:00:00Z,-1", "not a whole number"),
        ("a,2012-02-10T00:00:00Z,1.5", "not a whole number"),
        ("a,2012-02-10T00:00:00Z,99999999999", "not a whole number"),
        ("a,2012-02-09T23:30:00Z,1", "not later than the line before"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path, [*LINES[:3], line])
    with pytest.raises(RecordedError, match=f"line 5: .*{reason}"):
        read(path)


def test_unsorted_meters_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordedError, match="line 6: meter a appears again"):
        read(write(tmp_path, [*LINES, "a,2012-02-11T00:00:00Z,1"]))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordedError, match="line 1: the header is 'time,value'"):
        read(write(tmp_path, LINES, header="time,value"))
    with pytest.raises(RecordedError, match="holds no readings"):
        read(write(tmp_path, []))
    with pytest.raises(RecordedError, match="cannot be read: No such file"):
        read(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordedError, match="cannot be read"):
        read(tmp_path / "binary.csv")
