from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from keyvault.device_keys.provisioning import NewKey, provision_pending, provision_stored
from meters.models import EarlierLength, MeterStatus, Place
from meters.registry.lifecycle import install
from tests.factories import MeterFactory
from tests.meters.conftest import Store

pytestmark = pytest.mark.django_db
START = datetime(2026, 3, 1, tzinfo=UTC)


def test_meters_are_listed_by_serial_number_in_pages(
    reader: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for number in (3, 1, 2):
        meter = MeterFactory.create(serial_number=f"S{number}", commissioned_at=START)
        install(meter, Place.objects.create(name=f"house {number}"), START)
    with django_assert_num_queries(7):
        first = reader.get("/api/v1/meters?page_size=2").json()
    with django_assert_num_queries(7):
        second = reader.get(first["next"]).json()
    rows = first["results"] + second["results"]
    assert [(row["serial_number"], row["place"]) for row in rows] == [(f"S{n}", f"house {n}") for n in (1, 2, 3)]
    assert second["next"] is None


def test_meters_are_found_by_name_title_and_status(reader: Client) -> None:
    wanted = MeterFactory.create(name="Mill lane 4", serial_number="A1", status=MeterStatus.SUSPENDED)
    MeterFactory.create(name="Mill lane 5", serial_number="A2")

    def found(query: str) -> list[str]:
        return [row["serial_number"] for row in reader.get(f"/api/v1/meters?{query}").json()["results"]]

    assert found("search=mill") == ["A1", "A2"]
    assert found("search=mill&status=suspended") == ["A1"]
    assert found(f"search={bytes(wanted.system_title).hex()}") == ["A1"]
    assert found("search=a2") == ["A2"]


def test_meters_are_found_by_the_scheme_that_protects_them_now(reader: Client) -> None:
    usual, of_mac = (MeterFactory.create(serial_number=serial) for serial in ("A1", "A2"))
    keys = [NewKey(bytes(usual.system_title), 1), NewKey(bytes(of_mac.system_title), 1, None, 5, "mac")]
    provision_stored([*keys, NewKey(bytes(of_mac.system_title), 0)])
    provision_pending([NewKey(bytes(of_mac.system_title), 2)], {})  # not before its first frame

    def found(query: str) -> list[tuple[str, str]]:
        return [
            (row["serial_number"], row["scheme"]) for row in reader.get(f"/api/v1/meters?{query}").json()["results"]
        ]

    assert found("scheme=mac") == [("A2", "mac")]
    assert found("search=a") == [("A1", "ccm"), ("A2", "mac")]
    assert found("scheme=hop") == []
    assert reader.get("/api/v1/meters?scheme=concentrator").status_code == 400


def test_one_meter_by_its_title(reader: Client) -> None:
    meter = MeterFactory.create(commissioned_at=START)
    response = reader.get(f"/api/v1/meters/{bytes(meter.system_title).hex().upper()}")
    assert response.json() == {
        "system_title": bytes(meter.system_title).hex(),
        "serial_number": meter.serial_number,
        "name": "",
        "place": None,
        "status": "commissioned",
        "interval_minutes": 30,
        "scheme": None,
        "commissioned_at": "2026-03-01T00:00:00Z",
        "retired_at": None,
        "mask_group": "",
    }


@pytest.mark.parametrize("path", ["0000000000000000", "x", "0000000000000000/gaps"])
def test_a_meter_that_is_not_there(reader: Client, path: str) -> None:
    response = reader.get(f"/api/v1/meters/{path}")
    assert response.status_code == 404
    assert response["Content-Type"] == "application/problem+json"


def test_gaps_of_a_meter(reader: Client, store: Store, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    meter = MeterFactory.create(commissioned_at=START)
    store(meter, [START])
    url = f"/api/v1/meters/{bytes(meter.system_title).hex()}/gaps?from=2026-03-01&to=2026-03-01T02:00:00Z"
    with django_assert_num_queries(11):
        report = reader.get(url).json()
    assert report == {
        "interval_minutes": 30,
        "expected": 4,
        "missing": 3,
        "completeness": 0.25,
        "gaps": [
            {"from": "2026-03-01T00:30:00Z", "to": "2026-03-01T02:00:00Z", "intervals": 3, "interval_minutes": 30}
        ],
    }
    for query, name in (("register=1-0:1.8.0", "register"), ("register=x", "register"), ("from=x", "from")):
        response = reader.get(url.partition("?")[0] + "?" + query)
        assert response.status_code == 400
        assert [error["name"] for error in response.json()["errors"]] == [name]
    ahead = reader.get(url.partition("?")[0] + "?from=9999-12-31T23:59:00Z&to=9999-12-31T23:59:59Z").json()
    assert (ahead["expected"], ahead["gaps"]) == (0, [])


@pytest.mark.parametrize(
    "path", ["meters", "readings", "events", "meters/0000000000000000", "meters/0000000000000000/gaps"]
)
def test_reading_needs_the_permission(client: Client, django_user_model: type, path: str) -> None:
    anonymous = client.get(f"/api/v1/{path}")
    assert anonymous.status_code == 401
    assert anonymous["WWW-Authenticate"].startswith("Bearer")
    client.force_login(django_user_model.objects.create_user("nobody"))  # type: ignore[attr-defined]
    assert client.get(f"/api/v1/{path}").status_code == 403


def test_a_length_that_is_to_come_is_not_that_of_now(reader: Client) -> None:
    meter = MeterFactory.create(interval_minutes=60)
    change = timezone.now() + timedelta(days=3)
    EarlierLength.objects.create(meter=meter, interval_minutes=15, valid_to=change)
    title = bytes(meter.system_title).hex()
    assert reader.get(f"/api/v1/meters/{title}").json()["interval_minutes"] == 15
    assert reader.get("/api/v1/meters").json()["results"][0]["interval_minutes"] == 15
    assert reader.get(f"/api/v1/meters/{title}/gaps").json()["interval_minutes"] == 15
