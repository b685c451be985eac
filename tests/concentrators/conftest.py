"""Concentrators, and a queue that only notes what is put into it."""

from collections.abc import Iterator
from typing import Any

import pytest

from concentrators import tasks
from concentrators.api import uplinks
from concentrators.ingest import fair_shares
from concentrators.models import Concentrator
from tests.concentrators.statements import Statements, counting
from tests.factories import ConcentratorFactory


@pytest.fixture(autouse=True)
def enqueued(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ids of uplinks whose verification was enqueued; no worker runs here, so nothing reaches the broker."""
    ids: list[int] = []

    def note(args: tuple[int], *_: Any, **__: Any) -> None:
        ids.append(args[0])

    monkeypatch.setattr(tasks.verify_backlog, "apply_async", note)
    return ids


@pytest.fixture(autouse=True)
def fresh_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    """A door that has not looked at the backlog yet, nor at anybody's share."""
    monkeypatch.setattr(uplinks, "_backlog", uplinks._BacklogLook())
    fair_shares._looks.clear()


@pytest.fixture
def concentrator(db: None) -> Concentrator:
    return ConcentratorFactory.create()


@pytest.fixture
def other_concentrator(db: None) -> Concentrator:
    return ConcentratorFactory.create()


@pytest.fixture
def statements() -> Iterator[Statements]:
    with counting() as statements:
        yield statements
