"""Writes a parcel as a file into a folder: aside, then to the disk, then under its name, with its SHA-256 beside it.

A file under its final name is complete, and its ``.sha256`` is there before it. What is begun is called ``.NAME.part``.
"""

import hashlib
import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from django.conf import settings

from concentrators.feed.deliveries.errors import DeliveryError
from concentrators.feed.deliveries.parcels import Parcel
from concentrators.models import FeedDelivery


class FolderError(ValueError):
    """A folder that nothing may be written to; the message says why. The administrator's mistake."""


def allowed(text: str) -> Path:
    """Return the folder if files may go there: in one of FEED_FOLDERS. FolderError otherwise."""
    roots = [Path(root).resolve() for root in settings.FEED_FOLDERS]
    folder = Path(text)
    if not folder.is_absolute() or not any(folder.resolve().is_relative_to(root) for root in roots):
        where = ", ".join(map(str, roots)) or "nothing"
        raise FolderError(
            f"{text[:200]!r} is not a folder in FEED_FOLDERS, which is {where} here: set that variable for every "
            "process and command"
        )
    return folder


def put(delivery: FeedDelivery, parcel: Parcel, now: datetime) -> None:
    """Write a parcel; whatever happens, nothing half stays under a final name. DeliveryError."""
    try:
        folder = allowed(delivery.address)
    except FolderError as error:
        raise DeliveryError(str(error)) from None
    if not folder.is_dir():
        raise DeliveryError(f"there is no folder {folder}: make it, or mount what it is on")
    aside = [_aside(folder, name) for name in (parcel.name, checksum_name(parcel.name))]
    try:
        digest = _write(aside[0], parcel.parts or ())
        _write(aside[1], [checksum_line(digest, parcel.name)])
        aside[1].replace(folder / checksum_name(parcel.name))
        aside[0].replace(folder / parcel.name)
        _to_disk(folder)
    except OSError as error:
        raise DeliveryError(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        for one in aside:
            _remove(one)


def checksum_name(name: str) -> str:
    """Return the name of the file with the checksum."""
    return f"{name}.sha256"


def checksum_line(digest: str, name: str) -> bytes:
    """Return its content, as ``sha256sum --check`` reads it."""
    return f"{digest}  {name}\n".encode()


def _aside(folder: Path, name: str) -> Path:
    return folder / f".{name}.part"


def _write(path: Path, parts: Iterable[bytes]) -> str:
    """Write a new file to the disk, and return its SHA-256. A link that somebody put there is not followed."""
    path.unlink(missing_ok=True)
    digest = hashlib.sha256()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with os.fdopen(handle, "wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _to_disk(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # a folder that is gone has nothing to remove, and the next attempt writes over it
