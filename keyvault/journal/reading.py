"""Reads the journal: checks the segments of every host, and yields their records in the order of the acts."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from keyvault.journal.segments import (
    MAC_OCTETS,
    NO_MAC,
    End,
    JournalRecord,
    Scan,
    SegmentError,
    TornHeaderError,
    decode_record,
    read_header,
    unchecked,
)
from keyvault.journal.writing import SUFFIX, JournalError, segment_key
from keyvault.master_key import MasterKeys, UnwrapError

logger = logging.getLogger(__name__)

_PIECE_OCTETS = 1 << 16
_HEAD_OCTETS = 64  # they contain number, time and kind of a record


class SegmentState(NamedTuple):
    """The state of one segment: the number of records, their lowest and highest numbers, and what is wrong."""

    path: Path
    records: int
    first: int | None
    last: int | None
    last_at_us: int | None
    torn_octets: int
    fault: str | None
    good_to: int = 0  # the offset of its last good record's end
    identity: bytes = b""  # the same for a segment and its copies in mirrors
    beside: Path | None = None  # a copy that has other records from some place on; ``records`` are only of this one
    octets: int = 0  # of the whole file


class _Entry(NamedTuple):
    number: int
    segment: int
    start: int
    octets: int

    @property
    def end(self) -> int:
        return self.start + self.octets + MAC_OCTETS


def read_kinds(
    folders: Sequence[Path], master: MasterKeys, kinds: frozenset[str]
) -> tuple[list[JournalRecord], list[str]]:
    """Return all records of some kinds, in order, and the faults of segments; other records are not decoded.

    Records of copies come as often as there are copies; a damaged one is no fault if another is whole. JournalError if
    a folder cannot be read. Memory holds only the records that are returned.
    """
    found: list[JournalRecord] = []
    states: list[SegmentState] = []
    for path in segments(folders):
        try:
            states.append(_read_kinds(path, master, kinds, found))
        except OSError as error:
            raise JournalError(f"cannot read {path}: {error.strerror}") from None
    faulty = [state for state in states if state.fault is not None and not _is_covered(state, states)]
    return sorted(found, key=lambda record: record.number), [f"{state.path}: {state.fault}" for state in faulty]


def _read_kinds(path: Path, master: MasterKeys, kinds: frozenset[str], found: list[JournalRecord]) -> SegmentState:
    """Add the records of some kinds to ``found``; the state that is returned counts none."""
    state = SegmentState(path, 0, None, None, None, 0, None)
    marks = [kind.encode() for kind in kinds]
    with path.open("rb") as file:
        try:
            header, start = read_header(file)
            octets = os.fstat(file.fileno()).st_size
            state = state._replace(identity=header.id, good_to=start, octets=octets)
            scan = Scan(file, segment_key(header, master), start, NO_MAC)
            found += (
                record
                for one in scan
                if any(mark in one.payload[:_HEAD_OCTETS] for mark in marks)
                and (record := decode_record(one.payload)).kind in kinds
            )
        except TornHeaderError:
            return state
        except (SegmentError, UnwrapError) as error:
            return state._replace(fault=str(error))
    fault = f"damaged at octet {scan.good_to}" if scan.end is End.DAMAGED else None
    return state._replace(good_to=scan.good_to, fault=fault)


def _is_covered(state: SegmentState, others: Iterable[SegmentState]) -> bool:
    """Whether a copy without a fault has all that a damaged segment has, or had: one that is behind does not tell."""
    whole = (one for one in others if one.fault is None and one.identity == state.identity != b"")
    return any(one.good_to >= state.octets and _in_common(state, one) == state.good_to for one in whole)


class Journal:
    """The records of several folders after a number, in order; each is read from its file when it is needed."""

    def __init__(self, states: list[SegmentState], entries: list[_Entry]) -> None:
        self.states = states
        self._entries = sorted(entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[JournalRecord]:
        for entry in self._entries:
            with self.states[entry.segment].path.open("rb", buffering=0) as file:
                yield decode_record(os.pread(file.fileno(), entry.octets, entry.start))

    @property
    def last_number(self) -> int:
        """Return the highest number of all records, also of those before the requested ones; 0 if there are none."""
        return max((state.last for state in self.states if state.last is not None), default=0)

    @property
    def last_at_us(self) -> int:
        """Return the latest time of all records, in Unix microseconds."""
        return max((state.last_at_us for state in self.states if state.last_at_us is not None), default=0)

    @property
    def faults(self) -> list[str]:
        """Return what is wrong with segments that may contain requested records; each sentence names its file."""
        return [f"{state.path}: {state.fault}" for state in self.states if state.fault is not None]


def read(
    folders: Sequence[Path],
    master: MasterKeys,
    after: int = 0,
    progress: Callable[[int], object] = lambda octets: None,
) -> Journal:
    """Read the records after a number from the journal in these folders; see ``faults`` for damage.

    A record that a crash cut short at the end of a segment is no fault: its act was not done. JournalError if a folder
    cannot be read. ``progress`` is called with the number of octets that were read since the last call.
    """
    states: list[SegmentState] = []
    entries: list[_Entry] = []
    for path in segments(folders):
        try:
            state, found = _read_segment(path, master, after, len(states))
        except OSError as error:
            raise JournalError(f"cannot read {path}: {error.strerror}") from None
        states.append(state)
        entries += found
        progress(path.stat().st_size)
    try:
        return _without_copies(states, entries)
    except OSError as error:
        raise JournalError(f"cannot read {error.filename}: {error.strerror}") from None


def _without_copies(states: list[SegmentState], entries: list[_Entry]) -> Journal:
    """Leave each record once: of copies of a segment the best, and of those that part from it what only they have.

    The best has most records, without a fault if there is one. Copies part where a host went on after its disk was set
    back; records of both count.
    """
    copies: dict[bytes, list[int]] = {}
    for index, state in enumerate(states):
        copies.setdefault(state.identity or bytes(state.path), []).append(index)
    shared = {index: octets for indices in copies.values() for index, octets in _kept(states, indices).items()}
    kept_as = {index: number for number, index in enumerate(sorted(shared))}
    own = [entry for entry in entries if entry.segment in kept_as and entry.end > shared[entry.segment][0]]
    records = Counter(entry.segment for entry in own)
    kept = []
    for index in kept_as:
        octets, beside = shared[index]
        state = states[index]
        if beside is not None:
            if records[index]:
                told = "%s and %s differ from octet %d on: records of both count"
                logger.warning(told, state.path, beside, octets)
            state = state._replace(records=records[index], beside=beside)
        kept.append(state)
    return Journal(kept, [entry._replace(segment=kept_as[entry.segment]) for entry in own])


def _kept(states: list[SegmentState], indices: list[int]) -> dict[int, tuple[int, Path | None]]:
    """Of the copies of one segment, return those with records of their own, or with damage that none makes up for:
    octets that another has, and which.
    """
    best, *others = sorted(indices, key=lambda index: _worth(states[index]), reverse=True)
    kept: dict[int, tuple[int, Path | None]] = {best: (0, None)}
    for index in others:
        state = states[index]
        most, path = max((_in_common(state, states[other]), states[other].path) for other in kept)
        is_covered = state.fault is None or _is_covered(state, [states[other] for other in kept])
        if most < state.good_to or not is_covered:
            kept[index] = most, path
        elif state.fault is not None:
            logger.warning("%s: %s; its copy %s is whole", state.path, state.fault, path)
    return kept


def _worth(state: SegmentState) -> tuple[int, bool]:
    return state.records, state.fault is None


def _in_common(one: SegmentState, other: SegmentState) -> int:
    """Return how many octets of whole records two copies begin with alike."""
    most = min(one.good_to, other.good_to)
    with one.path.open("rb", buffering=0) as ours, other.path.open("rb", buffering=0) as theirs:
        at = max(0, most - MAC_OCTETS)
        if os.pread(ours.fileno(), most - at, at) == os.pread(theirs.fileno(), most - at, at):
            return most  # its mac is over all before it
        for at in range(0, most, _PIECE_OCTETS):
            pieces = (os.pread(file.fileno(), min(_PIECE_OCTETS, most - at), at) for file in (ours, theirs))
            differ = (x != y for x, y in zip(*pieces, strict=True))
            if (octets := next((number for number, does in enumerate(differ) if does), None)) is not None:
                return at + octets
    return most


def segments(folders: Sequence[Path]) -> list[Path]:
    """Return the segments in these folders, by name. JournalError if one is not a folder."""
    paths: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise JournalError(f"there is no folder {folder}: name where the key journal lies")
        paths.update(path.resolve() for path in folder.glob(f"*{SUFFIX}"))
    return sorted(paths, key=lambda path: (path.name, path))


def _read_segment(path: Path, master: MasterKeys, after: int, index: int) -> tuple[SegmentState, list[_Entry]]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            header, start = read_header(file)
        except TornHeaderError:
            return SegmentState(path, 0, None, None, None, size, None), []
        except SegmentError as error:
            return SegmentState(path, 0, None, None, None, 0, str(error)), []
        try:
            key = segment_key(header, master)
        except UnwrapError as error:
            locked = _locked(path, file, start, after, f"its key does not open: {error}")
            return locked._replace(identity=header.id, octets=size), []
        state, entries = _scan(path, Scan(file, key, start, NO_MAC), after, index, size)
        return state._replace(identity=header.id, octets=size), entries


def _locked(path: Path, file: IO[bytes], start: int, after: int, fault: str) -> SegmentState:
    """Describe a segment whose key does not open: no fault if all its records are older than the requested ones."""
    numbers = []
    good_to = start
    try:
        for payload in unchecked(file, start):
            numbers.append(decode_record(payload).number)
            good_to = file.tell()
    except SegmentError as error:
        return SegmentState(path, 0, None, None, None, 0, str(error))
    first, last = min(numbers, default=None), max(numbers, default=0)
    return SegmentState(path, len(numbers), first, last, None, 0, fault if last > after else None, good_to)


def _scan(path: Path, scan: Scan, after: int, index: int, size: int) -> tuple[SegmentState, list[_Entry]]:
    entries: list[_Entry] = []
    numbers: list[int] = []
    last_at_us = None
    fault = None
    for count, found in enumerate(scan):
        if count == 0:
            continue  # the header
        try:
            record = decode_record(found.payload)
        except SegmentError as error:
            fault = str(error)
            break
        numbers.append(record.number)
        last_at_us = max(record.at_us, last_at_us or 0)
        if record.number > after:
            start = found.end - len(found.mac) - len(found.payload)
            entries.append(_Entry(record.number, index, start, len(found.payload)))
    if scan.end is End.DAMAGED:
        fault = f"damaged at octet {scan.good_to} of {size}"
    torn = size - scan.good_to if scan.end is End.TORN else 0
    state = SegmentState(
        path,
        len(numbers),
        min(numbers, default=None),
        max(numbers, default=None),
        last_at_us,
        torn,
        fault,
        scan.good_to,
    )
    return state, entries
