"""Pages of groups, filters of lists by group, and filling groups from lists."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ami_headend.alerts.models import Alert, Rule
from ami_headend.console import meters
from ami_headend.console.formatting import energy
from ami_headend.models import KeptAnswer
from concentrators.failures.kinds import FailureKind
from concentrators.fleet import groups as acts
from concentrators.fleet.assignments import assign
from concentrators.fleet.groups import Members
from concentrators.models import Concentrator, IntervalTotal
from keyvault.audit.chain import Actor
from meters.group_models import FleetGroup
from meters.models import Meter, Place, Register
from meters.readings.obis import LOAD_PROFILE
from meters.registry import groups, lifecycle
from meters.registry.groups import parse
from tests.console.people import person
from tests.factories import ConcentratorFactory, IntegrityFailureFactory, MeterFactory

pytestmark = pytest.mark.django_db
NOW = timezone.now()
ACTOR = Actor("ann", "test")


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def north() -> FleetGroup:
    """A district with meter S1 by its concentrator, and S3 by its place; S2 is in no group."""
    one, _, third = (MeterFactory.create(serial_number=f"S{n}") for n in (1, 2, 3))
    mine, foreign = ConcentratorFactory.create(name="DCU-1"), ConcentratorFactory.create(name="DCU-2")
    assign([(one.pk, mine.pk), (third.pk, foreign.pk)], NOW)
    place = Place.objects.create(name="House 1")
    lifecycle.install(third, place, NOW)
    group = acts.make(parse("district:North"), ACTOR, "all of it")
    acts.put(group, Members(places=[place.pk], concentrators=[mine.pk]), ACTOR)
    return group


def text(client: Client, name: str, *args: Any, **query: str) -> str:
    answer = client.get(reverse(f"admin:{name}", args=args), query)
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_page_of_a_group_tells_how_its_meters_are_doing(root: Client, north: FleetGroup) -> None:
    IntegrityFailureFactory.create(meter=Meter.objects.get(serial_number="S1"), kind=FailureKind.REPLAYED)
    register = Register.objects.get(obis_code=LOAD_PROFILE)
    start = NOW.replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    for name, value in (("DCU-1", 4_000), ("DCU-2", 7_000)):
        concentrator = Concentrator.objects.get(name=name)
        key = {"concentrator": concentrator, "register": register, "interval_minutes": 30, "interval_start": start}
        IntervalTotal.objects.create(**key, value_sum=value, meters_counted=1)
    page = text(root, "group", north.pk)
    assert "Group district:North" in page
    assert "all of it" in page
    assert "2 in service; 0 silent for 24 hours, 2 without any frame" in page
    assert "DCU-1" in page
    assert "DCU-2" not in page
    assert f"{energy(4_000)} in all" in page
    assert "2 with no key" in page
    assert reverse("admin:meters") + "?group=district%3ANorth" in page


@pytest.mark.parametrize(
    ("name", "there", "away"),
    [
        ("meters", [">S1<", ">S3<"], [">S2<"]),
        ("concentrators", ["DCU-1<"], ["DCU-2<"]),
        ("places", ["House 1"], []),
        ("readings", [], []),
        ("interval_totals", [], []),
        ("failure_tallies", [], []),
        ("failures", [], []),
        ("failure-groups", [], []),
        ("alerts", [], []),
    ],
)
def test_lists_show_a_group_alone(
    root: Client, north: FleetGroup, name: str, there: list[str], away: list[str]
) -> None:
    page = text(root, name, group="district:north")
    assert all(part in page for part in there)
    assert not any(part in page for part in away)
    assert "There is no group district:South." in text(root, name, group="district:South")
    if name in ("meters", "concentrators", "places"):
        tag = acts.make(parse("empty"), ACTOR)
        assert not any(part in text(root, name, group=str(tag)) for part in there)


def test_failures_and_alerts_of_a_group(root: Client, north: FleetGroup) -> None:
    rule = Rule.objects.create(name="quiet", condition="silent_meter")
    for serial in ("S1", "S2"):
        meter = Meter.objects.get(serial_number=serial)
        IntegrityFailureFactory.create(meter=meter, kind=FailureKind.REPLAYED)
        times = {"severity": 20, "opened_at": NOW, "seen_at": NOW, "summary": "x"}
        Alert.objects.create(rule=rule, subject_kind="meter", subject_id=meter.pk, subject=f"subject {serial}", **times)
    for name in ("failures", "failure-groups"):
        page = text(root, name, group="district:North", kind="replayed")
        assert ">S1<" in page
        assert ">S2<" not in page
    page = text(root, "alerts", group="district:North")
    assert "subject S1" in page
    assert "subject S2" not in page


def test_a_list_by_group_continues_by_id(root: Client, north: FleetGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ami_headend.console.meters.ROWS", 1)
    first = root.get(reverse("admin:meters"), {"group": "district:North"})
    assert "S1" in first.content.decode()
    last = root.get(reverse("admin:meters") + first.context["next_page"])
    assert "S3" in last.content.decode()
    assert "S1<" not in last.content.decode()
    wrong = root.get(reverse("admin:meters"), {"group": "district:North", "after": "S1"})
    assert "There is no such page" in wrong.content.decode()


def post(client: Client, name: str, body: dict[str, Any], query: str = "") -> str:
    answer = client.post(reverse(f"admin:{name}") + query, body, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def test_chosen_rows_come_into_a_group_and_go(root: Client, north: FleetGroup) -> None:
    two, other = Meter.objects.get(serial_number="S2"), Concentrator.objects.get(name="DCU-2")
    named = {"group": "district:North"}
    assert "1 put into district:North" in post(root, "meters", {"act": "put-in", "meter": two.pk, **named})
    assert "1 put into" in post(root, "concentrators", {"act": "put-in", "concentrator": other.pk, **named})
    assert acts.size(north) == (3, 1, 2)
    assert "1 taken out of" in post(root, "concentrators", {"act": "take-out", "concentrator": other.pk, **named})
    place = Place.objects.get()
    assert "1 taken out of" in post(root, "places", {"act": "take-out", "place": place.pk, **named})
    assert acts.size(north) == (2, 0, 1)
    assert "Nothing was done: choose rows first." in post(root, "meters", {"act": "put-in", **named})
    assert "there is no tag x" in post(root, "meters", {"act": "put-in", "meter": two.pk, "group": "x"})
    assert "name the group" in post(root, "meters", {"act": "put-in", "meter": two.pk})


def test_all_found_meters_come_into_a_group(root: Client, north: FleetGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    tag = acts.make(parse("seen"), ACTOR)
    all_found = {"act": "put-all", "group": "seen"}
    said = post(root, "meters", all_found, "?group=district:North&status=commissioned")
    assert "Nothing was done: 2 meters would be put in." in said
    monkeypatch.setattr(meters, "_COUNTED_MAX", 2)  # all that there are
    said = post(root, "meters", all_found, "?group=district:North&status=commissioned")
    assert "Nothing was done: 2 meters would be put in." in said
    monkeypatch.setattr(meters, "_COUNTED_MAX", 1)
    said = post(root, "meters", all_found, "?group=district:North&status=commissioned")
    assert "Nothing was done: more than 1 meter would be put in." in said
    assert not Meter.objects.filter(groups.of_meters([tag.pk], "pk")).exists()
    said = post(root, "meters", {**all_found, "sure": "yes"}, "?group=district:North&status=commissioned")
    assert "2 put into seen." in said
    found = Meter.objects.filter(groups.of_meters([tag.pk], "pk"))
    assert {meter.serial_number for meter in found} == {"S1", "S3"}
    assert "correct the filters" in post(root, "meters", {"act": "put-all", "group": "seen"}, "?group=nowhere")


def test_a_group_is_made_renamed_and_removed(root: Client) -> None:
    made = root.post(reverse("admin:groups"), {"name": "district:North", "note": "x"})
    group = FleetGroup.objects.get()
    assert made.url == reverse("admin:group", args=[group.pk])  # type: ignore[attr-defined]
    assert "already" in root.post(reverse("admin:groups"), {"name": "District: north"}).content.decode()
    page = reverse("admin:group", args=[group.pk])
    root.post(page, {"act": "rename", "name": "district:Nord", "note": ""})
    assert str(FleetGroup.objects.get()) == "district:Nord"
    assert "Remove this group?" in root.post(page, {"act": "remove"}).content.decode()
    assert FleetGroup.objects.exists()
    rule = Rule.objects.create(name="quiet", condition="silent_meter", group=group)
    assert "is in use: rule quiet" in root.post(page, {"act": "remove", "confirmed": 1}, follow=True).content.decode()
    rule.delete()
    assert "Removed district:Nord" in root.post(page, {"act": "remove", "confirmed": 1}, follow=True).content.decode()


def test_groups_are_listed_and_found(root: Client, north: FleetGroup) -> None:
    acts.make(parse("leaky"), ACTOR)
    page = text(root, "groups")
    assert "North" in page
    assert "leaky" in page
    assert "leaky" not in text(root, "groups", kind="District")
    assert "leaky" in text(root, "groups", search="LEA")
    for term in ("north", "district:No"):
        found = root.get(reverse("admin:search"), {"s": term, "extended": "1"}).content.decode()
        assert reverse("admin:group", args=[north.pk]) in found
    for name, pk in (
        ("meter", Meter.objects.get(serial_number="S1").pk),
        ("place", Place.objects.get().pk),
        ("concentrator", Concentrator.objects.get(name="DCU-1").pk),
    ):
        assert reverse("admin:group", args=[north.pk]) in text(root, name, pk)


def test_an_auditor_sees_groups_and_fills_none(north: FleetGroup) -> None:
    auditor = person("auditor")
    assert "Put in" not in text(auditor, "meters")
    assert auditor.post(reverse("admin:meters"), {"act": "put-in", "group": "district:North"}).status_code == 403
    assert "Meters without a usable key" in text(auditor, "group", north.pk)


def test_the_queries_of_lists_do_not_depend_on_groups(
    root: Client, north: FleetGroup, django_assert_max_num_queries: Any
) -> None:
    def cost(name: str, *args: int) -> int:
        KeptAnswer.objects.all().delete()  # so that each question is asked anew
        with django_assert_max_num_queries(60) as statements:
            text(root, name, *args)
        return len(statements)

    for name, args in (("groups", []), ("group", [north.pk])):
        cost(name, *args)
        few = cost(name, *args)
        for n in range(5):
            acts.make(parse(f"feeder:{name} {n}"), ACTOR)
        acts.put(north, Members([meter.pk for meter in Meter.objects.all()]), ACTOR)
        assert cost(name, *args) == few
