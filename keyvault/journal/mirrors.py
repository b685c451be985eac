"""Mirrors of the key journal: folders at other places that get a copy of this host's segments before an act commits.

A mirror holds the segments octet for octet, so it is read as any folder of the journal is. Writing goes on at the end
of what it has (``copies``): a mirror that was away catches up first. Each mirror has a thread, because a folder of
another host may hang; ``KEY_JOURNAL_MIRRORS_NEEDED`` says for how many an act waits: none, one, or all.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from django.conf import settings

from keyvault.journal import copies
from keyvault.journal.copies import Lack, Segment

logger = logging.getLogger(__name__)


class Needed(StrEnum):
    """How many mirrors must have a record before its act commits."""

    NONE = "none"
    ONE = "one"
    ALL = "all"


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
        self._whole_before: Path | None = None  # the segment before which it had all; others may have begun that one
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
            if self._whole_before != job.segment.path:
                paths = sorted(job.segment.path.parent.glob(job.pattern))
                earlier = [path for path in paths if path.name < job.segment.path.name]
                copies.catch_up([Segment(path, path.stat().st_size) for path in earlier], self.folder)
            copies.catch_up([job.segment], self.folder)
        except OSError as error:
            self._whole_before = None
            return self._told(str(error))
        self._whole_before = job.segment.path
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
    """How a mirror stands: which segments of this host it lacks, also in part; ``trouble`` if it cannot be looked at.

    ``written_at`` is the Unix time when the newest of its copies was last written; 0 if it has none, or with trouble.
    """

    folder: Path
    lacks: tuple[Lack, ...] = ()
    written_at: float = 0.0
    trouble: str = ""

    @property
    def octets(self) -> int:
        return sum(lack.octets for lack in self.lacks)

    @property
    def records(self) -> int:
        return sum(lack.records for lack in self.lacks)


def standings(segments: Sequence[Segment]) -> list[Standing]:
    """Return how each mirror stands; those that hang are waited for as long as an act would."""
    looks = [_look(segments, folder) for folder in folders()]
    deadline = time.monotonic() + settings.KEY_JOURNAL_MIRROR_S
    for look in looks:
        look.join(max(0.0, deadline - time.monotonic()))
    return [look.found for look in looks]


class _Look(threading.Thread):
    """Looks at one mirror; ``found`` says that it gave no answer, until it does."""

    def __init__(self, segments: Sequence[Segment], folder: Path) -> None:
        super().__init__(name=f"look at journal mirror {folder}", daemon=True)
        self._segments, self._folder = segments, folder
        self.found = Standing(folder, trouble=f"no answer within {settings.KEY_JOURNAL_MIRROR_S:g} s")

    def run(self) -> None:
        try:
            seen = copies.looked_at(self._segments, self._folder)
            last = max((one.written_at for one in seen), default=0.0)
            self.found = Standing(self._folder, tuple(one for one in seen if one.octets), last)
        except OSError as error:
            self.found = Standing(self._folder, trouble=str(error))


_looks: dict[Path, _Look] = {}  # by folder; of this process


def _look(segments: Sequence[Segment], folder: Path) -> _Look:
    """Begin to look at a mirror; the last look, if that hangs still: one thread waits for a host that is gone."""
    last = _looks.get(folder)
    if last is not None and last.is_alive():
        return last
    look = _looks[folder] = _Look(segments, folder)
    look.start()
    return look


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
