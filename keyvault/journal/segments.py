"""A segment, one file of the key journal: its format, and how to read one that is damaged.

A segment is a head line, then records: length of the payload (4 octets, big endian), payload, and
HMAC-SHA-256 (32 octets) over the mac before it, length and payload. The first record is the header:
CBOR {"id", "host", "made_at", "version", "key"}; its "key" is the segment's own MAC key, wrapped under
the master key. All others are CBOR [number, Unix microseconds, kind, body].
"""

import hmac
import os
from collections.abc import Iterator
from enum import StrEnum
from typing import IO, Any, NamedTuple

import cbor2

HEAD_LINE = b"ami-headend key journal 1\n"
MAC_OCTETS = 32
ID_OCTETS = 16
NO_MAC = bytes(MAC_OCTETS)
PAYLOAD_MAX_OCTETS = 1 << 30
_LENGTH_OCTETS = 4
_US_PER_S = 1_000_000


class SegmentError(Exception):
    """A file that is no segment, or whose header has another form."""


class TornHeaderError(SegmentError):
    """A segment that ends within its header, because the process that began it died; it has no records."""


class SegmentHeader(NamedTuple):
    """The header of a segment: its id (16 octets), host, and MAC key wrapped under a master key version."""

    id: bytes
    host: str
    made_at: int
    version: int
    wrapped_key: bytes


class JournalRecord(NamedTuple):
    """One act: its number (one sequence for all hosts), time in Unix microseconds, kind, and body."""

    number: int
    at_us: int
    kind: str
    body: Any

    @property
    def at_s(self) -> float:
        return self.at_us / _US_PER_S


class End(StrEnum):
    """How a segment ends."""

    CLEAN = "clean"
    TORN = "torn"  # an incomplete record: its process died while writing it, and its act was not done
    DAMAGED = "damaged"  # octets were changed later


class FoundRecord(NamedTuple):
    """A record, the offset of its end, and its mac, from which the next one continues."""

    end: int
    mac: bytes
    payload: bytes


def encode_header(header: SegmentHeader) -> bytes:
    """Encode the header: the payload of the first record of a segment."""
    return cbor2.dumps(header._asdict(), canonical=True)


def decode_header(payload: bytes) -> SegmentHeader:
    """Decode it; SegmentError if it has another form."""
    try:
        header = SegmentHeader(**cbor2.loads(payload))
    except (cbor2.CBORDecodeError, TypeError, ValueError):
        raise SegmentError("its header is not in the form that this head-end writes") from None
    if not isinstance(header.id, bytes) or not isinstance(header.wrapped_key, bytes) or type(header.version) is not int:
        raise SegmentError("its header is not in the form that this head-end writes")
    return header


def encode_record(record: JournalRecord) -> bytes:
    """Encode the payload of a record."""
    return cbor2.dumps(list(record), canonical=True)


def decode_record(payload: bytes) -> JournalRecord:
    """Decode it; SegmentError if it has another form."""
    try:
        record = JournalRecord(*cbor2.loads(payload))
    except (cbor2.CBORDecodeError, TypeError, ValueError):
        raise SegmentError("a record is not in the form that this head-end writes") from None
    if type(record.number) is not int or type(record.at_us) is not int or not isinstance(record.kind, str):
        raise SegmentError("a record is not in the form that this head-end writes")
    return record


def framed(key: bytes, before: bytes, payload: bytes) -> tuple[bytes, bytes]:
    """Return a payload as it is written to the file, and its mac."""
    length = len(payload).to_bytes(_LENGTH_OCTETS, "big")
    mac = _mac(key, before, length, payload)
    return length + payload + mac, mac


def read_header(file: IO[bytes]) -> tuple[SegmentHeader, int]:
    """Read the header of a segment, without checking its mac, and its offset; SegmentError if there is none."""
    file.seek(0)
    line = file.read(len(HEAD_LINE))
    if line != HEAD_LINE:
        if len(line) < len(HEAD_LINE) and HEAD_LINE.startswith(line):
            raise TornHeaderError("it ends within its head line")
        raise SegmentError("it is not a segment of the key journal")
    length = int.from_bytes(file.read(_LENGTH_OCTETS), "big")
    payload = file.read(min(length, PAYLOAD_MAX_OCTETS))
    if len(payload) != length or not payload:
        raise TornHeaderError("it ends within its header")
    return decode_header(payload), len(HEAD_LINE)


class Scan:
    """Iterates over the records of a segment from an offset, checking each mac; then ``end`` says how it ends."""

    def __init__(self, file: IO[bytes], key: bytes, start: int, before: bytes) -> None:
        self._file, self._key = file, key
        self.good_to, self.mac = start, before
        self.end = End.CLEAN

    def __iter__(self) -> Iterator[FoundRecord]:
        self._file.seek(self.good_to)
        while prefix := self._file.read(_LENGTH_OCTETS):
            length = int.from_bytes(prefix, "big")
            rest = self._file.read(length + MAC_OCTETS) if 0 < length <= PAYLOAD_MAX_OCTETS else b""
            payload, mac = rest[:length], rest[length:]
            if len(mac) != MAC_OCTETS:
                self.end = self._end_at(prefix, length)
                return
            if not hmac.compare_digest(mac, _mac(self._key, self.mac, prefix, payload)):
                self.end = End.DAMAGED
                return
            self.good_to, self.mac = self._file.tell(), mac
            yield FoundRecord(self.good_to, mac, payload)

    def _end_at(self, prefix: bytes, length: int) -> End:
        """Classify an end within a record: a write that was cut short, or one that never reached the disk (zeros)."""
        if 0 < length <= PAYLOAD_MAX_OCTETS:
            return End.TORN
        rest = prefix + self._file.read()
        return End.DAMAGED if any(rest) and len(rest) >= _LENGTH_OCTETS else End.TORN


def record_ends(file: IO[bytes]) -> Iterator[int]:
    """Yield the offset of each record's end, from lengths alone; of none after a record that is not whole."""
    size = file.seek(0, os.SEEK_END)
    at = file.seek(len(HEAD_LINE))
    is_header = True
    while len(prefix := file.read(_LENGTH_OCTETS)) == _LENGTH_OCTETS:
        at += _LENGTH_OCTETS + int.from_bytes(prefix, "big") + MAC_OCTETS
        if at > size:
            return
        if not is_header:
            yield at
        is_header = False
        file.seek(at)


def unchecked(file: IO[bytes], start: int) -> Iterator[bytes]:
    """Yield the payloads after the header of a segment whose key is unavailable, without any check."""
    file.seek(start)
    is_header = True
    while prefix := file.read(_LENGTH_OCTETS):
        length = int.from_bytes(prefix, "big")
        rest = file.read(length + MAC_OCTETS) if 0 < length <= PAYLOAD_MAX_OCTETS else b""
        if len(rest) != length + MAC_OCTETS:
            return
        if not is_header:
            yield rest[:length]
        is_header = False


def _mac(key: bytes, before: bytes, length: bytes, payload: bytes) -> bytes:
    mac = hmac.new(key, before + length, "sha256")
    mac.update(payload)
    return mac.digest()
