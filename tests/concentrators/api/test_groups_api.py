"""Groups over REST: made, changed, filled, and as filters of lists."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.utils import timezone

from ami_headend.alerts.models import Alert, Rule
from concentrators.failures.kinds import FailureKind
from concentrators.fleet import groups
from concentrators.fleet.assignments import assign
from concentrators.fleet.groups import Members
from keyvault.audit.chain import Actor
from meters.group_models import FleetGroup
from meters.models import Meter, MeterEvent, Place, Register
from meters.registry.groups import parse
from tests.factories import ConcentratorFactory, IntegrityFailureFactory, MeterFactory

pytestmark = pytest.mark.django_db
NOW = timezone.now()
URL = "/api/v1/groups"


def signed_in(role: str) -> Client:
    user = User.objects.create_user(role)
    user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def client() -> Client:
    return signed_in("operator")


def post(client: Client, url: str, body: Any, status: int = 200) -> Any:
    answer = client.post(url, body, content_type="application/json")
    assert answer.status_code == status, answer.content
    return answer.json()


def serials(client: Client, url: str) -> list[str]:
    answer = client.get(url)
    assert answer.status_code == 200, answer.content
    return [row["serial_number"] for row in answer.json()["results"]]


def test_a_group_is_made_changed_filled_and_removed(client: Client) -> None:
    made = post(client, URL, {"kind": "district", "name": "North"}, 201)
    post(client, URL, {"kind": "District", "name": "north"}, 400)
    post(client, URL, {"kind": "a:b", "name": "x|"}, 400)
    one = f"{URL}/{made['number']}"
    changed = client.patch(one, {"name": "Nord", "note": "all of it"}, content_type="application/json")
    assert (changed.json()["name"], changed.json()["note"]) == ("Nord", "all of it")

    meter, concentrator = MeterFactory.create(serial_number="S1"), ConcentratorFactory.create(name="DCU-1")
    place = Place.objects.create(name="House 1")
    members = {"meters": ["S1", bytes(meter.system_title).hex()], "places": ["House 1"], "concentrators": ["DCU-1"]}
    assert post(client, f"{one}/members", {"put": members}) == {
        "put": {"meters": 1, "places": 1, "concentrators": 1},
        "take": {"meters": 0, "places": 0, "concentrators": 0},
    }
    assert client.get(one).json()["members"] == {"meters": 1, "places": 1, "concentrators": 1}
    refused = post(client, f"{one}/members", {"take": {"meters": ["S1"]}, "put": {"meters": ["nobody"]}}, 400)
    assert "there is no meter nobody" in str(refused)
    assert client.get(one).json()["members"]["meters"] == 1
    found = client.get("/api/v1/places", {"group": "district:Nord"}).json()["results"]
    assert [row["name"] for row in found] == [place.name]
    post(client, f"{one}/members", {"take": {"concentrators": [concentrator.name]}})
    assert [row["name"] for row in client.get(URL, {"kind": "district"}).json()["results"]] == ["Nord"]

    rule = Rule.objects.create(name="silent north", condition="silent_meter", group_id=made["number"])
    refused = client.delete(one)
    assert refused.status_code == 400
    assert "in use: rule silent north" in str(refused.json())
    rule.delete()
    assert client.delete(one).status_code == 204
    assert not FleetGroup.objects.exists()


def test_others_see_groups_and_change_none() -> None:
    group = groups.make(parse("leaky"), Actor("ann", "test"))
    auditor = signed_in("auditor")
    assert auditor.get(f"{URL}/{group.pk}").status_code == 200
    for url in (URL, f"{URL}/{group.pk}/members"):
        assert auditor.post(url, {}, content_type="application/json").status_code == 403
    assert auditor.delete(f"{URL}/{group.pk}").status_code == 403


@pytest.fixture
def fleet() -> dict[str, Any]:
    """Meter S1 in a district by its concentrator, S2 with a tag, S3 in no group."""
    actor = Actor("ann", "test")
    one, other, third = (MeterFactory.create(serial_number=f"S{n}") for n in (1, 2, 3))
    mine, foreign = ConcentratorFactory.create(name="DCU-1"), ConcentratorFactory.create(name="DCU-2")
    assign([(one.pk, mine.pk), (other.pk, foreign.pk), (third.pk, foreign.pk)], NOW)
    groups.put(groups.make(parse("district:North"), actor), Members(concentrators=[mine.pk]), actor)
    groups.put(groups.make(parse("leaky"), actor), Members([other.pk]), actor)
    return {"meters": (one, other, third), "mine": mine, "foreign": foreign}


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("group=district:North", ["S1"]),
        ("group=DISTRICT:north&group=leaky", ["S1", "S2"]),
        ("group=leaky&concentrator=DCU-1", []),
        ("group=leaky&search=S2", ["S2"]),
    ],
)
def test_meters_of_groups(client: Client, fleet: dict[str, Any], query: str, found: list[str]) -> None:
    assert serials(client, f"/api/v1/meters?{query}") == found


@pytest.mark.parametrize("name", ["meters", "places"])
def test_pages_of_a_group_go_on_by_number(client: Client, fleet: dict[str, Any], name: str) -> None:
    actor, group = Actor("ann", "test"), FleetGroup.objects.get(name="leaky")
    places = [Place.objects.create(name=f"House {n}") for n in (2, 1, 3)]
    groups.put(group, Members([m.pk for m in fleet["meters"]], [p.pk for p in places]), actor)
    found, url = [], f"/api/v1/{name}?group=leaky&page_size=1"
    while url:
        answer = client.get(url).json()
        found += [row.get("serial_number", row.get("name")) for row in answer["results"]]
        url = answer["next"]
    assert found == {"meters": ["S1", "S2", "S3"], "places": ["House 2", "House 1", "House 3"]}[name]
    wrong = client.get(f"/api/v1/{name}", {"group": "leaky", "cursor": "House 1"})
    assert "a cursor of another list" in str(wrong.json())


@pytest.mark.parametrize("name", ["meters", "places", "readings", "events", "failures", "totals", "alerts", "keys"])
def test_an_unknown_group_is_named(client: Client, name: str) -> None:
    answer = client.get(f"/api/v1/{name}", {"group": "district:Nowhere"})
    assert answer.status_code == 400
    assert "there is no group district:Nowhere" in str(answer.json())


def test_failures_events_and_alerts_of_groups(client: Client, fleet: dict[str, Any]) -> None:
    def ids(name: str, group: str, **more: str) -> list[Any]:
        rows = client.get(f"/api/v1/{name}", {"group": group, **more}).json()["results"]
        return [row.get("id", row.get("number")) for row in rows]

    one, other, _ = fleet["meters"]
    kinds = {"kind": FailureKind.REPLAYED, "concentrator": fleet["foreign"]}
    mine, others = (IntegrityFailureFactory.create(meter=meter, **kinds) for meter in (one, other))
    nobodys = IntegrityFailureFactory.create(concentrator=fleet["mine"])
    assert ids("failures", "district:North") == [nobodys.pk, mine.pk]
    assert ids("failures", "district:North", kind="replayed") == [mine.pk]
    assert ids("failures", "district:North", state="acknowledged") == []
    assert ids("failures", "leaky", state="open") == [others.pk]

    log = Register.objects.get(obis_code="0-0:96.11.0")
    at = {"register": log, "captured_at": NOW, "received_at": NOW, "value": 1, "uplink_id": 1}
    event, _ = (MeterEvent.objects.create(meter=meter, **at) for meter in (one, other))
    assert ids("events", "district:North", to=(NOW + timedelta(hours=1)).isoformat()) == [event.pk]

    rule = Rule.objects.create(name="x", condition="silent_meter")
    times = {"rule": rule, "severity": 20, "opened_at": NOW, "seen_at": NOW, "summary": ""}
    of_meter = Alert.objects.create(subject_kind="meter", subject_id=one.pk, subject="S1", **times)
    of_concentrator = Alert.objects.create(
        subject_kind="concentrator", subject_id=fleet["mine"].pk, subject="DCU-1", **times
    )
    Alert.objects.create(subject_kind="meter", subject_id=other.pk, subject="S2", **times)
    assert ids("alerts", "district:North") == [of_meter.pk, of_concentrator.pk]


def test_the_queries_of_a_list_do_not_depend_on_the_group(
    client: Client, fleet: dict[str, Any], django_assert_max_num_queries: Any
) -> None:
    def cost(group: str) -> int:
        with django_assert_max_num_queries(30) as statements:
            assert serials(client, f"/api/v1/meters?group={group}")
        return len(statements)

    cost("leaky")
    few = cost("leaky")
    actor = Actor("ann", "test")
    groups.put(FleetGroup.objects.get(name="leaky"), Members([m.pk for m in Meter.objects.all()]), actor)
    assert cost("leaky") == few
