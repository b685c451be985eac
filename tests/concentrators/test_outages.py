"""Outages: who is out, since when, what ends it, and who is asked; over REST and on the pages."""

import re
from dataclasses import replace
from datetime import timedelta
from functools import partial
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ami_headend.alerts import storms
from ami_headend.alerts.conditions import SEARCHES
from ami_headend.alerts.models import Condition, Rule
from ami_headend.signin import roles
from concentrators.commands import status_check
from concentrators.commands.queue import DownlinkError
from concentrators.fleet import groups, outage_history, outages
from concentrators.fleet.groups import Members
from concentrators.fleet.outage_history import OutageSelection
from concentrators.models import Command, CommandKind, Concentrator, Uplink
from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord, InvocationCounter
from meters.code_models import SiteCode
from meters.codes.event_codes import EventCodes
from meters.group_models import FleetGroup
from meters.models import Meter, MeterEvent, MeterStatus, Register
from meters.readings.obis import COMMAND_DONE, FRAUD_LOG, STANDARD_LOG
from tests.concentrators import fleet
from tests.concentrators.fleet import Device
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db
ACTOR = Actor("ann", "here")
DOWN, UP = 1, 2
DAY = timedelta(days=1)


@pytest.fixture
def street() -> tuple[Concentrator, list[Device]]:
    """A concentrator with five meters that have keys."""
    concentrator: Concentrator = ConcentratorFactory.create(name="north")
    return concentrator, fleet.commission(5, concentrator)


def say(device: Device, code: int, minutes_ago: float, log: str = STANDARD_LOG) -> None:
    at = timezone.now() - timedelta(minutes=minutes_ago)
    MeterEvent.objects.create(
        meter=device.meter,
        register=Register.objects.get(obis_code=log),
        captured_at=at,
        value=code,
        uplink_id=1,
        received_at=at,
    )


def out(concentrator: Concentrator | None = None) -> list[str]:
    found = outages.meters_out(EventCodes(), timezone.now(), None if concentrator is None else concentrator.pk)
    return [one.serial_number for one in found]


def test_a_meter_is_out_until_it_says_anything(street: tuple[Concentrator, list[Device]]) -> None:
    concentrator, (gone, back, answered, late, suspended) = street
    for device in (gone, back, answered, late, suspended):
        say(device, DOWN, 60)
    say(back, UP, 30)
    say(answered, 7, 20, COMMAND_DONE)
    say(late, UP, 90)  # an earlier outage
    suspended.meter.status = MeterStatus.SUSPENDED
    suspended.meter.save()
    assert out() == [gone.meter.serial_number, late.meter.serial_number]
    (found,) = outages.by_concentrator(EventCodes(), timezone.now())
    assert (found.name, found.out, found.meters) == ("north", 2, 5)
    assert out(ConcentratorFactory.create()) == []
    say(gone, DOWN, 10)  # again: since then
    assert out(concentrator) == [late.meter.serial_number, gone.meter.serial_number]
    ended = outage_history.restored(EventCodes(), timezone.now(), timedelta(days=1))
    assert (ended.meters, round(ended.mean.total_seconds()), round(ended.longest.total_seconds())) == (2, 2100, 2400)


def test_both_in_one_second_is_no_outage(street: tuple[Concentrator, list[Device]]) -> None:
    _, (device, *_) = street
    say(device, DOWN, 60)
    MeterEvent.objects.create(
        meter=device.meter,
        register=Register.objects.get(obis_code=STANDARD_LOG),
        captured_at=MeterEvent.objects.get().captured_at,
        value=UP,
        uplink_id=1,
        received_at=timezone.now(),
    )
    assert out() == []


@pytest.mark.usefixtures("master_key_file")
def test_groups(street: tuple[Concentrator, list[Device]]) -> None:
    concentrator, devices = street
    north, east = (FleetGroup.objects.create(kind="district", name=name) for name in ("North", "East"))
    groups.put(north, Members(concentrators=[concentrator.pk]), ACTOR)
    groups.put(east, Members(meters=[devices[0].meter.pk, devices[4].meter.pk]), ACTOR)
    for device in devices[:2]:
        say(device, DOWN, 60)
    found = outages.by_group(EventCodes(), timezone.now())
    assert [(one.name, one.out, one.meters) for one in found] == [("district:North", 2, 5), ("district:East", 1, 2)]
    assert "district:North" in person(roles.OPERATOR).get(reverse("admin:outages")).content.decode()


def test_the_site_says_which_codes_those_are(street: tuple[Concentrator, list[Device]]) -> None:
    _, (device, *_) = street
    say(device, 7000, 5)
    assert out() == []
    value = {"name": "mains lost", "severity": "critical", "type": "3.26.0.85", "outage": "begins"}
    now = timezone.now()
    SiteCode.objects.create(table="events", key=f"{STANDARD_LOG}/7000", value=value, changed_at=now, changed_by="root")
    (row,) = person(roles.OPERATOR).get("/api/v1/outages").json()
    assert (row["concentrator"], row["meters_out"]) == ("north", 1)


def test_frames_that_were_accepted_since_are_said_and_end_nothing(street: tuple[Concentrator, list[Device]]) -> None:
    concentrator, (device, *_) = street
    say(device, DOWN, 60)
    fleet.verified(concentrator, [device.frame(0)], timezone.now())
    (found,) = outages.meters_out(EventCodes(), timezone.now())
    assert found.heard_at is not None


def test_the_queries_do_not_grow(street: tuple[Concentrator, list[Device]]) -> None:
    _, devices = street
    operator = person(roles.OPERATOR)
    for url in (reverse("admin:outages"), reverse("admin:outage", args=[street[0].pk])):
        say(devices[0], DOWN, 60)
        operator.get(url)
        with counting() as few:
            operator.get(url)
        for device in devices[1:]:
            say(device, DOWN, 50)
        with counting() as many:
            operator.get(url)
        assert len(many) == len(few)
        MeterEvent.objects.all().delete()


@pytest.mark.usefixtures("master_key_file")
class TestStatusCheck:
    def test_who_is_asked(self, street: tuple[Concentrator, list[Device]]) -> None:
        concentrator, (first, second, third, heard, fine) = street
        for device in (first, second, third, heard):
            say(device, DOWN, 60)
        fleet.verified(concentrator, [heard.frame(0)], timezone.now())
        done = status_check.check(concentrator.pk, ACTOR, timezone.now(), most=2)
        assert tuple(done) == (2, 0, 1, 0, 1, None)
        again = status_check.check(None, ACTOR, timezone.now())
        assert tuple(again) == (1, 2, 1, 0, 0, None)
        assert Command.objects.filter(kind=CommandKind.READ_NOW).count() == 3
        assert not Command.objects.filter(meter=fine.meter).exists()
        acts = list(AuditRecord.objects.filter(act="outage.check").order_by("number").values_list("result", flat=True))
        assert acts == ["2 queued", "1 queued"]
        status_check.check(None, ACTOR, timezone.now())
        assert AuditRecord.objects.filter(act="outage.check").count() == 2  # nothing was ordered

    def test_nobody_is_out(self) -> None:
        with pytest.raises(DownlinkError, match="no meter is out"):
            status_check.check(None, ACTOR, timezone.now())

    def test_the_page_asks_for_confirmation(self, street: tuple[Concentrator, list[Device]]) -> None:
        concentrator, (device, *_) = street
        say(device, DOWN, 60)
        operator = person(roles.OPERATOR)
        url = reverse("admin:outage", args=[concentrator.pk])
        assert device.meter.serial_number in operator.get(url).content.decode()
        assert 'name="sure" value="1"' in operator.get(url).content.decode()
        for sure in ({}, {"sure": "yes"}, {"sure": "0"}, {"sure": "1001"}):
            said = operator.post(url, {"act": "check", **sure}, follow=True).content.decode()
            assert "Nothing was ordered: confirm" in said
        say(street[1][1], DOWN, 30)  # the outage has grown since the page showed it
        said = operator.post(url, {"act": "check", "sure": "1"}, follow=True).content.decode()
        assert "1 meter is asked to read now; 1 is left for the next check" in said
        assert "north" in operator.get(reverse("admin:outages")).content.decode()

    def test_over_rest(self, street: tuple[Concentrator, list[Device]]) -> None:
        say(street[1][0], DOWN, 60)
        client = Client()
        client.force_login(User.objects.create_superuser("root"))
        for body, status in (
            ({}, 400),
            ({"confirm": 5, "concentrator": "nowhere"}, 400),
            ({"confirm": 5, "concentrator": "north"}, 200),
        ):
            answer = client.post("/api/v1/outages", body, content_type="application/json")
            assert answer.status_code == status, answer.content
        assert answer.json() == {"asked": 1, "asked_before": 0, "heard": 0, "cannot": 0, "held": None, "left": 0}


class TestPast:
    """Concentrator north: four meters out together, one of them still; and an outage of the fifth a day before."""

    @pytest.fixture(autouse=True)
    def _storm(self, street: tuple[Concentrator, list[Device]]) -> None:
        self.north, self.devices = street
        for number, device in enumerate(self.devices[:4]):
            say(device, DOWN, 600 - number)
        for device in self.devices[:2]:
            say(device, UP, 540)
        say(self.devices[2], 7, 500, COMMAND_DONE)
        say(self.devices[4], DOWN, 2_000)
        say(self.devices[4], UP, 1_990)

    def selection(self, **changes: Any) -> OutageSelection:
        now = timezone.now()
        return OutageSelection(**{"start": now - timedelta(days=3), "end": now, **changes})

    def test_outages_that_touch_are_one(self) -> None:
        (storm, before), key = outage_history.past_outages(self.selection(), 50)
        assert key is None
        assert (storm.concentrator, storm.meters, storm.still_out, before.meters) == ("north", 4, 1, 1)
        assert storm.until is not None
        assert round((storm.until - storm.since).total_seconds() / 60) == 100
        assert (storm.mean_s, before.mean_s) == (((60 + 59 + 98) * 20), 600)
        now = timezone.now()
        began_before = self.selection(start=now - timedelta(minutes=550), end=now - timedelta(minutes=300))
        assert [one.meters for one in outage_history.past_outages(began_before, 50)[0]] == [4]
        over_before = self.selection(start=now - timedelta(minutes=480), end=now - timedelta(minutes=300))
        assert [one.still_out for one in outage_history.past_outages(over_before, 50)[0]] == [1]
        assert outage_history.past_outages(self.selection(start=now - timedelta(days=4), end=now - DAY * 3), 5)[0] == []

    def test_pages_continue_after_a_key(self) -> None:
        for query, rows in ((outage_history.past_outages, 2), (outage_history.meter_outages, 5)):
            whole = query(self.selection(), 50)[0]
            found: list[Any] = []
            selection = self.selection()
            for _ in range(rows):
                page, key = query(selection, 1)
                found += page
                selection = replace(selection, after=key)
            assert found == whole
            assert query(selection, 1) == ([], None)

    def test_of_a_meter_it_is_known_who_said_that_it_is_back(self) -> None:
        found = outage_history.meter_outages(self.selection(), 50)[0]
        assert [(one.is_told, one.until is None) for one in found] == [
            (None, True), (False, False), (True, False), (True, False), (True, False),
        ]  # fmt: skip
        assert outage_history.count(self.selection(), 3) == 3
        assert {one.concentrator for one in found} == {"north"}
        elsewhere = self.selection(concentrator_ids=[ConcentratorFactory.create().pk])
        assert outage_history.meter_outages(elsewhere, 50)[0] == []

    @pytest.mark.usefixtures("master_key_file")
    def test_by_group_on_the_pages_and_over_rest(self) -> None:
        tag = FleetGroup.objects.create(kind="tag", name="hospital")
        groups.put(tag, Members(meters=[self.devices[0].meter.pk, self.devices[3].meter.pk]), ACTOR)
        groups.put(tag, Members(concentrators=[ConcentratorFactory.create().pk]), ACTOR)
        operator, name = person(roles.OPERATOR), self.devices[3].meter.serial_number
        (row,) = operator.get("/api/v1/outages", {"group": "hospital"}).json()
        assert (row["meters_out"], row["meters"]) == (1, 2)  # of the group's meters there
        assert operator.get("/api/v1/outages/groups").json()[0]["group"] == "hospital"
        (row,) = operator.get("/api/v1/outages/past", {"group": "hospital"}).json()["results"]
        assert (row["meters"], row["still_out"], row["concentrator"]) == (2, 1, "north")
        csv = b"".join(operator.get("/api/v1/outages/meters", {"format": "csv"}).streaming_content)  # type: ignore[attr-defined]
        assert len(csv.splitlines()) == 6
        now = operator.get(reverse("admin:outages"), {"group": "hospital"}).content.decode()
        night = re.search(r'href="([^"]*past[^"]*)">Last night', now)
        assert night is not None
        assert "group=hospital" in night.group(1)
        text = operator.get(reverse("admin:past-outages"), {"group": "hospital"}).content.decode()
        assert "1 not back" in text
        (to_meters,) = re.findall(r'href="([^"]*rows=meters[^"]*)"', text)
        text = operator.get(unescape(to_meters)).content.decode()
        assert name in text
        assert "sent another event" not in text
        assert self.devices[2].meter.serial_number not in text  # of another group
        said = operator.post(f"{reverse('admin:outages')}?group=hospital", {"act": "check", "sure": "2"}, follow=True)
        assert "1 meter is asked" in said.content.decode()
        assert Command.objects.get().meter.serial_number == name

    def test_the_queries_of_the_past_do_not_grow(self) -> None:
        operator, url = person(roles.OPERATOR), reverse("admin:past-outages")
        for rows in ("", "meters"):
            operator.get(url, {"rows": rows})
            with counting() as few:
                operator.get(url, {"rows": rows})
            for minutes in range(2_100, 2_400, 30):
                say(self.devices[4], DOWN, minutes)
                say(self.devices[4], UP, minutes - 5)
            with counting() as many:
                operator.get(url, {"rows": rows})
            assert len(many) == len(few)


class TestStorms:
    """Rules that find meters leave out those that are out together: the alert of their concentrator stands for them."""

    def found(self, condition: Condition, **values: Any) -> set[int]:
        rule = Rule.objects.filter(condition=condition)[0]
        for name, value in values.items():
            setattr(rule, name, value)
        return {one.id for one in SEARCHES[condition].find(rule, [], timezone.now()).listed}

    def test_of_many_no_meter_is_named_and_after_it_they_are_judged_as_usual(
        self, street: tuple[Concentrator, list[Device]]
    ) -> None:
        concentrator, devices = street
        ids = [device.meter.pk for device in devices]
        Meter.objects.update(commissioned_at=timezone.now() - timedelta(days=30))
        fleet.verified(concentrator, [devices[4].frame(0)], timezone.now())  # the concentrator is heard
        uplink = Uplink.objects.latest("pk")
        Uplink.objects.filter(pk=uplink.pk).update(received_at=timezone.now())
        InvocationCounter.objects.all().delete()  # no meter was ever heard
        silent = partial(self.found, Condition.SILENT_METER, period_minutes=60)
        power_down = partial(self.found, Condition.METER_EVENT, period_minutes=1440, threshold=1)
        assert silent() == set(ids)
        for device in devices[:3]:
            say(device, DOWN, 120)
        assert silent() == set(ids[3:])
        for selector in (f"{STANDARD_LOG}/{DOWN}", STANDARD_LOG):
            assert power_down(selector=selector) == set()
        assert self.found(Condition.OUTAGE) == {concentrator.pk}
        say(devices[0], UP, 60)  # two are still out: that is no storm any more
        assert silent() == set(ids)
        assert power_down(selector=f"{STANDARD_LOG}/{DOWN}") == set()  # yet it was one
        say(devices[0], 40, 30, FRAUD_LOG)
        assert power_down(selector=FRAUD_LOG) == {ids[0]}

    def test_without_a_rule_for_outages_each_meter_is_named(self, street: tuple[Concentrator, list[Device]]) -> None:
        for device in street[1][:3]:
            say(device, DOWN, 120)
        Rule.objects.filter(condition=Condition.OUTAGE).update(is_enabled=False)
        assert storms.meters(timezone.now()) == set()
        Rule.objects.filter(condition=Condition.OUTAGE).update(is_enabled=True, threshold=4)
        assert storms.meters(timezone.now()) == set()

    @pytest.mark.usefixtures("master_key_file")
    def test_a_rule_of_a_group_counts_its_meters(self, street: tuple[Concentrator, list[Device]]) -> None:
        for device in street[1][:3]:
            say(device, DOWN, 120)
        tag = FleetGroup.objects.create(kind="tag", name="hospital")
        groups.put(tag, Members(meters=[device.meter.pk for device in street[1][1:3]]), ACTOR)
        Rule.objects.filter(condition=Condition.OUTAGE).update(group=tag, threshold=2)
        assert storms.meters(timezone.now()) == {device.meter.pk for device in street[1][1:3]}
        assert self.found(Condition.OUTAGE) == {street[0].pk}
        assert self.found(Condition.OUTAGE, threshold=3) == set()

    def test_an_open_alert_lasts_as_long_as_they_are_out(self, street: tuple[Concentrator, list[Device]]) -> None:
        concentrator, devices = street
        for device in devices[:3]:
            say(device, DOWN, 2_000)
        rule = Rule.objects.get(condition=Condition.OUTAGE)
        find = SEARCHES[Condition.OUTAGE].find
        assert find(rule, [], timezone.now()).total == 0  # of more than a day ago
        assert find(rule, [concentrator.pk], timezone.now()).total == 1
