"""Files that must survive a power failure; new files that are whole, or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk: files that were made, renamed or removed in it. OSError if that fails."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_file(path: Path, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Open a new file for a block that writes it; if the block fails, the file is removed again.

    An act that needs the file, such as its audit record, belongs into the block: it is not done for a file that cannot
    be made. OSError; FileExistsError if there is such a file, which is left as it is.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
