"""An export of archived readings goes through each file a few times, not once for every page."""

from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from meters.archive import months
from meters.archive import reading as archived
from meters.readings import queries
from meters.readings.queries import ReadingSelection
from tests.meters.archive.readings import END, LATER, MONTH, NOW, START, stored

pytestmark = pytest.mark.django_db
WHOLE = ReadingSelection(START, END)


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, settings: Settings) -> None:
    settings.ARCHIVE_URL, settings.ARCHIVE_AFTER_MONTHS = f"file://{tmp_path}/archive", 13


@pytest.fixture
def before() -> list[Any]:
    """What the database gave, before both months were archived."""
    stored()
    rows, _ = queries.readings(WHOLE, 10_000)
    for month in (MONTH, LATER):
        months.archive(month, NOW)
    return rows


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were gone through."""
    found: list[str] = []
    first = archived.Month._first

    def noted(self: archived.Month, part: Any, *arguments: Any) -> Any:
        found.append(part.name)
        return first(self, part, *arguments)

    monkeypatch.setattr(archived.Month, "_first", noted)
    return found


@pytest.mark.parametrize("ahead", [1, 4, 7, 10_000])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_pages_of_an_export_are_whole_and_in_order(
    before: list[Any], monkeypatch: pytest.MonkeyPatch, ahead: int, size: int
) -> None:
    monkeypatch.setattr(archived, "AHEAD", ahead)
    monkeypatch.setattr(archived, "_BLOCK", 3)
    pages = list(queries.batches(queries.readings, WHOLE, size))
    assert [row for page in pages for row in page] == before
    assert max(map(len, pages)) <= size


def test_a_file_is_gone_through_once(before: list[Any], passes: list[str]) -> None:
    assert sum(map(len, queries.batches(queries.readings, WHOLE, 3))) == len(before)
    assert len(passes) == len(set(passes)) > 2


def test_a_page_alone_reads_nothing_ahead(before: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    first = archived.Month._first

    def noted(self: archived.Month, part: Any, wanted: Any, limit: int) -> Any:
        asked.append(limit)
        return first(self, part, wanted, limit)

    monkeypatch.setattr(archived.Month, "_first", noted)
    assert queries.readings(WHOLE, 20)[0] == before[:20]
    assert max(asked) <= 20
