"""Tokens limited to groups: they see the meters that are in them now, and what cannot be restricted is shut."""

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ami_headend.api_tokens import tokens
from ami_headend.api_tokens.journal_replay import TokenReplayer
from ami_headend.api_tokens.models import ApiToken
from ami_headend.core import rate_limits
from ami_headend.web.scopes import NEEDED, Scope
from concentrators.fleet import groups
from concentrators.fleet.groups import Members
from concentrators.models import Command, Concentrator
from keyvault import master_key
from keyvault.audit.chain import Actor
from keyvault.journal import reading
from keyvault.models import AuditRecord
from meters.group_models import FleetGroup
from meters.models import Installation, Meter, MeterEvent, Place, Register
from meters.readings.obis import STANDARD_LOG
from meters.registry.groups import parse
from tests.concentrators.fleet import START, commission
from tests.factories import ConcentratorFactory, MeterFactory
from tests.test_doors import REST, _ask
from tests.test_doors import rows as rows  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.django_db

ANN = Actor("ann", "")


@pytest.fixture
def north() -> FleetGroup:
    return groups.make(parse("area:North"), ANN)


@pytest.fixture
def mine(north: FleetGroup) -> Meter:
    """A meter in the group; another one is not."""
    meter, _ = MeterFactory.create(serial_number="mine"), MeterFactory.create(serial_number="other")
    groups.put(north, Members(meters=[meter.pk]), ANN)
    register = Register.objects.order_by("pk")[0]
    at = {"captured_at": timezone.now(), "received_at": timezone.now()}
    for one in Meter.objects.all():
        MeterEvent.objects.create(meter=one, register=register, value=1, uplink_id=1, **at)
    return meter


def limited(*of: FleetGroup) -> Client:
    rate_limits.limiter().storage.reset()
    secret = tokens.make(ANN, f"token {ApiToken.objects.count()}", list(Scope), 1, timezone.now(), of).secret
    return Client(headers={"authorization": f"Bearer {secret}"}, raise_request_exception=False)


def of_meter(name: str, meter: Meter) -> str:
    return reverse(name, args=[bytes(meter.system_title).hex()])


def test_one_meter_opens_if_it_is_in_a_group_now(north: FleetGroup, mine: Meter) -> None:
    client, other = limited(north), Meter.objects.get(serial_number="other")
    for name in ("meter", "meter-commands", "meter-gaps"):
        assert client.get(of_meter(name, mine)).status_code == 200
        assert client.get(of_meter(name, other)).status_code == 404
    assert client.get(reverse("meter", args=["nonsense"])).status_code == 404
    body: dict[str, Any] = {"kind": "read_now"}
    for meter, status in ((other, 404), (mine, 201)):
        answer = client.post(of_meter("meter-commands", meter), body, content_type="application/json")
        assert answer.status_code == status
    groups.take(north, Members(meters=[mine.pk]), ANN)
    assert client.get(of_meter("meter", mine)).status_code == 404


def test_lists_hold_the_meters_of_the_groups_alone(north: FleetGroup, mine: Meter) -> None:
    client, south = limited(north), groups.make(parse("area:South"), ANN)
    title = bytes(mine.system_title).hex()
    groups.put(south, Members(meters=list(Meter.objects.values_list("pk", flat=True))), ANN)
    assert [row["serial_number"] for row in client.get("/api/v1/meters").json()["results"]] == ["mine"]
    assert [row["system_title"] for row in client.get("/api/v1/events").json()["results"]] == [title]
    other = bytes(Meter.objects.get(serial_number="other").system_title).hex()
    assert client.get("/api/v1/events", {"meter": other}).status_code == 400
    assert len(client.get("/api/v1/meters", {"group": "area:North"}).json()["results"]) == 1
    refused = client.get("/api/v1/meters", {"group": "area:South"})
    assert (refused.status_code, "not limited to area:South" in refused.json()["detail"]) == (403, True)
    both = limited(north, south)
    assert len(both.get("/api/v1/meters").json()["results"]) == 2


def test_places_and_concentrators_are_those_in_the_groups(north: FleetGroup) -> None:
    inside, _ = (Place.objects.create(name=name, address="x") for name in ("inside", "outside"))
    dcu, _ = ConcentratorFactory.create(), ConcentratorFactory.create()
    groups.put(north, Members(places=[inside.pk], concentrators=[dcu.pk]), ANN)
    client = limited(north)
    assert [row["name"] for row in client.get("/api/v1/places").json()["results"]] == ["inside"]
    assert client.get(f"/api/v1/places/{inside.pk}").status_code == 403
    assert client.get("/api/v1/totals").json()["results"] == []


def test_only_meters_of_its_groups_are_out_for_it(north: FleetGroup) -> None:
    inside, outside = devices = commission(2, ConcentratorFactory.create())
    groups.put(north, Members(meters=[inside.meter.pk]), ANN)
    log, now = Register.objects.get(obis_code=STANDARD_LOG), timezone.now()
    for one in devices:
        at = {"captured_at": now, "received_at": now}
        MeterEvent.objects.create(meter=one.meter, register=log, value=1, uplink_id=1, **at)
    client, south = limited(north), groups.make(parse("area:South"), ANN)
    assert [row["meters_out"] for row in client.get("/api/v1/outages").json()] == [1]
    (row,) = client.get("/api/v1/outages/meters", {"to": (now + timedelta(minutes=1)).isoformat()}).json()["results"]
    assert row["serial_number"] == inside.meter.serial_number
    ask = partial(client.post, "/api/v1/outages", content_type="application/json")
    assert ask({"confirm": 9, "group": [str(south)]}).status_code == 403
    assert ask({"confirm": 9}).json()["asked"] == 1
    assert Command.objects.get().meter_id == inside.meter.pk != outside.meter.pk


def test_an_outage_tells_nothing_of_other_groups(north: FleetGroup) -> None:
    inside, _ = devices = commission(2, ConcentratorFactory.create(name="dcu"))
    south = groups.make(parse("area:South"), ANN)
    groups.put(north, Members(meters=[inside.meter.pk]), ANN)
    groups.put(south, Members(concentrators=[Concentrator.objects.get().pk]), ANN)  # and so all of its meters
    log, now = Register.objects.get(obis_code=STANDARD_LOG), timezone.now()
    for one in devices:
        MeterEvent.objects.create(meter=one.meter, register=log, value=1, uplink_id=1, captured_at=now, received_at=now)
    until = {"to": (now + timedelta(minutes=1)).isoformat()}
    for of, meters, names in (((north,), 1, ""), ((north, south), 2, "area:South")):
        client = limited(*of)
        assert [row["meters"] for row in client.get("/api/v1/outages").json()] == [meters]
        (row,) = client.get("/api/v1/outages/past", until).json()["results"]
        assert row["groups"] == names
        csv = b"".join(client.get("/api/v1/outages/past", {**until, "format": "csv"}).streaming_content)  # type: ignore[attr-defined]
        assert (b"South" in csv) is ("South" in names)


@pytest.mark.parametrize(
    ("path", "name", "outside", "nowhere"),
    [
        ("readings", "meter", "", "0011223344556677"),
        ("events", "meter", "", "0011223344556677"),
        ("events", "group", "area:South", "area:West"),
        ("outages", "group", "area:South", "area:West"),
        ("outages/past", "concentrator", "far", "nowhere"),
        ("meters", "concentrator", "far", "nowhere"),
        ("totals", "concentrator", "far", "nowhere"),
        ("completeness/deadlines", "concentrator", "far", "nowhere"),
    ],
)
def test_a_filter_does_not_tell_what_is_outside(
    north: FleetGroup, path: str, name: str, outside: str, nowhere: str
) -> None:
    near, _ = ConcentratorFactory.create(name="near"), ConcentratorFactory.create(name="far")
    (inside,), (other,) = commission(1, near), commission(1, Concentrator.objects.get(name="far"))
    groups.make(parse("area:South"), ANN)
    groups.put(north, Members(meters=[inside.meter.pk]), ANN)
    client = limited(north)
    outside = outside or bytes(other.meter.system_title).hex()
    said = []
    for value in (outside, nowhere):
        answer = client.get(f"/api/v1/{path}", {name: value})
        said.append((answer.status_code, answer.content.decode().replace(value, "X")))
    assert said[0] == said[1]
    assert said[0][0] in (400, 403)
    mine = {"meter": bytes(inside.meter.system_title).hex(), "group": "area:North", "concentrator": "near"}
    assert client.get(f"/api/v1/{path}", {name: mine[name]}).status_code == 200


@pytest.mark.usefixtures("rows")
def test_every_other_address_is_shut(north: FleetGroup) -> None:
    """Of all addresses that a scope opens: none gives a limited token what it cannot restrict."""
    client = limited(north)
    by_list = {"readings", "events", "alerts", "meters", "places", "totals", "feed-readings", "feed-events"}
    by_list |= {"outages", "outages-by-group", "outages-past", "outages-meters"}
    by_list |= {"reading-messages", "event-messages", "completeness-deadlines", "deadline-days", "feed-completeness"}
    by_list |= {"register-differences"}
    seen = set()
    for door in REST:
        if not isinstance(NEEDED.get((door.name, door.method.upper())), Scope):
            continue
        answer = _ask(client, door)
        seen.add(door.name)
        given = 200 if door.method == "get" else 400  # a body that says nothing
        expected = {given} if door.name in by_list else {403, 404}
        assert answer.status_code in expected, door.name
    assert by_list < seen


def test_a_removed_group_opens_nothing(north: FleetGroup, mine: Meter) -> None:
    client = limited(north)
    groups.remove(north, ANN)
    assert client.get("/api/v1/meters").status_code == 403
    assert client.get(of_meter("meter", mine)).status_code == 404


def test_the_limit_is_recorded_and_outlives_a_restore(north: FleetGroup, settings: Any) -> None:
    settings.KEY_JOURNAL_DIR.mkdir(exist_ok=True)
    limited(north)
    assert AuditRecord.objects.latest("number").subject["groups"] == ["area:North"]
    ApiToken.objects.all().delete()
    for record in reading.read([settings.KEY_JOURNAL_DIR], master_key.provider().fresh(), 0):
        if record.kind == "api_token":
            TokenReplayer().kinds["api_token"](record)
    assert ApiToken.objects.get().group_ids == [north.pk]


def test_the_command_takes_groups(north: FleetGroup, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("api_token", "make", "mdm", scope=["readings"], group=["area:North"])
    assert ApiToken.objects.get().group_ids == [north.pk]
    with pytest.raises(CommandError, match=r"no group area:West.*Nothing was changed"):
        call_command("api_token", "make", "other", scope=["readings"], group=["area:West"])


def test_documents_of_a_place_open_where_all_of_their_curve_is_in_the_groups(north: FleetGroup, mine: Meter) -> None:
    client, other = limited(north), Meter.objects.get(serial_number="other")
    inside, hung, exchanged, empty = (Place.objects.create(name=name) for name in ("in", "hung", "exchanged", "empty"))
    groups.put(north, Members(places=[inside.pk]), ANN)
    Installation.objects.create(meter=mine, place=hung, installed_at=START)
    day = START + timedelta(days=1)
    Installation.objects.create(meter=other, place=exchanged, installed_at=START, removed_at=day)
    Installation.objects.filter(meter=mine).update(removed_at=day)
    Installation.objects.create(meter=mine, place=exchanged, installed_at=day)
    period = {"from": START.isoformat(), "to": day.isoformat(), "sender": "A", "receiver": "B", "metering_point": "C"}
    for name in ("green-button", "market-document"):
        asked = period if name == "market-document" else {key: period[key] for key in ("from", "to")}
        seen = [
            client.get(reverse(name, args=[place.pk]), asked).status_code for place in (inside, hung, exchanged, empty)
        ]
        assert seen == [200, 200, 404, 404]
        assert client.get(reverse(name, args=[0]), asked).status_code == 404


def test_the_feed_and_its_messages_tell_the_rows_of_the_groups(north: FleetGroup, mine: Meter) -> None:
    client = limited(north)
    assert client.get("/api/v1/feed/readings", {"format": "cim"}).status_code == 204
    assert client.get("/api/v1/feed/readings").status_code == 200
    for name in ("feed-subscriptions", "feed-delivery"):
        address = reverse(name, args=[] if name == "feed-subscriptions" else ["billing"])
        assert client.get(address).status_code == 403
