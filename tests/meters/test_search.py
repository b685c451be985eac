"""Meters and places are found as people write them, and each search is served by an index."""

import pytest
from django.db import connection

from meters.models import Meter, Place
from meters.registry import search
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def meter() -> Meter:
    for number in range(5):
        MeterFactory.create(serial_number=f"ISK1000000{number}", name=f"Pump {number}")
    return MeterFactory.create(serial_number="1 LGZ 00 1234-5678", name="Mill Lane 7, Außenstelle")


def found(term: str) -> list[Meter]:
    return list(Meter.objects.filter(search.as_q(search.meter_condition(term))))


@pytest.mark.parametrize(
    "term",
    [
        "1 LGZ 00 1234-5678",
        "1 lgz 00",
        "5678",
        " 34-5678 ",
        "lgz",
        "1234",
        "mill",
        "LANE 7",
        "lane mill",
        "AUßEN",
    ],
)
def test_a_meter_is_found(meter: Meter, term: str) -> None:
    assert found(term) == [meter]


def test_a_meter_is_found_by_its_system_title(meter: Meter) -> None:
    assert found(bytes(meter.system_title).hex().upper()) == [meter]


@pytest.mark.parametrize("term", ["", " ", "a\0b", "&|!():*", "%", "_", "\\", "lane 8", "234", "'; --", "x" * 3000])
def test_other_terms_find_nothing(meter: Meter, term: str) -> None:
    assert found(term) == []
    assert not Place.objects.filter(search.as_q(search.place_condition(term)))


@pytest.mark.parametrize("term", ["MP-0042", "mp 0042", "mill lane", "lane 12", "10115 berlin", "Berl", "K-17/4 "])
def test_a_place_is_found_by_its_name_and_address(term: str) -> None:
    Place.objects.create(name="MP-0043", address="Mill Road 12, 10117 Bern")
    place = Place.objects.create(name="MP-0042", address="Mill Lane 12, 10115 Berlin", customer_reference="K-17/4")
    assert list(Place.objects.filter(search.as_q(search.place_condition(term)))) == [place]


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("term", ["emh1000", "5678", "mill lane"])
def test_a_search_reads_indexes(meter: Meter, term: str, limit: int | None) -> None:
    """With so few rows PostgreSQL would read them all: it is told that this is dear."""
    for condition, table in (
        (search.meter_condition(term, limit=limit), "meters_meter"),
        (search.place_condition(term), "meters_place"),
    ):
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute(f"EXPLAIN SELECT id FROM {table} WHERE {condition[0]}", condition[1])
            plan = "\n".join(row[0] for row in cursor.fetchall())
        assert "Seq Scan" not in plan, plan
        assert "words" in plan


def test_the_first_hits_behind_a_serial_number(meter: Meter) -> None:
    def names(limit: int, after: str) -> list[str]:
        condition = search.as_q(search.meter_condition("isk", limit=limit, after=after))
        return list(Meter.objects.filter(condition).order_by("serial_number").values_list("name", flat=True))

    assert names(2, "") == ["Pump 0", "Pump 1"]
    assert names(2, "ISK10000001") == ["Pump 2", "Pump 3"]
