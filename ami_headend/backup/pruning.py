"""Deletes expired backups: only their own files, in the folder of backups, and only if the master key proves them.

The row of a backup says where it lies, and whoever may write to the database writes rows. So the folder is asked: it
lies directly under the folder of backups, has the backup's name, and its manifest is proven by the master key.
"""

import fcntl
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from ami_headend.backup import manifest
from ami_headend.backup.manifest import DUMP, MANIFEST
from keyvault import master_key
from keyvault.audit.chain import Actor
from keyvault.master_key import backups
from keyvault.master_key.backups import BackupError
from keyvault.models import Backup

_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}", re.ASCII)
_DRAFT = re.compile(r"\.\d{8}T\d{6}Z-[0-9a-f]{4}\.[a-z0-9_]{8}", re.ASCII)  # as tempfile names what making begins
_NEW_S = 60
_IN_PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def prune(actor: Actor, now: datetime, names: list[str], folder: Path, *, dry_run: bool) -> list[tuple[Backup, str]]:
    """Delete the backups whose keeping has ended, or those named, from ``folder``; gives each and what becomes of it.

    The newest whole one is always kept. BackupError where a named one is not kept, is the newest whole one, or its
    files must not be deleted, or cannot: that one and those after it stay as they are.
    """
    chosen = _chosen(now, names)
    pruned = []
    for one in chosen:
        owned = _Folder.of(one, folder)
        if dry_run:
            pruned.append((one, "to be deleted" if owned else "to be forgotten: its files are not here"))
            continue
        result = owned.delete() if owned else "forgotten; its files are not here"
        backups.forget(one, actor, now, result)
        pruned.append((one, result))
    return pruned


def _chosen(now: datetime, names: list[str]) -> list[Backup]:
    kept = list(backups.retained())
    newest = max((one for one in kept if one.finished_at is not None), key=lambda one: one.made_at, default=None)
    unknown = set(names) - {one.name for one in kept}
    if unknown:
        raise BackupError(f"there is no kept backup {', '.join(sorted(unknown))}: see manage.py backup list")
    if newest is not None and newest.name in names:
        raise BackupError(f"{newest} is the newest whole backup: it is kept. Make another first")
    return [one for one in kept if (one.name in names if names else one.keep_until <= now) and one != newest]


class _Folder:
    """The folder of one backup, whose manifest is proven; or what an earlier pruning that was killed left of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, backup: Backup, folder: Path) -> "_Folder | None":
        """None where it is on another host, or there is nothing. BackupError where what is there is not proven ours."""
        host, _, place = backup.place.partition(":")
        if host != socket.gethostname():
            return None
        if not _NAME.fullmatch(backup.name):
            raise BackupError(f"{backup.name!r} is no name that manage.py backup gives: nothing is deleted for it")
        path = folder.absolute() / backup.name
        if Path(place) != path and os.path.lexists(place):
            raise BackupError(
                f"{backup} says that it lies at {place}, which is not in {folder}: if that is so, name the folder of "
                "backups that it lies in (--to); nothing is deleted"
            )
        for found in (path, path.with_name(f".{backup.name}.pruned")):
            if os.path.lexists(found):
                cls._check(found, backup)
                return cls(found)
        return None

    @staticmethod
    def _check(path: Path, backup: Backup) -> None:
        if path.is_symlink() or not path.is_dir():
            raise BackupError(f"{path} is no folder that manage.py backup has made: it is left as it is")
        strange = sorted(_names(path) - {DUMP, MANIFEST})
        if strange:
            raise BackupError(f"{path} holds {strange[0]!r}, which is no file of a backup: it is left as it is")
        if not _names(path):
            return  # a pruning that was killed before its last step
        if (path / MANIFEST).is_symlink():
            raise BackupError(f"{path / MANIFEST} is a link: it is left as it is")
        found = manifest.read(path, master_key.provider().fresh())
        if found.name != backup.name:
            raise BackupError(f"{path} is backup {found.name} by its manifest: it is left as it is")

    def delete(self) -> str:
        """Delete the folder, and what a pruning that was killed left of it."""
        doomed = self.path.with_name(f".{self.path.name.removeprefix('.').removesuffix('.pruned')}.pruned")
        try:
            if self.path != doomed:
                self.path.rename(doomed)  # it is no whole backup from here on, whatever becomes of its files
            remove(doomed)
        except OSError as error:
            raise BackupError(f"cannot delete {doomed}: {error.strerror}") from None
        return "deleted"


def sweep(folder: Path) -> list[Path]:
    """Delete what killed processes left of backups in a folder; gives what. One that is being made holds its lock."""
    swept = []
    for path in folder.iterdir():
        if not _DRAFT.fullmatch(path.name) or path.is_symlink() or _is_new(path):
            continue
        with held(path) as is_ours:
            if is_ours and _names(path) <= {DUMP, MANIFEST}:
                remove(path)
                swept.append(path)
    return swept


def _names(path: Path) -> set[str]:
    return {found.name for found in path.iterdir()}


def _is_new(path: Path) -> bool:
    """Whether it may have been made just now, and not locked yet."""
    return abs(time.time() - path.stat().st_mtime) < _NEW_S


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """The lock of a folder until the block ends, or the process; False where another process has it."""
    descriptor = os.open(folder, _IN_PLACE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Delete a backup's files by their names in that very folder, following no link, and the folder; else OSError."""
    descriptor = os.open(folder, _IN_PLACE)
    try:
        for name in (DUMP, MANIFEST):  # the manifest proves the folder: last
            if name in os.listdir(descriptor):  # noqa: PTH208 - of that very folder, whatever stands at its path
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    folder.rmdir()
