"""Files that must survive a power failure."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk: files that were made, renamed or removed in it. OSError if that fails."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
