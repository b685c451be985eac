"""Mirrors of the key journal: folders at other places that get a copy of this host's segments before an act commits.

A mirror holds the segments octet for octet, so it is read as any folder of the journal is. Writing goes on at the end
of what it has: a mirror that was away catches up first. Each mirror has a thread, because a folder of another host may
hang; ``KEY_JOURNAL_MIRRORS_NEEDED`` says for how many an act waits: none, one, or all.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from django.conf import settings

from ami_headend.core.disk import sync_folder

logger = logging.getLogger(__name__)

_PIECE_OCTETS = 1 << 20


class Needed(StrEnum):
    """How many mirrors must have a record before its act commits."""

    NONE = "none"
    ONE = "one"
    ALL = "all"


class MirrorError(OSError):
    """A mirror that cannot take what it lacks; the message says why."""


class Segment(NamedTuple):
    """A segment of this host, and how many of its octets are on the disk for good: what follows may be undone."""

    path: Path
    octets: int


def copy(segment: Segment, mirror: Path) -> int:
    """Bring a mirror's copy of a segment up to its octets, synced; return how many it lacked.

    Safe beside other processes that do the same: all write the same octets to the same places. MirrorError if the
    mirror has more than the segment, OSError if it cannot be written.
    """
    target = mirror / segment.path.name
    is_new = not target.exists()
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        has = at = os.fstat(descriptor).st_size
        with segment.path.open("rb", buffering=0) as ours:
            if has > os.fstat(ours.fileno()).st_size:
                raise MirrorError(
                    f"{target} is longer than {segment.path}: this host's disk was set back. Move the latter away, so "
                    "that another segment is begun, and keep both"
                )
            while piece := os.pread(ours.fileno(), min(_PIECE_OCTETS, max(0, segment.octets - at)), at):
                at += os.pwrite(descriptor, piece, at)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        sync_folder(mirror)
    return at - has


def lacking(segments: Iterable[Segment], mirror: Path) -> list[Segment]:
    """Return the segments that a mirror lacks, or a part of them. OSError if it cannot be looked at."""
    if not mirror.is_dir():  # never made: an empty place under a mount point is no mirror
        raise MirrorError(f"there is no folder {mirror}: it is not mounted, or was removed")
    return [one for one in segments if _size(mirror / one.path.name) < one.octets]


def catch_up(segments: Iterable[Segment], mirror: Path) -> int:
    """Bring a mirror up to all of these segments; return how many octets it lacked. OSError as ``copy``."""
    return sum(copy(one, mirror) for one in lacking(segments, mirror))


class _Job(NamedTuple):
    """A segment that has grown, the pattern of all of this host, and where the outcome goes: no text if well."""

    segment: Segment
    pattern: str
    outcome: "queue.SimpleQueue[tuple[Path, str]]"


class _Mirror(threading.Thread):
    """Copies to one mirror, one job after the other."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name=f"journal mirror {folder}", daemon=True)
        self.folder = folder
        self.pid = os.getpid()
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._busy_since: float | None = None
        self._is_behind = True  # until it has caught up once
        self._trouble = ""

    def hangs(self) -> bool:
        """Whether what it does takes longer than an act would wait."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > settings.KEY_JOURNAL_MIRROR_S

    def submit(self, job: _Job) -> None:
        self._jobs.put(job)

    def run(self) -> None:
        while True:
            jobs = [self._jobs.get()]
            self._busy_since = time.monotonic()
            with suppress(queue.Empty):
                while True:  # what came meanwhile is done with it
                    jobs.append(self._jobs.get_nowait())
            last = {job.segment.path: job for job in jobs}
            trouble = next(filter(None, [self._do(job) for job in last.values()]), "")
            for job in jobs:
                job.outcome.put((self.folder, trouble))
            self._busy_since = None

    def _do(self, job: _Job) -> str:
        try:
            if self._is_behind:
                paths = sorted(job.segment.path.parent.glob(job.pattern))
                before = [Segment(path, _size(path)) for path in paths if path.name < job.segment.path.name]
                catch_up(before, self.folder)
            catch_up([job.segment], self.folder)
        except OSError as error:
            self._is_behind = True
            return self._told(_said(error))
        self._is_behind = False
        return self._told("")

    def _told(self, trouble: str) -> str:
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble:
                logger.error("the mirror %s of the key journal gets nothing: %s", self.folder, trouble)
            else:
                logger.warning("the mirror %s of the key journal is whole again", self.folder)
        return trouble


_mirrors: dict[Path, _Mirror] = {}  # by folder; of this process


def folders() -> list[Path]:
    """Return the folders of the mirrors, as they are set."""
    return [Path(text).absolute() for text in settings.KEY_JOURNAL_MIRRORS]


class Standing(NamedTuple):
    """How many octets of this host's segments a mirror lacks; ``trouble`` if it cannot be looked at."""

    folder: Path
    octets: int
    trouble: str


def standings(segments: Sequence[Segment]) -> list[Standing]:
    """Return how each mirror stands; one that hangs is waited for as long as an act would."""
    return [_standing(segments, folder) for folder in folders()]


def _standing(segments: Sequence[Segment], folder: Path) -> Standing:
    found = [Standing(folder, 0, f"no answer within {settings.KEY_JOURNAL_MIRROR_S:g} s")]

    def look() -> None:
        try:
            octets = sum(one.octets - _size(folder / one.path.name) for one in lacking(segments, folder))
            found.append(Standing(folder, octets, ""))
        except OSError as error:
            found.append(Standing(folder, 0, _said(error)))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(settings.KEY_JOURNAL_MIRROR_S)
    return found[-1]


def ship(segment: Segment, pattern: str) -> str:
    """Copy what a segment has now to every mirror; say what is wrong if fewer have it in time than are needed.

    ``pattern`` finds the earlier segments of this host beside it, for mirrors that lack some. With ``none`` nobody
    waits, and an empty text is returned at once.
    """
    wanted = Needed(settings.KEY_JOURNAL_MIRRORS_NEEDED)
    outcome: queue.SimpleQueue[tuple[Path, str]] = queue.SimpleQueue()
    faults: dict[Path, str] = {}
    asked = []
    for folder in folders():
        mirror = _mirror(folder)
        if mirror.hangs():
            faults[folder] = "it hangs"
            continue
        mirror.submit(_Job(segment, pattern, outcome))
        asked.append(folder)
    count = len(asked) + len(faults)
    needed = {Needed.NONE: 0, Needed.ONE: min(1, count), Needed.ALL: count}[wanted]
    return "" if not needed else _wait(outcome, asked, needed, faults)


def _wait(
    outcome: "queue.SimpleQueue[tuple[Path, str]]", asked: list[Path], needed: int, faults: dict[Path, str]
) -> str:
    deadline = time.monotonic() + settings.KEY_JOURNAL_MIRROR_S
    done = 0
    waiting = set(asked)
    while done < needed and waiting and done + len(waiting) >= needed:
        with suppress(queue.Empty):
            folder, trouble = outcome.get(timeout=max(0.0, deadline - time.monotonic()))
            waiting.discard(folder)
            if trouble:
                faults[folder] = trouble
            else:
                done += 1
            continue
        faults |= dict.fromkeys(waiting, f"no answer within {settings.KEY_JOURNAL_MIRROR_S:g} s")
        break
    if done >= needed:
        return ""
    return "; ".join(f"{folder}: {trouble}" for folder, trouble in sorted(faults.items()))


def _mirror(folder: Path) -> _Mirror:
    found = _mirrors.get(folder)
    if found is None or found.pid != os.getpid():  # threads do not survive a fork
        found = _mirrors[folder] = _Mirror(folder)
        found.start()
    return found


def _said(error: OSError) -> str:
    return str(error) if isinstance(error, MirrorError) else error.strerror or str(error)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
