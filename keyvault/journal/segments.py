"""One file of the key journal: how its records stand in it, and what is found where it ends badly.

A segment is a head line, then records: length of the payload (4 octets, big endian), payload, and
HMAC-SHA-256 (32 octets) over the mac before it, length and payload. The first record is the header:
CBOR {"id", "host", "made_at", "version", "key"}; its "key" is the segment's own MAC key, wrapped under
the master key. All others are CBOR [number, Unix microseconds, kind, body].
"""

import hmac
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
    """A file that is no segment, or whose header is not in the form that we write."""


class TornHeaderError(SegmentError):
    """A segment that ends within its header: the process died that began it, and nothing was written to it."""


class SegmentHeader(NamedTuple):
    """What a segment says of itself: its id (16 octets), host, and MAC key wrapped under a master key version."""

    id: bytes
    host: str
    made_at: int
    version: int
    wrapped_key: bytes


class JournalRecord(NamedTuple):
    """One act: its number (one sequence for all hosts), Unix microseconds, kind, and what the kind says."""

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
    TORN = "torn"  # a record cut short: its process died before it was on the disk, and its act was not done
    DAMAGED = "damaged"  # octets were changed after they had been written


class FoundRecord(NamedTuple):
    """A record where it stands: where it ends, and the mac that the next one goes on from."""

    end: int
    mac: bytes
    payload: bytes


def encode_header(header: SegmentHeader) -> bytes:
    """The payload of a segment's first record."""
    return cbor2.dumps(header._asdict(), canonical=True)


def decode_header(payload: bytes) -> SegmentHeader:
    """The inverse; SegmentError where it is another form."""
    try:
        header = SegmentHeader(**cbor2.loads(payload))
    except (cbor2.CBORDecodeError, TypeError, ValueError):
        raise SegmentError("its header is not in the form that this head-end writes") from None
    if not isinstance(header.id, bytes) or not isinstance(header.wrapped_key, bytes) or type(header.version) is not int:
        raise SegmentError("its header is not in the form that this head-end writes")
    return header


def encode_record(record: JournalRecord) -> bytes:
    """The payload of a record."""
    return cbor2.dumps(list(record), canonical=True)


def decode_record(payload: bytes) -> JournalRecord:
    """The inverse; SegmentError where it is another form."""
    try:
        record = JournalRecord(*cbor2.loads(payload))
    except (cbor2.CBORDecodeError, TypeError, ValueError):
        raise SegmentError("a record is not in the form that this head-end writes") from None
    if type(record.number) is not int or type(record.at_us) is not int or not isinstance(record.kind, str):
        raise SegmentError("a record is not in the form that this head-end writes")
    return record


def framed(key: bytes, before: bytes, payload: bytes) -> tuple[bytes, bytes]:
    """A payload as it stands in the file, and its mac."""
    length = len(payload).to_bytes(_LENGTH_OCTETS, "big")
    mac = _mac(key, before, length, payload)
    return length + payload + mac, mac


def read_header(file: IO[bytes]) -> tuple[SegmentHeader, int]:
    """The header of a segment, its mac not checked yet, and where it begins; SegmentError where there is none."""
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
    """The records of a segment from some place on, each checked against its mac; then ``end`` says how it ends."""

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
        """What ends within a record: a write that was cut short, or never reached the disk and reads as zeros."""
        if 0 < length <= PAYLOAD_MAX_OCTETS:
            return End.TORN
        rest = prefix + self._file.read()
        return End.DAMAGED if any(rest) and len(rest) >= _LENGTH_OCTETS else End.TORN


def unchecked(file: IO[bytes], start: int) -> Iterator[bytes]:
    """The payloads of a segment after its header whose key is not to be had: nothing tells whether they are whole."""
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
