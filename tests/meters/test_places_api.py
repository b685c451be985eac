"""Places over REST: address, customer reference, coordinates, and the meters there."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from meters.models import Place
from meters.registry.lifecycle import exchange, install
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db
URL = "/api/v1/places"


@pytest.fixture
def client() -> Client:
    user = User.objects.create_user("placer")
    codenames = ("view_place", "add_place", "change_place")
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def made(client: Client, **fields: Any) -> dict[str, Any]:
    answer = client.post(URL, fields, content_type="application/json")
    assert answer.status_code == 201, answer.json()
    return dict(answer.json())


def test_a_place_is_made_changed_and_found(client: Client) -> None:
    one = made(
        client, name=" House 1 ", address="Mill Lane 4", customer_reference="K-17", latitude="52.5", longitude=13
    )
    assert (one["name"], one["latitude"]) == ("House 1", "52.500000")
    made(client, name="House 2")
    url = f"{URL}/{one['id']}"
    assert client.patch(url, {"address": "Mill Lane 5"}, content_type="application/json").status_code == 200
    place = Place.objects.get(name="House 1")
    assert (place.address, place.longitude, place.customer_reference) == ("Mill Lane 5", Decimal(13), "K-17")
    for query, names in (
        ("", ["House 1", "House 2"]),
        ("?name=House%202", ["House 2"]),
        ("?customer_reference=K-17", ["House 1"]),
        ("?customer_reference=K-1", []),
    ):
        assert [row["name"] for row in client.get(URL + query).json()["results"]] == names, query
    first = client.get(f"{URL}?page_size=1").json()
    assert [row["name"] for row in client.get(first["next"]).json()["results"]] == ["House 2"]


def test_a_place_tells_its_meters_across_an_exchange(client: Client) -> None:
    place, now = Place.objects.create(name="House 1"), timezone.now()
    old, new = MeterFactory.create(serial_number="S1"), MeterFactory.create(serial_number="S2")
    install(old, place, now - timedelta(days=9))
    exchange(place, old, new, now - timedelta(days=2))
    told = client.get(f"{URL}/{place.pk}").json()["meters"]
    assert [(row["serial_number"], row["removed_at"] is None) for row in told] == [("S2", True), ("S1", False)]
    assert told[0]["system_title"] == bytes(new.system_title).hex()


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"name": ""}, "name"),
        ({"name": "House 1\u200b"}, "name"),
        ({"name": "x\u001b"}, "name"),
        ({"name": "\u200b"}, "name"),
        ({"name": "x", "address": "a\ue000"}, "address"),
        ({"name": "x", "customer_reference": "\u0007"}, "customer_reference"),
        ({"name": "x", "latitude": "52"}, "latitude"),
        ({"name": "x", "latitude": "91", "longitude": "0"}, "latitude"),
        ({"name": "x", "latitude": "0", "longitude": "-180.5"}, "longitude"),
        ({"name": "x", "address": "a" * 251}, "address"),
    ],
)
def test_what_is_wrong_is_named(client: Client, fields: dict[str, Any], name: str) -> None:
    Place.objects.create(name="House 1")
    answer = client.post(URL, fields, content_type="application/json")
    assert answer.status_code == 400, answer.content
    assert name in [error["name"] for error in answer.json()["errors"]]
    assert Place.objects.count() == 1


def test_half_a_coordinate_cannot_be_taken_away(client: Client) -> None:
    one = made(client, name="House 1", latitude="52.5", longitude="13")
    url = f"{URL}/{one['id']}"
    assert client.patch(url, {"latitude": None}, content_type="application/json").status_code == 400
    both = {"latitude": None, "longitude": None}
    assert client.patch(url, both, content_type="application/json").status_code == 200
