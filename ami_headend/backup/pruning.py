"""Deletes expired backups: only their own files, only in the folder of backups, and only if the master key proves
them.

The row of a backup says where it lies, but anybody who can write to the database can write rows. So the folder itself
must prove it: it lies directly under the folder of backups, has the backup's name, and its manifest is proven.
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
from keyvault import backups, master_key
from keyvault.audit.chain import Actor
from keyvault.backups import BackupError
from keyvault.models import Backup

_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}", re.ASCII)
_DRAFT = re.compile(r"\.\d{8}T\d{6}Z-[0-9a-f]{4}\.[a-z0-9_]{8}", re.ASCII)  # the pattern of tempfile for drafts
_NEW_S = 60
_IN_PLACE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def prune(actor: Actor, now: datetime, names: list[str], folder: Path, *, dry_run: bool) -> list[tuple[Backup, str]]:
    """Delete expired or named backups from ``folder``; return each with what was done.

    The newest complete backup always stays. BackupError if a named one does not exist, is the newest complete one, or
    its files must not or cannot be deleted; that one and those after it stay.
    """
    chosen = _chosen(now, names)
    pruned = []
    for one in chosen:
        owned = _Folder.of(one, folder)
        if dry_run:
            pruned.append(
                (
                    one,
                    "to be deleted" if owned else "to be removed from the list: its files are not here",
                )
            )
            continue
        result = owned.delete() if owned else "removed from the list; its files are not here"
        backups.forget(one, actor, now, result)
        pruned.append((one, result))
    return pruned


def _chosen(now: datetime, names: list[str]) -> list[Backup]:
    kept = list(backups.retained())
    newest = max((one for one in kept if one.finished_at is not None), key=lambda one: one.made_at, default=None)
    unknown = set(names) - {one.name for one in kept}
    if unknown:
        raise BackupError(f"there is no backup {', '.join(sorted(unknown))}: see manage.py backup list")
    if newest is not None and newest.name in names:
        raise BackupError(f"{newest} is the newest complete backup, so it stays. Make another one first")
    return [one for one in kept if (one.name in names if names else one.keep_until <= now) and one != newest]


class _Folder:
    """The folder of one backup with a proven manifest; or the remains of a killed pruning."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, backup: Backup, folder: Path) -> "_Folder | None":
        """Return the folder; None if it is on another host or does not exist. BackupError if it is not proven ours."""
        host, _, place = backup.place.partition(":")
        if host != socket.gethostname():
            return None
        if not _NAME.fullmatch(backup.name):
            raise BackupError(f"{backup.name!r} is not a name of manage.py backup: nothing is deleted for it")
        path = folder.absolute() / backup.name
        if Path(place) != path and os.path.lexists(place):
            raise BackupError(
                f"{backup} is recorded at {place}, which is not in {folder}: if that is right, name the folder of "
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
            raise BackupError(f"{path} is not a folder that manage.py backup made: it stays unchanged")
        strange = sorted(_names(path) - {DUMP, MANIFEST})
        if strange:
            raise BackupError(f"{path} holds {strange[0]!r}, which is not a file of a backup: it stays unchanged")
        if not _names(path):
            return  # a pruning that was killed before its last step
        if (path / MANIFEST).is_symlink():
            raise BackupError(f"{path / MANIFEST} is a link: it stays unchanged")
        found = manifest.read(path, master_key.provider().fresh())
        if found.name != backup.name:
            raise BackupError(f"{path} is backup {found.name} by its manifest: it stays unchanged")

    def delete(self) -> str:
        """Delete the folder, and the remains of a killed pruning."""
        doomed = self.path.with_name(f".{self.path.name.removeprefix('.').removesuffix('.pruned')}.pruned")
        try:
            if self.path != doomed:
                self.path.rename(doomed)  # from here on it is no complete backup, whatever becomes of its files
            remove(doomed)
        except OSError as error:
            raise BackupError(f"cannot delete {doomed}: {error.strerror}") from None
        return "deleted"


def sweep(folder: Path) -> list[Path]:
    """Delete the remains of killed backups in a folder and return them. A backup in progress holds its lock."""
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
    """Whether it may have been made just now and not locked yet."""
    return abs(time.time() - path.stat().st_mtime) < _NEW_S


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder until the block or the process ends; False if another process holds it."""
    descriptor = os.open(folder, _IN_PLACE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Delete a backup's files by name in exactly that folder, without following links, and the folder. OSError if it
    fails.
    """
    descriptor = os.open(folder, _IN_PLACE)
    try:
        for name in (DUMP, MANIFEST):  # the manifest goes last, because it proves the folder
            if name in os.listdir(descriptor):  # noqa: PTH208 - of that very folder, whatever stands at its path
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    folder.rmdir()
