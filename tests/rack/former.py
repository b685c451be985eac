"""The former release: an earlier commit of this repository, from before a migration, as a folder of its own."""

import io
import subprocess
import tarfile
from pathlib import Path

from tests.rack.rack import CODE

COMMITS = 24  # a release has at least so many


class NoHistoryError(Exception):
    """There is no former release to be found here; the message says why."""


def commit(repository: Path = CODE, commits: int = COMMITS) -> str:
    """The newest commit that is so far back, and after which a migration was added. NoHistoryError if there is none."""
    try:
        if _git(repository, "rev-parse", "--is-shallow-repository") == "true":
            raise NoHistoryError("this clone is shallow: git fetch --unshallow brings its history")
        for adding in _git(repository, "log", "--format=%H", "--diff-filter=A", "--", "*/migrations/0*.py").split():
            before = f"{adding}~"
            if int(_git(repository, "rev-list", "--count", f"{before}..HEAD")) >= commits:
                return _git(repository, "rev-parse", before)
    except (OSError, subprocess.CalledProcessError):
        raise NoHistoryError("this is no git repository with its history, or git is not there") from None
    raise NoHistoryError(f"no migration was added {commits} commits ago or earlier")


def check_out(commit: str, folder: Path, repository: Path = CODE) -> Path:
    """Write the files of a commit to a folder; return it."""
    packed = subprocess.run(["git", "archive", commit], cwd=repository, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def has_same_dependencies(folder: Path) -> bool:
    """Whether a release locks what this one locks; if not, it runs with the dependencies of this one here."""
    lock = Path("requirements") / "base.txt"
    return (folder / lock).read_text() == (CODE / lock).read_text()


def _git(repository: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=repository, capture_output=True, text=True, check=True).stdout.strip()
