"""What a life of the stateful tests is surrounded by."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.utils import timezone
from hypothesis.internal.conjecture.providers import HypothesisProvider
from pytest_django import DjangoDbBlocker, Settings

from concentrators import tasks
from concentrators.ingest import transaction_retry
from keyvault import journal
from tests.stateful import database
from tests.stateful.ground import clock
from tests.stateful.rules import faults


@pytest.fixture
def surroundings(
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[None]:
    """Short bounds, a master key of its own, a clock that obeys, no broker, and no waiting for the disk."""
    settings.MASTER_KEY_FILE = tmp_path / "master.keys"
    settings.KEY_JOURNAL_DIR = tmp_path / "journal"
    settings.MASTER_KEY_DESTROY_AFTER_DAYS = 0
    settings.COUNTER_GAP_RUNS = 4
    settings.KEY_GRACE_DAYS = 10
    settings.SESSIONS_KEPT = 3
    monkeypatch.setattr(transaction_retry, "_LOOKS", 2)
    monkeypatch.setattr(timezone, "now", lambda: clock.now)
    monkeypatch.setattr(journal, "time", SimpleNamespace(time_ns=lambda: clock.now_s * 10**9))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    # Numbers of whatever modules are loaded would be drawn now and then: other ones in another order of tests.
    monkeypatch.setattr(HypothesisProvider, "_maybe_draw_constant", lambda *args, **kwargs: None)
    monkeypatch.setattr(tasks.verify_backlog, "apply_async", lambda *args, **kwargs: None)
    logging.disable()
    with django_db_blocker.unblock(), database.own_database(), faults.installed():
        yield
    logging.disable(logging.NOTSET)
