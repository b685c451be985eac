"""Files in a folder: whole, with their checksum, or not there."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from concentrators.feed.cursor import FIRST, Cursor
from concentrators.feed.deliveries import folder
from concentrators.feed.deliveries.errors import DeliveryError
from concentrators.feed.deliveries.folder import FolderError
from concentrators.feed.deliveries.parcels import Parcel
from concentrators.feed.rows import Resource
from concentrators.models import FeedDelivery
from tests.concentrators.fleet import NOW

NAME = "billing_e1_000000000001.000000-000000000002.000004.csv"


@pytest.fixture
def place(tmp_path: Path, settings: Settings) -> Path:
    place = tmp_path / "out"
    place.mkdir()
    settings.FEED_FOLDERS = [str(tmp_path)]
    return place


def parcel(*parts: bytes) -> Parcel:
    return Parcel(NAME, "text/csv", {}, iter(parts), 5, Cursor(Resource.READINGS, "e1", FIRST))


def put(place: Path, *parts: bytes) -> None:
    folder.put(FeedDelivery(address=str(place)), parcel(*parts), NOW)


def test_a_file_and_its_checksum(place: Path) -> None:
    put(place, b"one,", b"two\n")
    found = {path.name: path.read_bytes() for path in place.iterdir()}
    digest = hashlib.sha256(b"one,two\n").hexdigest()
    assert found == {NAME: b"one,two\n", f"{NAME}.sha256": f"{digest}  {NAME}\n".encode()}
    put(place, b"one,", b"two\n")  # again: the identical file
    assert found == {path.name: path.read_bytes() for path in place.iterdir()}


def test_what_a_killed_writer_left_is_written_over_and_no_link_is_followed(place: Path, tmp_path: Path) -> None:
    (place / f".{NAME}.part").write_bytes(b"half")
    (tmp_path / "elsewhere").write_bytes(b"of somebody else")
    (place / f".{NAME}.sha256.part").symlink_to(tmp_path / "elsewhere")
    put(place, b"whole")
    assert sorted(path.name for path in place.iterdir()) == [NAME, f"{NAME}.sha256"]
    assert (place / NAME).read_bytes() == b"whole"
    assert (tmp_path / "elsewhere").read_bytes() == b"of somebody else"


def full_disk() -> Iterator[bytes]:
    yield b"the first part is on the disk"
    raise OSError(28, os.strerror(28))


def test_a_disk_that_fills_up_leaves_nothing(place: Path) -> None:
    with pytest.raises(DeliveryError, match=r"cannot be written: No space left on device"):
        folder.put(FeedDelivery(address=str(place)), Parcel(NAME, "", {}, full_disk(), 1, parcel().following), NOW)
    assert list(place.iterdir()) == []


def test_a_folder_that_is_not_there_is_not_made(place: Path) -> None:
    place.rmdir()
    with pytest.raises(DeliveryError, match=r"there is no folder .*mount what it is on"):
        put(place, b"x")
    assert not place.exists()


@pytest.mark.parametrize("address", ["out", "/etc", "{root}/../elsewhere", "{root}/link/x", ""])
def test_only_folders_that_the_settings_name(address: str, place: Path, tmp_path: Path, settings: Settings) -> None:
    settings.FEED_FOLDERS = [str(place)]
    (place / "link").symlink_to(tmp_path)
    with pytest.raises(FolderError, match="is not a folder in FEED_FOLDERS"):
        folder.allowed(address.format(root=place))
    assert folder.allowed(str(place / "deeper")) == place / "deeper"


def test_without_the_setting_there_is_none(settings: Settings, tmp_path: Path) -> None:
    settings.FEED_FOLDERS = []
    with pytest.raises(FolderError, match="which is nothing here: set that variable"):
        folder.allowed(str(tmp_path))


@pytest.mark.parametrize("step", range(8))
def test_no_step_shows_half_a_file(step: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that stops at any system call that changes the disk: what has a final name is whole."""
    calls = 0

    def counted(act: Any) -> Any:
        def done(*args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > step:
                raise KeyboardInterrupt
            return act(*args, **more)

        return done

    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    try:
        put(place, b"all ", b"of it")
    except KeyboardInterrupt:
        assert step < 8
    shown = {path.name: path for path in place.iterdir() if not path.name.startswith(".")}
    if NAME in shown:
        line = f"{hashlib.sha256(b'all of it').hexdigest()}  {NAME}\n"
        assert shown[NAME].read_bytes() == b"all of it"
        assert shown[f"{NAME}.sha256"].read_text() == line
