"""The master key in a file: JSON with every version, mode 0600, always replaced as a whole."""

import base64
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ami_headend.core.disk import sync_folder
from keyvault.master_key import forgetting
from keyvault.master_key.secret_wrapping import MASTER_KEY_OCTETS, MasterKeyError, MasterKeys, MasterKeyState, Version

_Row = dict[str, Any]
_Stamp = tuple[int, int, int]


class FileProvider:
    """The master key file of this deployment; it is read again when it changes, and an idle process forgets it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cached: tuple[_Stamp, MasterKeys] | None = None

    def __str__(self) -> str:
        return str(self.path)

    def init(self) -> int:
        """Make the file with version 1."""
        return init(self.path)

    def current(self) -> MasterKeys:
        """Return the keys in the file, from memory while the file is the same."""
        stamp, cached = self._stamp(), self._cached
        if cached is None or cached[0] != stamp or stamp == _ABSENT:
            self._cached = cached = stamp, self.fresh()
            forgetting.watch(self)
        return cached[1]

    def forget(self) -> None:
        """Keep no key in memory; the next use reads the file."""
        self._cached = None

    def forget_what_changed(self) -> None:
        """Keep no key in memory if the file has changed since: a version may have been destroyed in it."""
        cached = self._cached
        if cached is not None and cached[0] != self._stamp():
            self.forget()

    def fresh(self) -> MasterKeys:
        """Read the keys in the file now."""
        return _keys(self.path, _read(self.path), self.fresh)

    def versions(self) -> list[Version]:
        """Return every version, also destroyed ones."""
        return [_version(row) for row in _read(self.path)]

    def add_version(self) -> int:
        """Write the file with one more version, which is the active one."""
        rows, now = _read(self.path), _now()
        number = max(int(row["version"]) for row in rows) + 1
        for row in rows:
            if row["state"] == MasterKeyState.ACTIVE:
                row.update(state=MasterKeyState.DECRYPT_ONLY, decrypt_only_at=now)
        _replace(self.path, [*rows, _new_row(number, now)])
        return number

    def destroy(self, number: int) -> None:
        """Write the file without the key of a version; its number and dates stay."""
        rows = _read(self.path)
        row = next((row for row in rows if row["version"] == number), None)
        if row is None or row["state"] != MasterKeyState.DECRYPT_ONLY:
            state = "not there" if row is None else row["state"]
            raise MasterKeyError(f"{self.path}: version {number} is {state}; only a decrypt_only one can be destroyed")
        del row["key"]
        row.update(state=MasterKeyState.DESTROYED, destroyed_at=_now())
        _replace(self.path, rows)

    def _stamp(self) -> _Stamp:
        """Return what identifies the state of the file: every write makes another inode."""
        try:
            found = self.path.stat()
        except OSError:
            return _ABSENT
        return found.st_ino, found.st_mtime_ns, found.st_size


_ABSENT: _Stamp = (0, 0, 0)


def init(path: Path) -> int:
    """Make a master key file with version 1, mode 0600; never overwrites. Returns the active version."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise MasterKeyError(f"cannot make the folder {path.parent}: {error.strerror}") from None
    with _written(path, [_new_row(1, _now())]) as written:
        try:
            path.hardlink_to(written)  # a rename would overwrite
        except FileExistsError:
            raise MasterKeyError(f"{path} exists already and is left as it is; move it away to make another") from None
    sync_folder(path.parent)
    return 1


def load(path: Path) -> MasterKeys:
    """Read a master key file; MasterKeyError if it is missing, readable by others, or in another form."""
    return _keys(path, _read(path))


def _keys(path: Path, rows: list[_Row], look_again: Callable[[], MasterKeys] | None = None) -> MasterKeys:
    aeads = {
        row["version"]: AESGCM(base64.b64decode(row["key"])) for row in rows if row["state"] != MasterKeyState.DESTROYED
    }
    active = next(row["version"] for row in rows if row["state"] == MasterKeyState.ACTIVE)
    return MasterKeys(aeads, active, look_again)


def _read(path: Path) -> list[_Row]:
    """Read and check the versions in the file; return them lowest first."""
    rows: list[_Row]
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise MasterKeyError(f"{path} has mode {mode:04o}: others may read it. Make it 0600: chmod 600 {path}")
            rows = json.load(file)["versions"]
        for row in rows:
            row["version"] = int(row["version"])
            _version(row)
            if row["state"] != MasterKeyState.DESTROYED:
                _check_key(path, row)
    except FileNotFoundError:
        raise MasterKeyError(
            f"there is no master key file {path}: put it back from where it is kept; only for a new head-end, make one "
            "with manage.py master_key init"
        ) from None
    except OSError as error:
        raise MasterKeyError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MasterKeyError(
            f"{path} is not a master key file as manage.py master_key init writes it: put back its own copy"
        ) from None
    numbers = {row["version"] for row in rows}
    active = [row for row in rows if row["state"] == MasterKeyState.ACTIVE]
    if len(active) != 1 or len(numbers) != len(rows) or min(numbers) < 1:
        raise MasterKeyError(f"{path} must hold versions of different numbers from 1, one of them active")
    return sorted(rows, key=lambda row: int(row["version"]))


def _check_key(path: Path, row: _Row) -> None:
    if len(base64.b64decode(row["key"], validate=True)) != MASTER_KEY_OCTETS:
        raise MasterKeyError(f"{path}: the key of version {row['version']} has not {MASTER_KEY_OCTETS} octets")


def _version(row: _Row) -> Version:
    created_at, decrypt_only_at, destroyed_at = (
        None if row.get(name) is None else datetime.fromisoformat(row[name])
        for name in ("created_at", "decrypt_only_at", "destroyed_at")
    )
    return Version(row["version"], MasterKeyState(row["state"]), created_at, decrypt_only_at, destroyed_at)


def _new_row(number: int, now: str) -> _Row:
    key = base64.b64encode(secrets.token_bytes(MASTER_KEY_OCTETS)).decode()
    return {"version": number, "state": MasterKeyState.ACTIVE, "created_at": now, "key": key}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _written(path: Path, rows: list[_Row]) -> Iterator[Path]:
    """Write a temporary file beside ``path``, with its owner, to the disk; delete it at the end unless renamed."""
    temporary = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        temporary = Path(name)
        with os.fdopen(descriptor, "w") as file:
            if path.exists():
                standing = path.stat()  # the file still belongs to the account that reads it
                os.fchown(descriptor, standing.st_uid, standing.st_gid)
            json.dump({"versions": rows}, file, indent=2)
            file.flush()
            os.fsync(descriptor)
        yield temporary
    except OSError as error:
        raise MasterKeyError(f"cannot write {path}: {error.strerror}; nothing was changed") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _replace(path: Path, rows: list[_Row]) -> None:
    """Replace the file as a whole: readers see the old one or the new one."""
    path = path.resolve()  # the file behind a link, not the link
    with _written(path, rows) as written:
        written.rename(path)
    sync_folder(path.parent)
