"""The files of the archive: in a folder, or in a bucket that speaks S3 (ARCHIVE_URL).

Credentials of a bucket come from where the AWS libraries look for them: the environment, or a file.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
from django.conf import settings

_BLOCK = 8 * 2**20
_BEING_MADE = ".being-made-"


class ArchiveError(Exception):
    """The archive cannot be used, or does not hold what it should; the message says what to do."""


class DamagedError(ArchiveError):
    """A file is not there, or not as it was written."""


def is_in_use() -> bool:
    """Whether there is an archive: ARCHIVE_URL is set."""
    return bool(settings.ARCHIVE_URL)


class Store:
    """A folder or a bucket."""

    def __init__(self, url: str) -> None:
        try:
            self.filesystem, self.root = pafs.FileSystem.from_uri(url)
        except (pa.ArrowInvalid, OSError) as error:
            raise ArchiveError(
                f"ARCHIVE_URL: {_first_line(error)} (such as file:///srv/archive or s3://bucket)"
            ) from None
        self.is_folder = isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, name: str) -> str:
        """Return the path of a file in ``filesystem``."""
        return f"{self.root}/{name}"

    @contextmanager
    def spool(self) -> Iterator[Path]:
        """Give a folder for a file that is being made; in the archive's folder, so that it only has to be renamed.

        One process at a time makes files: what another left behind is deleted. ArchiveError if there is no room.
        """
        try:
            if self.is_folder:
                root = Path(self.root)
                if not root.exists():
                    root.mkdir(parents=True)
                    _sync(root.parent)
                for left in root.glob(f"{_BEING_MADE}*"):
                    shutil.rmtree(left)
            with TemporaryDirectory(prefix=_BEING_MADE, dir=self.root if self.is_folder else None) as folder:
                yield Path(folder)
        except (OSError, pa.ArrowException) as error:
            raise ArchiveError(f"nothing can be written to the archive: {_first_line(error)}") from None

    def put(self, made: Path, name: str) -> None:
        """Store a file under a name: in a folder whole, and on the disk, or not at all. ArchiveError.

        A bucket whose connection breaks may keep a part of it under that name: read it again.
        """
        try:
            if not self.is_folder:
                with made.open("rb") as source, self.filesystem.open_output_stream(self.path(name)) as target:
                    shutil.copyfileobj(source, target, _BLOCK)
                return
            place = Path(self.path(name))
            place.parent.mkdir(parents=True, exist_ok=True)
            with made.open("rb") as source:
                os.fsync(source.fileno())
            made.replace(place)
            for folder in (place.parent, place.parent.parent):
                _sync(folder)
        except OSError as error:
            raise ArchiveError(f"{name} cannot be written: {_first_line(error)}") from None

    @contextmanager
    def reading(self, name: str) -> Iterator[Any]:
        """Give a file for reading. ArchiveError if it is not there, or cannot be read to its end."""
        try:
            with self.filesystem.open_input_file(self.path(name)) as source:
                yield source
        except (OSError, pa.ArrowException) as error:
            raise ArchiveError(f"{name} cannot be read: {_first_line(error)}") from None

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a stored file, in hex; it is read whole. ArchiveError."""
        with self.reading(name) as source:
            return file_digest(source, "sha256").hexdigest()

    def octets(self, name: str) -> int | None:
        """Return the size of a file; None if it is not there."""
        try:
            (found,) = self.filesystem.get_file_info([self.path(name)])
        except OSError as error:
            raise ArchiveError(f"the archive does not answer: {_first_line(error)}") from None
        return found.size if found.type == pafs.FileType.File else None

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder of the archive; none if there is no such folder."""
        selector = pafs.FileSelector(self.path(folder), allow_not_found=True)
        try:
            found = self.filesystem.get_file_info(selector)
        except OSError as error:
            raise ArchiveError(f"the archive does not answer: {_first_line(error)}") from None
        return sorted(f"{folder}/{one.base_name}" for one in found if one.type == pafs.FileType.File)

    def delete(self, name: str) -> None:
        """Delete a file; nothing if it is not there."""
        if self.octets(name) is not None:
            try:
                self.filesystem.delete_file(self.path(name))
            except OSError as error:
                raise ArchiveError(f"{name} cannot be deleted: {_first_line(error)}") from None


def store() -> Store:
    """Return the archive. ArchiveError if there is none."""
    if not is_in_use():
        raise ArchiveError("there is no archive: set ARCHIVE_URL")
    return Store(settings.ARCHIVE_URL)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300]
