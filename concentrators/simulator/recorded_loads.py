"""Recorded readings from a CSV file as the load of simulated meters. No Django."""

import gzip
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self, TextIO

HEADER = "meter,timestamp,wh"
INTERVAL_MINUTES = 30
_INTERVAL_S = INTERVAL_MINUTES * 60
_WEEK_S = 7 * 86_400
_MISSING = -1
_MAX_WH = 2**31 - 1


class RecordedError(ValueError):
    """The file cannot be used: the caller's mistake. The message names the line."""


@dataclass(slots=True)
class Recording:
    """One meter's readings: Wh of each interval from ``start_s`` on, -1 where none was recorded."""

    meter: str
    start_s: int
    energy_wh: "array[int]"  # Python 3.11 cannot subscript it at run time

    @property
    def end_s(self) -> int:
        return self.start_s + len(self.energy_wh) * _INTERVAL_S

    def keep_last(self, days: int) -> None:
        excess = len(self.energy_wh) - days * 86_400 // _INTERVAL_S
        if excess > 0:
            self.start_s += excess * _INTERVAL_S
            del self.energy_wh[:excess]


class RecordedLoad:
    """Recordings on one time axis that begins at ``start_s`` and ends at ``end_s`` (Unix seconds)."""

    def __init__(self, recordings: list[Recording]) -> None:
        self.recordings = recordings
        self.start_s = min(recording.start_s for recording in recordings)
        self.end_s = max(recording.end_s for recording in recordings)

    @classmethod
    def read(cls, path: Path, *, meters: int | None, days: int | None, end_before: datetime | None) -> Self:
        """Read the first ``meters`` of the file and the last ``days`` of each.

        All times move together by whole weeks, so that the last interval ends at or before
        ``end_before``; None leaves them as recorded. RecordedError if the file cannot be used.
        """
        with _open(path) as lines:
            try:
                recordings = list(_parse(path, lines))
            except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
                raise RecordedError(f"{path} cannot be read: {error}") from None
        if not recordings:
            raise RecordedError(f"{path} holds no readings")
        if meters is not None and meters > len(recordings):
            raise RecordedError(f"{path} holds {len(recordings)} meters, not {meters}: ask for fewer")
        recordings = recordings[:meters]
        if end_before is not None:
            last_s = max(recording.end_s for recording in recordings)
            shift_s = (int(end_before.timestamp()) - last_s) // _WEEK_S * _WEEK_S
            for recording in recordings:
                recording.start_s += shift_s
        if days is not None:
            for recording in recordings:
                recording.keep_last(days)
        return cls(recordings)

    @staticmethod
    def has_intervals_of(interval_minutes: int) -> bool:
        return interval_minutes == INTERVAL_MINUTES

    def energy_wh(self, household: int, first_minute: int, count: int, interval_minutes: int) -> list[int | None]:
        """Return Wh of ``count`` intervals from ``first_minute`` after the start; None if nothing was recorded."""
        recording = self.recordings[household]
        first = (self.start_s + first_minute * 60 - recording.start_s) // (interval_minutes * 60)
        known = recording.energy_wh[max(0, first) : max(0, first + count)]
        values: list[int | None] = [None] * min(count, max(0, -first))
        values += [None if value == _MISSING else value for value in known]
        return values + [None] * (count - len(values))


def _open(path: Path) -> TextIO:
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8", newline="")
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise RecordedError(f"{path} cannot be read: {error.strerror or error}") from None


def _parse(path: Path, lines: Iterable[str]) -> Iterator[Recording]:
    """Return the recordings in the lines, meter by meter; checks every rule of the format."""
    numbered = enumerate(lines, start=1)
    _, header = next(numbered, (1, ""))
    if header.rstrip("\r\n") != HEADER:
        raise RecordedError(f"{path}, line 1: the header is {header.strip()[:80]!r}, it must be {HEADER!r}")
    seen: set[str] = set()
    recording: Recording | None = None
    for number, line in numbered:
        try:
            meter, start_s, energy_wh = _parse_line(line)
            if recording is None or meter != recording.meter:
                if meter in seen:
                    raise ValueError(f"meter {meter} appears again: the file must be sorted by meter")
                if recording is not None:
                    yield recording
                seen.add(meter)
                recording = Recording(meter, start_s, array("i"))
            if start_s < recording.end_s:
                raise ValueError(f"the time is not later than the line before, of the same meter {meter}")
        except ValueError as error:
            raise RecordedError(f"{path}, line {number}: {error}") from None
        recording.energy_wh.extend([_MISSING] * ((start_s - recording.end_s) // _INTERVAL_S))
        recording.energy_wh.append(energy_wh)
    if recording is not None:
        yield recording


def _parse_line(line: str) -> tuple[str, int, int]:
    parts = line.rstrip("\r\n").split(",")
    if len(parts) != 3:
        raise ValueError(f"{len(parts)} fields, expected 3 ({HEADER})")
    meter, timestamp, wh = parts
    if not meter or len(meter) > 32 or not meter.isprintable():
        raise ValueError("the meter is empty, longer than 32 characters or not printable")
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        raise ValueError(f"{timestamp[:40]!r} is not a time such as 2012-02-09T22:00:00Z") from None
    if moment.utcoffset() != timedelta(0):
        raise ValueError(f"the time {timestamp} is not in UTC (it must end in Z)")
    start_s = int(moment.timestamp())
    if moment != datetime.fromtimestamp(start_s, UTC) or start_s % _INTERVAL_S:
        raise ValueError(f"the time {timestamp} is not the start of a {INTERVAL_MINUTES}-minute interval")
    if not (wh.isascii() and wh.isdigit()) or int(wh) > _MAX_WH:
        raise ValueError(f"{wh[:40]!r} is not a whole number of Wh from 0 to {_MAX_WH}")
    return meter, start_s, int(wh)
