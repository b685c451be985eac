"""Writes to the journal: appends to the newest segment of this host, and syncs it to the disk.

All processes of a host share its segments; a lock on a file lets one write at a time. If a segment is damaged at its
end, or its key is under an older master key version, it stays as it is, and another one is begun.
"""

import fcntl
import logging
import os
import re
import secrets
import socket
import stat
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple

from django.conf import settings

from ami_headend.core.disk import sync_folder
from keyvault import master_key
from keyvault.journal import mirrors
from keyvault.journal.copies import Segment
from keyvault.journal.segments import (
    HEAD_LINE,
    ID_OCTETS,
    NO_MAC,
    End,
    JournalRecord,
    Scan,
    SegmentError,
    SegmentHeader,
    decode_record,
    encode_header,
    encode_record,
    framed,
    read_header,
    unchecked,
)
from keyvault.master_key import MasterKeyError, MasterKeys, Purpose, UnwrapError

logger = logging.getLogger(__name__)

SUFFIX = ".journal"
SEGMENT_OCTETS = 16 * 1024 * 1024  # then another is begun, because a starting process reads the newest one
_KEY_OCTETS = 32
_DATE_DIGITS = 8  # after the host's name
_OUT_OF_ORDER = 10_000  # concurrent acts may be written in another order than that of their numbers


class JournalError(MasterKeyError):
    """The key journal cannot be used: acts on keys stop, as without the master key. Nothing was done."""


class _Place(NamedTuple):
    """The place for the next record, after the last one of this process; valid while the file has that size."""

    path: Path
    inode: int
    version: int
    key: bytes
    size: int
    mac: bytes
    number: int  # the highest known number of this host

    def __repr__(self) -> str:
        return f"<{self.path} at {self.size}>"


_last: dict[Path, _Place] = {}  # by folder; used only under the lock


def write(record: JournalRecord) -> None:
    """Append a record, and return once it is on the disk, and on as many mirrors as are needed.

    JournalError if it is not, or not for certain. Where a mirror failed, the record stands on the disk of this host: as
    after a crash before the commit, the journal then tells of an act that was not done.
    """
    folder = _folder()
    try:
        with _alone(folder):
            place = _place(folder)
            _check_number(folder, record.number, place.number)
            octets, mac = framed(place.key, place.mac, encode_record(record))
            size = _append(place.path, octets, place.size)
            _last[folder] = place._replace(size=size, mac=mac, number=max(place.number, record.number))
            trouble = mirrors.ship(Segment(place.path, size), _pattern())
    except OSError as error:
        raise _cannot_write(folder, error) from None
    if trouble:
        raise JournalError(
            f"the key journal is not on {settings.KEY_JOURNAL_MIRRORS_NEEDED} of its mirrors ({trouble}): nothing was "
            "done. Mend them, or need fewer (KEY_JOURNAL_MIRRORS_NEEDED), and try again"
        )


def folders() -> list[Path]:
    """Return where the journal of this host is read: its own folder, and its mirrors."""
    return [_folder(), *mirrors.folders()]


def own_segments() -> list[Segment]:
    """Return this host's segments with what is on the disk of each, the oldest first. JournalError as ``write``."""
    folder = _folder()
    try:
        with _alone(folder):
            return [Segment(path, path.stat().st_size) for path in sorted(folder.glob(_pattern()))]
    except OSError as error:
        raise _cannot_write(folder, error) from None


def set_aside(segment: Segment) -> Path:
    """Give a segment another name, under which mirrors get it whole beside a copy that parted from it; return its path.

    Writing goes on at its end. JournalError as ``write``.
    """
    folder = _folder()
    try:
        with _alone(folder):
            # A name that no mirror has: to look there would hold acts up while one hangs.
            aside = segment.path.rename(folder / f"{segment.path.stem}-{secrets.token_hex(4)}{SUFFIX}")
            sync_folder(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    return aside


def _check_number(folder: Path, number: int, known: int) -> None:
    """Refuse numbers that go far back: a replay of the records after a backup would skip such an act."""
    if number < known - _OUT_OF_ORDER:
        raise JournalError(
            f"the key journal in {folder} went to number {known}, and the database gives number {number}: its sequence "
            "was set back, or it is another database. Nothing was done. Restore it (manage.py restore); for a head-end "
            "that is really new, move that folder away first"
        )


def probe() -> Path:
    """Try to write to the folder of the journal, and return it. JournalError if that fails."""
    folder = _folder()
    try:
        with _alone(folder):
            descriptor = os.open(folder / f".{_host()}.probe", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(descriptor, b"probe")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
                (folder / f".{_host()}.probe").unlink()
    except OSError as error:
        raise _cannot_write(folder, error) from None
    return folder


def segment_key(header: SegmentHeader, master: MasterKeys) -> bytes:
    """Return the MAC key of a segment. UnwrapError if its header was changed, or the master key is a different one."""
    return master.unwrap(header.wrapped_key, Purpose.JOURNAL_KEY, header.id)


def _folder() -> Path:
    return Path(settings.KEY_JOURNAL_DIR).absolute()


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:60] or "host"


def _cannot_write(folder: Path, error: OSError) -> JournalError:
    return JournalError(
        f"the key journal in {folder} cannot be written ({error.strerror}): nothing was done. Make room or mend the "
        "folder (KEY_JOURNAL_DIR), and try again"
    )


def _pattern() -> str:
    """Return a pattern of this host's segments; those of a host whose name begins with ours do not match."""
    return f"{_host()}-{'[0-9]' * _DATE_DIGITS}T*{SUFFIX}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the segments of this host against other processes and threads."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder.parent)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o022:
        raise JournalError(f"{folder} has mode {mode:04o}: others may write to it. chmod 700 {folder}")
    descriptor = os.open(folder / f".{_host()}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process that was forked meanwhile has the descriptor, too
        os.close(descriptor)


def _place(folder: Path) -> _Place:
    """Find the place for the next record: the last segment used, else the newest usable one, else a new one."""
    version = master_key.current().active_version
    last = _last.get(folder)
    if last is not None and last.version == version:
        with suppress(FileNotFoundError):
            found = last.path.stat()
            if found.st_ino == last.inode and found.st_size == last.size < SEGMENT_OCTETS:
                return last
    newest = max(folder.glob(_pattern()), default=None)
    place = None if newest is None else _end_of(newest, version)
    known = 0 if last is None else last.number
    return place or _begin(folder, max(known, 0 if newest is None else _last_number(newest)))


def _end_of(path: Path, version: int) -> _Place | None:
    """Return the end of a segment; None if another one must be begun."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            header, start = read_header(file)
            if header.version != version or found.st_size >= SEGMENT_OCTETS:
                return None
            key = segment_key(header, master_key.current())
            scan = Scan(file, key, start, NO_MAC)
            payloads = deque(scan, maxlen=1)
    except (SegmentError, UnwrapError) as error:
        logger.error("%s is left as it is, and another segment begun: %s", path, error)
        return None
    if scan.end is not End.CLEAN:
        logger.warning("%s ends %s at octet %d: it is left so, and another begun", path, scan.end, scan.good_to)
        return None
    number = 0 if scan.good_to == start else _number(payloads[0].payload)
    return _Place(path, found.st_ino, version, key, scan.good_to, scan.mac, number)


def _last_number(path: Path) -> int:
    """Return the number of the last complete record in a segment, without checking its mac; 0 if there is none."""
    try:
        with path.open("rb") as file:
            _, start = read_header(file)
            payloads = deque(unchecked(file, start), maxlen=1)
    except SegmentError:
        return 0
    return _number(payloads[0]) if payloads else 0


def _number(payload: bytes) -> int:
    """Return the number in a record; 0 for a header, or another form."""
    try:
        return decode_record(payload).number
    except SegmentError:
        return 0


def _begin(folder: Path, number: int) -> _Place:
    """A new segment under the active master key version, after one that went to a number."""
    master = master_key.provider().fresh()
    identity, key = secrets.token_bytes(ID_OCTETS), secrets.token_bytes(_KEY_OCTETS)
    wrapped = master.wrap(key, Purpose.JOURNAL_KEY, identity)
    header = SegmentHeader(identity, socket.gethostname(), time.time_ns() // 1000, master.active_version, wrapped)
    octets, mac = framed(key, NO_MAC, encode_header(header))
    path = folder / f"{_host()}-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}{SUFFIX}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.close(descriptor)
    try:
        size = _append(path, HEAD_LINE + octets, 0)
    except OSError:
        path.unlink()
        raise
    sync_folder(folder)
    return _Place(path, path.stat().st_ino, header.version, key, size, mac, number)


def _append(path: Path, octets: bytes, size: int) -> int:
    """Write octets at ``size``, the end, to the disk; return the new end. A partial write is undone."""
    with path.open("r+b", buffering=0) as file:
        try:
            _write_all(file, octets, size)
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(size)
            raise
    return size + len(octets)


def _write_all(file: IO[bytes], octets: bytes, at: int) -> None:
    file.seek(at)
    left = memoryview(octets)
    while left:
        left = left[file.write(left) :]
