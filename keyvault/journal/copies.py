"""Copies of this host's segments in one mirror: how much of each it has, whether that is the same, and the rest to it.

Nothing is written to a copy, and nothing counts as copied, unless what it has is the beginning of the segment: records
are chained by their macs, so the ends say it for all before.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ami_headend.core.disk import sync_folder
from keyvault.journal.segments import record_ends

_PIECE_OCTETS = 1 << 20
_COMPARED_OCTETS = 1 << 16  # of a copy that may end within a record
_COMPARED_AT_END_OCTETS = 64  # the last mac, and more


class MirrorError(OSError):
    """A mirror that cannot take what it lacks; the message says why."""


class PartedError(MirrorError):
    """A copy that is not the beginning of its segment: others of its records would count for those that it lacks."""

    def __init__(self, target: Path, segment: Path) -> None:
        super().__init__(
            f"{target} is not the beginning of {segment}: this host's disk was set back, or the copy was damaged. "
            "manage.py journal mirror keeps the copy, and copies all of this host's under another name"
        )


class Segment(NamedTuple):
    """A segment of this host, and how many of its octets are on the disk for good: what follows may be undone."""

    path: Path
    octets: int


class Lack(NamedTuple):
    """A segment, and how many of its octets a mirror has; ``written_at`` is when it was last written there."""

    segment: Segment
    has: int
    written_at: float

    @property
    def octets(self) -> int:
        return max(0, self.segment.octets - self.has)

    @property
    def records(self) -> int:
        """Return how many records it lacks, also in part; reads the lengths of all records before them."""
        if not self.octets:
            return 0
        with self.segment.path.open("rb") as file:
            return sum(self.has < end <= self.segment.octets for end in record_ends(file))


def copy(segment: Segment, mirror: Path) -> int:
    """Bring a mirror's copy of a segment up to its octets, synced; return how many it lacked.

    Safe beside other processes that do the same: all write the same octets to the same places. PartedError if the copy
    is not the beginning of the segment, MirrorError if it cannot be written.
    """
    target = mirror / segment.path.name
    is_new = not target.exists()
    try:
        with segment.path.open("rb", buffering=0) as ours, open(target, "r+b", 0, opener=_made) as theirs:
            has = at = _beginning(theirs.fileno(), ours.fileno(), segment, target)
            while piece := os.pread(ours.fileno(), min(_PIECE_OCTETS, max(0, segment.octets - at)), at):
                at += os.pwrite(theirs.fileno(), piece, at)
            os.fsync(theirs.fileno())
        if is_new:
            sync_folder(mirror)
    except OSError as error:
        raise _named(error, target) from None
    return at - has


def looked_at(segments: Iterable[Segment], mirror: Path) -> list[Lack]:
    """Return how much a mirror has of each of these segments. MirrorError as ``copy``."""
    if not mirror.is_dir():  # never made: an empty place under a mount point is no mirror
        raise MirrorError(f"there is no folder {mirror}: it is not mounted, or was removed")
    return [_looked_at(segment, mirror / segment.path.name) for segment in segments]


def catch_up(segments: Iterable[Segment], mirror: Path) -> int:
    """Bring a mirror up to all of these segments; return how many octets it lacked. MirrorError as ``copy``."""
    return sum(copy(one.segment, mirror) for one in looked_at(segments, mirror) if one.octets)


def parted(segments: Iterable[Segment], mirror: Path) -> list[Segment]:
    """Return the segments whose copies are not their beginnings, be it in the middle alone: all octets are compared.

    MirrorError if the mirror cannot be looked at.
    """
    return [segment for segment in segments if _is_parted(segment, mirror)]


def _is_parted(segment: Segment, mirror: Path) -> bool:
    target = mirror / segment.path.name
    try:
        [found] = looked_at([segment], mirror)
        if not found.has:
            return False
        with segment.path.open("rb", buffering=0) as ours, target.open("rb", buffering=0) as theirs:
            files = (ours.fileno(), theirs.fileno())
            return not all(_are_alike(*files, at, found.has) for at in range(0, found.has, _PIECE_OCTETS))
    except PartedError:
        return True
    except OSError as error:
        raise _named(error, target) from None


def _are_alike(ours: int, theirs: int, at: int, end: int) -> bool:
    octets = min(_PIECE_OCTETS, end - at)
    return os.pread(ours, octets, at) == os.pread(theirs, octets, at)


def _looked_at(segment: Segment, target: Path) -> Lack:
    try:
        if not target.exists():
            return Lack(segment, 0, 0.0)
        with segment.path.open("rb", buffering=0) as ours, target.open("rb", buffering=0) as theirs:
            has = _beginning(theirs.fileno(), ours.fileno(), segment, target)
            return Lack(segment, has, os.fstat(theirs.fileno()).st_mtime)
    except OSError as error:
        raise _named(error, target) from None


def _beginning(theirs: int, ours: int, segment: Segment, target: Path) -> int:
    """Return how many octets a copy has. PartedError if they are not those that the segment begins with."""
    has = os.fstat(theirs).st_size  # first: who writes beside us writes to the segment before the copy
    size = os.fstat(ours).st_size
    start = max(0, has - (_COMPARED_AT_END_OCTETS if has == size else _COMPARED_OCTETS))
    if has > size or os.pread(theirs, has - start, start) != os.pread(ours, has - start, start):
        raise PartedError(target, segment.path)
    return has


def _made(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o600)


def _named(error: OSError, target: Path) -> MirrorError:
    """Name the file, which errors of reading and writing do not."""
    if isinstance(error, MirrorError):
        return error
    return MirrorError(f"{error.filename or target}: {error.strerror or error}")
