"""Pages of a register that few meters have: each looks at so many readings at most, and none is lost or repeated."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse

from meters.group_models import FleetGroup, MeterInGroup, Via
from meters.models import Meter, Reading, Register
from meters.readings import queries
from meters.readings.queries import ReadingKey, ReadingSelection
from tests.factories import MeterFactory
from tests.meters.conftest import Store
from tests.plans import plan_of

pytestmark = pytest.mark.django_db

START = datetime(2026, 3, 1, tzinfo=UTC)
PERIOD = "from=2026-03-01&to=2026-04-01"
RARE = "1-0:32.7.0"


@pytest.fixture
def rare(store: Store) -> Register:
    """A register that one of four meters has, three times among 124 readings of two registers, across a month's end."""
    rare = Register.objects.get(obis_code=RARE)
    times = [START - timedelta(hours=2) + number * timedelta(minutes=30) for number in range(30)]
    meters: list[Meter] = MeterFactory.create_batch(4)
    for meter in meters:
        store(meter, times)
    store(meters[1], [times[6], times[7], times[25]], rare)
    store(meters[2], [times[-1]], rare, value=-5)
    return rare


def selection(*registers: Register, after: ReadingKey | None = None) -> ReadingSelection:
    ids = [register.pk for register in registers]
    return ReadingSelection(START - timedelta(days=1), START + timedelta(days=1), None, ids, after)


def walk(limit: int, *registers: Register) -> list[list[tuple[Any, ...]]]:
    """The rows of each page, by the key of the one before."""
    pages, key = [], None
    while True:
        rows, key = queries.readings_page(selection(*registers, after=key), limit)
        pages.append([(row.captured_at, row.system_title, row.obis_code, row.value) for row in rows])
        if key is None:
            return pages


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
@pytest.mark.parametrize("looked_at", [1, 2, 7, 10, 124, 125])
def test_every_reading_is_on_one_page(
    rare: Register, monkeypatch: pytest.MonkeyPatch, looked_at: int, limit: int
) -> None:
    monkeypatch.setattr(queries, "LOOKED_AT", looked_at)
    pages = walk(limit, rare)
    whole, _ = queries.readings(selection(rare), 1000)
    wanted = [(row.captured_at, row.system_title, row.obis_code, row.value) for row in whole]
    assert [row for page in pages for row in page] == wanted
    assert len(wanted) == 4
    assert all(len(page) <= limit for page in pages)
    assert len(pages) >= 124 // max(looked_at, 32)
    assert ([] in pages[:-1]) == (looked_at <= 10)


def test_a_register_that_all_have_fills_its_pages(rare: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "LOOKED_AT", 40)
    pages = walk(30, Register.objects.get(obis_code="1-0:1.29.0"), rare)
    assert [len(page) for page in pages] == [30, 30, 30, 30, 4]


def test_a_page_looks_at_no_more_readings(
    rare: Register, monkeypatch: pytest.MonkeyPatch, looks: list[tuple[str, list[Any]]]
) -> None:
    monkeypatch.setattr(queries, "LOOKED_AT", 20)
    assert queries.readings_page(selection(rare), 50)[0] == []
    ((statement, params),) = looks
    assert examined(statement, params) == {"CTE found": 20, "CTE last": 20}


def test_a_full_page_ends_the_look(rare: Register, looks: list[tuple[str, list[Any]]]) -> None:
    assert len(queries.readings_page(selection(rare), 2)[0]) == 2
    ((statement, params),) = looks
    taken = examined(statement, params)
    assert taken["CTE found"] < 40 < Reading.objects.count()
    assert taken["CTE last"] == 0


def test_the_rows_of_a_page_are_sought_by_their_keys_whatever_the_planner_knows(
    store: Store, looks: list[tuple[str, list[Any]]]
) -> None:
    """Of the newest readings it knows nothing, and would compare each reading of the period with each of the page."""
    meters: list[Meter] = MeterFactory.create_batch(3)
    times = [START + number * timedelta(minutes=30) for number in range(60)]
    store(meters[0], times)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE meters_reading")
    newest = [times[-1] + number * timedelta(minutes=30) for number in range(1, 41)]
    for meter in meters:
        store(meter, newest)
    group = FleetGroup.objects.create(kind="route", name="R1")
    MeterInGroup.objects.create(group=group, meter=meters[1], via=Via.METER)
    wanted = ReadingSelection(newest[0], newest[-1] + timedelta(minutes=30), group_ids=[group.pk])
    assert len(queries.readings_page(wanted, 100)[0]) == 40
    ((statement, params),) = looks
    nodes = plan_of(statement, params, is_run=True)
    assert sum(node.get("Rows Removed by Join Filter", 0) for node in nodes) == 0
    whole = [one for one in nodes if one["Node Type"] == "Index Scan" and "meters_reading" in one["Relation Name"]]
    assert [node["Actual Loops"] for node in whole] == [40]


def examined(statement: str, params: list[Any]) -> dict[str, int]:
    """How many entries of the index each look took."""
    nodes = plan_of(statement, params, is_run=True)
    assert "Seq Scan" not in {node["Node Type"] for node in nodes}
    looks = {node["Subplan Name"]: below(node) for node in nodes if node.get("Subplan Name", "").startswith("CTE")}
    for scans in looks.values():
        assert not {"Sort", "Incremental Sort"} & {node["Node Type"] for node in scans}
    return {
        name: sum(int(node["Actual Rows"] * node["Actual Loops"]) for node in scans if "Index Name" in node)
        for name, scans in looks.items()
    }


def below(node: dict[str, Any]) -> list[dict[str, Any]]:
    children = node.get("Plans", [])
    return [*children, *(one for child in children for one in below(child))]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Any]]]:
    """The statements that readings are fetched by."""
    taken = []
    fetch = queries.fetch

    def noting(statement: str, params: list[Any]) -> list[tuple[Any, ...]]:
        taken.append((statement, params))
        return fetch(statement, params)

    monkeypatch.setattr(queries, "fetch", noting)
    return taken


def test_the_api_goes_on_past_pages_without_rows(
    rare: Register, reader: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "LOOKED_AT", 20)
    url, pages = f"/api/v1/readings?{PERIOD}&register={RARE}", []
    while url:
        page = reader.get(url).json()
        pages.append([row["captured_at"] for row in page["results"]])
        url = page["next"]
    found = [at for page in pages for at in page]
    assert len(found) == 4
    assert all(one < other for one, other in pairwise(found))
    assert [] in pages[:-1]
    assert reader.get(f"/api/v1/readings?{PERIOD}&register={RARE}&format=csv").getvalue().count(b"\n") == 5


def test_the_page_of_readings_says_that_it_goes_on(
    rare: Register, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "LOOKED_AT", 10)
    query: dict[str, str | int] = {"register": rare.pk, "from": "2026-02-28T22:00", "to": "2026-03-02T00:00"}
    answer = admin_client.get(reverse("admin:readings"), query)
    assert answer.context["content"].rows == []
    assert "None so far" in answer.content.decode()
    assert answer.context["next_page"]
    assert "Next page" in answer.content.decode()
    nobody = admin_client.get(reverse("admin:readings"), {**query, "from": "2026-03-01T20:00"})
    assert "next_page" not in nobody.context
    assert "No row matches these filters." in nobody.content.decode()
