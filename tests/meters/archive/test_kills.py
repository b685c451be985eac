"""A process on its way into the archive or out of it is killed at each step: nothing is lost or doubled."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from pytest_django import DjangoDbBlocker, Settings

from meters.archive import files, layout, months, restoring, steps, verification
from meters.archive_models import ArchivedMonth
from meters.readings.queries import ReadingSelection
from tests.flows import databases
from tests.meters.archive.readings import END, MONTH, NOW, START, as_csv, stored

OWNERS = (files.Store, layout, months, verification, restoring, steps)


@pytest.fixture(scope="module")
def _own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    with django_db_blocker.unblock(), databases.copied():
        yield


def child(what: Callable[[], Any], point: str, *, before: bool) -> int:
    """Do something in a process that kills itself, as kill -9 does, before or after it has called a function once."""
    connection.close()
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    owner: Any = next(one for one in OWNERS if hasattr(one, point))
    called = getattr(owner, point)

    def dying(*args: Any, **options: Any) -> Any:
        if not before:
            called(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        setattr(owner, point, dying)
        what()
    finally:
        os._exit(3)


@pytest.mark.usefixtures("_own_database")
def test_nothing_is_lost_or_doubled(tmp_path: Path, settings: Settings) -> None:
    settings.ARCHIVE_URL, settings.ARCHIVE_AFTER_MONTHS = f"file://{tmp_path}/archive", 13
    stored()
    whole = ReadingSelection(START, END)
    before = as_csv(whole)
    for point in ("_close", "_write_day", "put", "read_again", "manifest", "check_file", "may_be_dropped", "_drop"):
        for early in (True, False):
            status = child(lambda: months.archive(MONTH, NOW), point, before=early)
            assert os.WIFSIGNALED(status), (point, early, status)
            assert as_csv(whole) == before, (point, early)
    months.archive(MONTH, NOW)
    assert as_csv(whole) == before
    for point, early in (
        ("_begin", False),
        ("check_file", True),
        ("_copy_in", False),
        ("_restore_file", False),
        ("_end", True),
        ("stored", False),
    ):
        status = child(lambda: restoring.restore(MONTH, NOW), point, before=early)
        assert os.WIFSIGNALED(status), (point, status)
        assert as_csv(whole) == before, point
        if point == "_restore_file":
            assert ArchivedMonth.objects.get().under_way["files"] == 1, "each file is in a transaction of its own"
    assert restoring.restore(MONTH, NOW) > 0
    assert as_csv(whole) == before
