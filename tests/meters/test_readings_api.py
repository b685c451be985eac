import csv
import io
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pyarrow.parquet as pq
import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from keyvault.schemes.table import SCHEMES
from meters.models import Meter, MeterEvent, Reading, Register
from meters.readings import event_queries, export, queries
from tests.factories import MeterFactory
from tests.meters.conftest import Store
from tests.toy_schemes import toys

pytestmark = pytest.mark.django_db
START = datetime(2026, 3, 1, tzinfo=UTC)
PERIOD = "from=2026-03-01&to=2026-03-08"


def times(count: int) -> list[datetime]:
    return [START + number * timedelta(minutes=30) for number in range(count)]


def title(meter: Meter) -> str:
    return bytes(meter.system_title).hex()


def body(response: Any) -> bytes:
    return b"".join(response.streaming_content)


def test_a_reading_is_exact_and_names_its_uplink(reader: Client, store: Store) -> None:
    meter = MeterFactory.create()
    store(meter, times(1), Register.objects.get(obis_code="1-0:32.7.0"), value=-(2**63))
    (row,) = reader.get(f"/api/v1/readings?{PERIOD}").json()["results"]
    assert row == {
        "system_title": title(meter),
        "obis_code": "1-0:32.7.0",
        "captured_at": "2026-03-01T00:00:00Z",
        "interval_minutes": 0,
        "value": -(2**63),
        "scaler": -1,
        "unit": "V",
        "quantity": "-922337203685477580.8",
        "uplink": 17,
        "scheme": "ccm",
        "caveat": "",
    }


def test_a_reading_tells_the_scheme_that_protected_it(reader: Client, store: Store) -> None:
    store(MeterFactory.create(), times(3))
    for at, number in zip(times(3), (None, 101, 30_000), strict=True):
        Reading.objects.filter(captured_at=at).update(scheme=number)
    url = f"/api/v1/readings?{PERIOD}"
    with toys(), SCHEMES.including(SCHEMES["toy"]._replace(caveat="carried in clear")):
        rows = reader.get(url).json()["results"]
        assert [(row["scheme"], row["caveat"]) for row in rows] == [
            ("ccm", ""),
            ("toy", "carried in clear"),
            ("scheme 30000", "of a scheme that this release does not know"),
        ]
        exported = list(csv.DictReader(io.StringIO(body(reader.get(f"{url}&format=csv")).decode())))
    assert [(row["scheme"], row["caveat"]) for row in exported] == [(row["scheme"], row["caveat"]) for row in rows]


def test_a_reading_of_the_usual_scheme_costs_no_octet_more(store: Store) -> None:
    """docs/adr/0030: the bitmap of NULLs fits into the header's padding; two octets of a number do not."""
    store(MeterFactory.create(), times(2))
    Reading.objects.filter(captured_at=START).update(scheme=2)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_column_size(r) FROM meters_reading r ORDER BY captured_at")
        assert cursor.fetchall() == [(24 + 32 + 2,), (24 + 32,)]


@pytest.mark.parametrize("query", ["", "&meter={0}", "&meter={0}&meter={1}&register=1-0:1.29.0"])
def test_pages_follow_each_other_without_gap_or_repetition(reader: Client, store: Store, query: str) -> None:
    meters = [MeterFactory.create() for _ in range(3)]
    for meter in meters:
        store(meter, times(8))
    asked = query.format(*map(title, meters))
    found, url = [], f"/api/v1/readings?{PERIOD}&page_size=5{asked}"
    while url:
        page = reader.get(url).json()
        assert len(page["results"]) <= 5
        found += [(row["captured_at"], row["system_title"]) for row in page["results"]]
        url = page["next"]

    selected = meters[: asked.count("meter=") or 3]
    assert len(found) == 8 * len(selected)
    assert {name for _, name in found} == {title(meter) for meter in selected}
    assert all(before < after for before, after in pairwise(found))


def test_filters_select_by_meter_register_and_half_open_period(reader: Client, store: Store) -> None:
    meter, other = MeterFactory.create(), MeterFactory.create()
    store(meter, times(4))
    store(meter, times(4), Register.objects.get(obis_code="1-0:1.8.0"))
    store(other, times(4))
    url = f"/api/v1/readings?meter={title(meter).upper()}&register=1-0:1.8.0"
    url += "&from=2026-03-01T00:30:00Z&to=2026-03-01T02:30:00%2B01:00"
    rows = reader.get(url).json()["results"]
    assert [row["captured_at"] for row in rows] == ["2026-03-01T00:30:00Z", "2026-03-01T01:00:00Z"]
    assert {(row["system_title"], row["obis_code"]) for row in rows} == {(title(meter), "1-0:1.8.0")}


def test_the_number_of_queries_does_not_grow(
    reader: Client, store: Store, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    meters = [MeterFactory.create() for _ in range(6)]
    for some in (meters[:1], meters[1:]):
        for meter in some:
            store(meter, times(10))
        named = "&".join(f"meter={title(meter)}" for meter in some)
        with django_assert_num_queries(10):
            assert reader.get(f"/api/v1/readings?{PERIOD}&register=1-0:1.29.0&{named}").status_code == 200


def test_csv_and_parquet_hold_what_json_shows(reader: Client, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "BATCH", 4)
    for _ in range(3):
        store(MeterFactory.create(), times(3))
    store(MeterFactory.create(), times(1), Register.objects.get(obis_code="1-0:14.7.0"), value=4998)
    rows = reader.get(f"/api/v1/readings?{PERIOD}").json()["results"]
    assert len(rows) == 10

    as_csv = reader.get(f"/api/v1/readings?{PERIOD}&format=csv")
    assert as_csv["Content-Type"] == "text/csv; charset=utf-8"
    read = list(csv.DictReader(io.StringIO(body(as_csv).decode())))
    assert [{**row, "captured_at": row["captured_at"].replace("Z", ".000000Z")} for row in rows] == [
        {name: type(wanted[name])(row[name]) for name in row} for row, wanted in zip(read, rows, strict=True)
    ]

    as_parquet = reader.get(f"/api/v1/readings?{PERIOD}", headers={"Accept": "application/vnd.apache.parquet"})
    file = pq.ParquetFile(io.BytesIO(body(as_parquet)))
    assert file.num_row_groups == 3
    table = [{**row, "captured_at": f"{row['captured_at']:%Y-%m-%dT%H:%M:%SZ}"} for row in file.read().to_pylist()]
    assert table == rows


@pytest.mark.parametrize("path", ["readings", "events"])
def test_an_export_of_nothing_is_a_whole_file(reader: Client, path: str) -> None:
    url = f"/api/v1/{path}?{PERIOD}"
    assert body(reader.get(url + "&format=csv")).startswith((b'"system_title"', b'"id"'))
    assert pq.ParquetFile(io.BytesIO(body(reader.get(url + "&format=parquet")))).metadata.num_rows == 0


BAD = [
    ("from", "from=yesterday"),
    ("from", "from=2026-03-02&to=2026-03-01"),
    ("from", "from=9999-12-31T23:59:59-05:00"),
    ("to", "to=0001-01-01"),
    ("meter", "meter=12"),
    ("meter", "meter=0024befffe804ff1"),
    ("register", "register=1.8.0"),
    ("register", "register=%00"),
    ("page_size", "page_size=0"),
    ("page_size", "page_size=10001"),
    ("cursor", "cursor=!"),
    ("cursor", "cursor=WzEsMl0"),
    ("cursor", "cursor=W251bGwsMSwxXQ=="),
    ("format", "format=xlsx"),
    ("form", "form=2026-03-01"),
    ("to", "to="),
    ("register", "register="),
    ("page_size", "page_size="),
    ("cursor", "cursor="),
    ("format", "format="),
]


@pytest.mark.parametrize(("name", "query"), BAD)
@pytest.mark.parametrize("path", ["readings", "events"])
def test_a_bad_parameter_is_named(reader: Client, path: str, name: str, query: str) -> None:
    response = reader.get(f"/api/v1/{path}?{query}")
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"
    assert [error["name"] for error in response.json()["errors"]] == [name]


def test_a_cursor_of_one_list_is_refused_by_the_other(reader: Client) -> None:
    of_events, of_readings = "WzEsMl0=", "WzEsMiwzXQ=="
    assert reader.get(f"/api/v1/events?cursor={of_events}").status_code == 200
    assert reader.get(f"/api/v1/readings?cursor={of_readings}").status_code == 200
    assert reader.get(f"/api/v1/events?cursor={of_readings}").status_code == 400
    assert reader.get(f"/api/v1/readings?cursor={of_events}").status_code == 400


@pytest.mark.parametrize("as_format", ["json", "csv"])
def test_a_selection_that_costs_too_much_is_refused(
    reader: Client, monkeypatch: pytest.MonkeyPatch, as_format: str
) -> None:
    monkeypatch.setattr(queries, "STATEMENT_TIMEOUT_MS", 50)
    monkeypatch.setattr(event_queries, "where", lambda selection, codes: ("pg_sleep(2) IS NULL", []))
    MeterEvent.objects.create(
        meter=MeterFactory.create(),
        register=Register.objects.get(obis_code="0-0:96.11.1"),
        captured_at=START,
        value=1,
        uplink_id=1,
        received_at=START,
    )
    response = reader.get(f"/api/v1/events?{PERIOD}&format={as_format}")
    assert response.status_code == 400
    assert response.json()["detail"] == "from: too long a period for so few rows: choose a shorter one"


def test_pages_are_planned_for_a_registry_in_memory() -> None:
    """Else a page of 10,000 rows would read all of a million meters."""
    assert queries.fetch("SHOW random_page_cost", []) == [("1.1",)]


def test_events_are_listed_like_readings(reader: Client) -> None:
    meter, register = MeterFactory.create(), Register.objects.get(obis_code="0-0:96.11.1")
    now = timezone.now()
    MeterEvent.objects.bulk_create(
        MeterEvent(meter=meter, register=register, captured_at=at, value=5, uplink_id=17, received_at=now)
        for at in times(3)
    )
    first = reader.get(f"/api/v1/events?{PERIOD}&page_size=2&meter={title(meter)}").json()
    second = reader.get(first["next"]).json()
    assert [row["captured_at"][11:16] for row in first["results"] + second["results"]] == ["00:00", "00:30", "01:00"]
    assert second["next"] is None
    assert first["results"][0]["value"] == 5
    assert body(reader.get(f"/api/v1/events?{PERIOD}&format=csv")).count(b"\n") == 4
