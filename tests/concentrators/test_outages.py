"""Outages: who is out, since when, what ends it, and who is asked; over REST and on the pages."""

from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ami_headend.signin import roles
from concentrators.commands import status_check
from concentrators.commands.queue import DownlinkError
from concentrators.fleet import groups, outages
from concentrators.fleet.groups import Members
from concentrators.models import Command, CommandKind, Concentrator
from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord
from meters.code_models import SiteCode
from meters.codes.event_codes import EventCodes
from meters.group_models import FleetGroup
from meters.models import MeterEvent, MeterStatus, Register
from meters.readings.obis import COMMAND_DONE, STANDARD_LOG
from tests.concentrators import fleet
from tests.concentrators.fleet import Device
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db
ACTOR = Actor("ann", "here")
DOWN, UP = 1, 2


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
    ended = outages.restored(EventCodes(), timezone.now(), timedelta(days=1))
    assert (ended.meters, round(ended.longest.total_seconds())) == (1, 1800)


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
        acts = list(AuditRecord.objects.filter(act="outage.check").values_list("result", flat=True))
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
        said = operator.post(url, {"act": "check"}, follow=True).content.decode()
        assert "Nothing was ordered: confirm" in said
        said = operator.post(url, {"act": "check", "sure": "yes"}, follow=True).content.decode()
        assert "1 meter is asked to read now" in said
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
