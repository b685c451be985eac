"""The list of meters and the page of one: what is shown and to whom, what is missing, commands, and their cost."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from ami_headend.models import KeptAnswer
from ami_headend.signin import roles
from concentrators.commands import capture_period
from concentrators.models import Command, CommandKind, CommandState, Concentrator
from keyvault.audit.chain import Actor
from keyvault.device_keys import agreement_keys, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import AuditRecord, DeviceKey
from meters.models import Meter, MeterStatus, Place, Reading
from meters.registry import lifecycle
from tests.concentrators import fleet
from tests.concentrators.fleet import INTERVAL, NOW, START, Device, register_id, verified
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import ConcentratorFactory, IntegrityFailureFactory, MeterFactory

pytestmark = pytest.mark.django_db

LIST = "admin:meters"


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create(name="north")


@pytest.fixture
def device(concentrator: Concentrator) -> Device:
    """A meter with a day of readings from START on, four intervals of which are missing."""
    device = fleet.commission(1, concentrator)[0]
    Meter.objects.filter(pk=device.meter.pk).update(commissioned_at=START)
    frames = [device.frame(number) for number in range(48) if number not in (10, 11, 12, 30)]
    verified(concentrator, frames, timezone.now())
    return device


def page_of(device: Device) -> str:
    return reverse("admin:meter", args=[device.meter.pk])


def listed(client: Any, **asked: str) -> list[str]:
    answer = client.get(reverse(LIST), asked)
    assert answer.status_code == 200
    return [" | ".join(str(cell.content) for cell in row) for row in answer.context["content"].rows]


def test_meters_are_found_and_told_apart(device: Device) -> None:
    silent, never = fleet.commission(2, None)
    silent.counter()
    row = silent.counter()
    row.heard_at = NOW - timedelta(days=3)
    row.save()
    Meter.objects.filter(pk=never.meter.pk).update(name="Mill Lane 7")
    for status in (MeterStatus.RETIRED, MeterStatus.MOVED):
        MeterFactory.create(serial_number=status.value, status=status)
    client = person(roles.OPERATOR)
    assert len(listed(client)) == 5
    for asked, serial, health in (
        ({"search": device.meter.serial_number}, device.meter.serial_number, "active"),
        ({"search": device.title.hex()}, device.meter.serial_number, "active"),
        ({"health": "silent"}, silent.meter.serial_number, "silent"),
        ({"health": "never"}, never.meter.serial_number, "no frame yet"),
        ({"search": "mill lane"}, never.meter.serial_number, "no frame yet"),
        ({"status": "retired"}, "retired", "Retired"),
        ({"status": "moved"}, "moved", "Moved"),
        ({"concentrator": "north"}, device.meter.serial_number, "north"),
    ):
        [found] = listed(client, **asked)
        assert serial in found
        assert health in found
    assert listed(client, search="no such meter") == []


def test_a_laboratory_meter_is_marked_as_one(device: Device) -> None:
    client = person(roles.OPERATOR)
    assert "laboratory meter" not in client.get(page_of(device)).content.decode()
    Meter.objects.filter(pk=device.meter.pk).update(is_laboratory=True)
    assert "laboratory meter" in client.get(page_of(device)).content.decode()


def test_meters_are_told_apart_by_scheme(device: Device) -> None:
    usual, moved = fleet.commission(2, None)
    DeviceKey.objects.filter(system_title=moved.title).update(scheme="mac", algorithm=5)
    client = person(roles.OPERATOR)
    [found] = listed(client, scheme="mac")
    assert moved.meter.serial_number in found
    assert " | mac | " in found
    assert len(listed(client, scheme="ccm")) == 2
    assert listed(client, scheme="hop") == []
    DeviceKey.objects.filter(system_title=usual.title).update(state="compromised")
    [found] = listed(client, search=usual.meter.serial_number)
    assert " | no key | " in found


@pytest.mark.parametrize("asked", [{"concentrator": "nowhere"}, {"status": "x"}, {"scheme": "x"}])
def test_nonsense_is_answered_with_what_is_wrong(asked: dict[str, str]) -> None:
    text = person(roles.OPERATOR).get(reverse(LIST), asked).content.decode()
    assert "Correct the filters" in text or "There is no such page" in text


@pytest.mark.parametrize("field", ["search", "after"])
def test_a_text_with_a_nul_is_refused(field: str) -> None:
    answer = person(roles.OPERATOR).get(reverse(LIST), {field: "a\0b"})
    assert answer.status_code == 400
    assert f"{field}: holds a NUL character" in answer.content.decode()


def test_the_registry_offers_the_acts_that_a_meter_can_take() -> None:
    meter = MeterFactory.create()
    client, address = person(roles.OPERATOR), reverse("admin:meters_meter_change", args=[meter.pk])
    acts = ("suspend", "resume", "install", "exchange", "retire")

    def offered() -> list[str]:
        text = client.get(address).content.decode()
        return [act for act in acts if reverse(f"admin:meters_meter_{act}", args=[meter.pk]) in text]

    assert offered() == ["suspend", "install", "retire"]
    lifecycle.install(meter, Place.objects.create(name="MP 1"), meter.commissioned_at)
    lifecycle.suspend(meter)
    assert offered() == ["resume", "exchange", "retire"]
    lifecycle.retire(meter, timezone.now())
    assert offered() == []


def test_open_failures_are_counted_and_lead_to_them(device: Device) -> None:
    IntegrityFailureFactory.create_batch(3, meter=device.meter)
    [row] = listed(person(roles.OPERATOR))
    assert f"meter={device.meter.serial_number}&amp;state=open" in row
    assert ">3</a>" in row


def test_the_page_shows_what_is_missing_and_where_to_export_it(device: Device) -> None:
    client = person(roles.OPERATOR)
    answer = client.get(page_of(device), {"period": "day", "on": f"{START:%Y-%m-%d}"})
    report = answer.context["report"]
    expected_here = [number for number in (10, 11, 12, 30) if _day(number) == f"{START:%Y-%m-%d}"]
    assert report.missing == len(expected_here)
    export = dict(answer.context["exports"])["CSV"]
    text = b"".join(client.get(export).streaming_content).decode()  # type: ignore[attr-defined]
    assert text.count("\n") == 1 + answer.context["profile"].counted
    week = client.get(page_of(device), {"period": "month", "on": f"{START:%Y-%m-%d}"})
    assert week.context["profile"].counted in (44, answer.context["profile"].counted)


def _day(number: int) -> str:
    return f"{START + number * timedelta(minutes=30):%Y-%m-%d}"


def test_the_strip_of_days_marks_the_day_that_lacks_intervals(device: Device) -> None:
    days = person(roles.OPERATOR).get(page_of(device)).context["days"]
    assert len(days) == 35
    lacking = {day["day"].isoformat() for day in days if day["tone"] == "part"}
    assert {_day(number) for number in (10, 11, 12, 30)} <= lacking
    assert days[0]["tone"] == "none"


@pytest.mark.parametrize(
    ("scheme", "says"), [("ccm", ">ccm<"), ("mac", "mac:carriedinclear"), ("hop", "hop:trustedattheconcentrator")]
)
def test_how_readings_are_protected_is_shown(device: Device, scheme: str, says: str) -> None:
    DeviceKey.objects.filter(system_title=device.title).update(scheme=scheme)
    page = person(roles.OPERATOR).get(page_of(device)).content.decode()
    assert says in "".join(page.partition("readings protected by")[2][:600].split())


def test_registers_keys_and_events_are_shown(device: Device) -> None:
    text = person(roles.OPERATOR).get(page_of(device)).content.decode()
    assert "Active energy import" in text
    assert 'title="10047 Wh"' in text
    assert "10.0 kWh" in text
    assert "transfer key" not in text
    assert device.title.hex() in text


@pytest.mark.parametrize("asked", ["period=year&on=x&register=y", "on=0001-01-01", "on=9999-12-31&period=month"])
def test_an_odd_address_shows_a_day(device: Device, asked: str) -> None:
    assert person(roles.OPERATOR).get(f"{page_of(device)}?{asked}").status_code == 200


@pytest.mark.parametrize("number", ["0", "9" * 30])
def test_a_meter_that_is_not_there(number: str) -> None:
    assert person(roles.OPERATOR).get(f"/admin/meters/{number}/").status_code == 404


def test_commands_are_given_followed_and_taken_back(device: Device) -> None:
    client, page = person(roles.OPERATOR), page_of(device)
    for act, kind in (("read-now", CommandKind.READ_NOW), ("set-clock", CommandKind.SET_CLOCK)):
        answer = client.post(page, {"act": act}, follow=True)
        assert f"1 command queued: {kind.label}" in answer.content.decode()
        assert Command.objects.latest("pk").kind == kind
    assert AuditRecord.objects.latest("number").act == "command.set_clock"
    number = Command.objects.latest("pk").pk
    assert (
        f"Command {number} is cancelled"
        in client.post(page, {"act": "cancel", "number": number}, follow=True).content.decode()
    )
    assert Command.objects.get(pk=number).state == CommandState.CANCELLED
    again = client.post(page, {"act": "cancel", "number": number}, follow=True).content.decode()
    assert "has ended" in again


def test_gaps_of_the_period_are_asked_for_once(device: Device) -> None:
    client = person(roles.OPERATOR)
    page = f"{page_of(device)}?period=day&on={_day(10)}"
    client.post(page, {"act": "resend"})
    asked = Command.objects.filter(kind=CommandKind.RESEND)
    over = [10, 30, *([48] if timezone.now() >= START + timedelta(minutes=30 * 49) else [])]  # the last one just now
    assert asked.count() == len({number for number in over if _day(number) == _day(10)})
    again = client.post(page, {"act": "resend"}, follow=True).content.decode()
    assert "each gap has been ordered already" in again


@pytest.mark.parametrize("given", [{"act": "x"}, {}, {"act": "cancel", "number": "x"}, {"act": "cancel"}])
def test_odd_acts_do_nothing(device: Device, given: dict[str, str]) -> None:
    assert "Nothing was done" in person(roles.OPERATOR).post(page_of(device), given, follow=True).content.decode()
    assert not Command.objects.exists()


def test_a_suspended_meter_gets_no_command(device: Device) -> None:
    Meter.objects.filter(pk=device.meter.pk).update(status=MeterStatus.SUSPENDED)
    client = person(roles.OPERATOR)
    assert "Read now" not in client.get(page_of(device)).content.decode()
    assert "Nothing was done" in client.post(page_of(device), {"act": "read-now"}, follow=True).content.decode()


def test_each_role_sees_its_part(device: Device) -> None:
    for role, readings, keys, acts in (
        (roles.OPERATOR, True, True, True),
        (roles.KEY_OFFICER, False, True, False),
        (roles.ADMINISTRATOR, False, False, False),
        (roles.AUDITOR, False, True, False),
    ):
        client = person(role)
        answer = client.get(page_of(device))
        assert ("profile" in answer.context) == readings, role
        assert (answer.context["keys"] is not None) == keys, role
        assert ("Read now" in answer.content.decode()) == acts, role
        if not acts:
            assert client.post(page_of(device), {"act": "read-now"}).status_code == 403
    assert person(rights=("view_uplink",)).get(page_of(device)).status_code == 403
    assert person(rights=("view_uplink",)).get(reverse(LIST)).status_code == 403


@pytest.mark.parametrize(("address", "most"), [(lambda device: reverse(LIST), 10), (page_of, 38)], ids=["list", "page"])
def test_pages_cost_the_same_however_much_there_is(
    device: Device, concentrator: Concentrator, address: Callable[[Device], str], most: int
) -> None:
    client = person(roles.OPERATOR)
    client.get(address(device))
    with counting() as statements:
        client.get(address(device))
        few = statements.take()
        fleet.commission(12, concentrator)
        IntegrityFailureFactory.create_batch(12, meter=device.meter)
        Reading.objects.filter(meter=device.meter, register_id=register_id(INTERVAL)).delete()
        statements.take()
        client.get(address(device))
        assert len(statements) == len(few) <= most, [*statements]


def test_missing_intervals_are_exported(device: Device) -> None:
    client = person(roles.OPERATOR)
    asked = {"period": "month", "on": f"{START:%Y-%m-%d}"}
    address = client.get(page_of(device), asked).context["gaps_export"]
    lines = b"".join(client.get(address).streaming_content).decode().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == '"system_title","obis_code","from","to","intervals"'
    assert len(lines) == 1 + len(client.get(page_of(device), asked).context["report"].gaps)
    assert person(roles.KEY_OFFICER).get(address).status_code == 403


def test_the_newest_value_is_shown_however_long_the_meter_was_away(device: Device, concentrator: Concentrator) -> None:
    """After an outage of weeks the oldest readings come first: the meter is heard now, of long ago."""
    Reading.objects.filter(meter=device.meter).delete()
    long_ago = START - timedelta(days=40)
    Reading.objects.create(
        meter=device.meter, register_id=register_id(INTERVAL), captured_at=long_ago, value=4711, uplink_id=1
    )
    shown = person(roles.OPERATOR).get(page_of(device)).context["last_values"]
    assert "4711 Wh" in str(shown.rows[0][1].content)


def test_a_length_to_come_is_not_shown_as_that_of_now(device: Device) -> None:
    capture_period.change([capture_period.LengthChange(device.meter.pk, 60, NOW + timedelta(days=2))], NOW)
    assert "60 min" not in person(roles.OPERATOR).get(page_of(device)).context["figures"][1].value
    [row] = listed(person(roles.OPERATOR))
    assert "| 30 min |" in row


def test_chosen_meters_get_a_command_each(concentrator: Concentrator) -> None:
    devices = fleet.commission(3, concentrator)
    client = person(roles.OPERATOR)
    chosen = [device.meter.pk for device in devices[:2]]
    said = client.post(reverse(LIST), {"act": "read-now", "meter": chosen}, follow=True).content.decode()
    assert "2 commands queued" in said
    assert set(Command.objects.values_list("meter_id", "kind")) == {(pk, CommandKind.READ_NOW) for pk in chosen}
    assert "choose meters first" in client.post(reverse(LIST), {"act": "set-clock"}, follow=True).content.decode()
    assert client.post(reverse(LIST), {"act": "compromise", "meter": chosen}).status_code == 403


def test_chosen_meters_lead_to_the_page_of_compromised_keys(concentrator: Concentrator) -> None:
    devices = fleet.commission(2, concentrator)
    given = {"act": "compromise", "meter": [device.meter.pk for device in devices]}
    page = person(roles.KEY_OFFICER).post(reverse(LIST), given, follow=True)
    assert all(device.title.hex() in page.content.decode() for device in devices)


def test_a_meter_that_cannot_get_a_command_is_named(concentrator: Concentrator) -> None:
    retired = MeterFactory.create(status=MeterStatus.RETIRED)
    given = {"act": "read-now", "meter": [retired.pk, "9" * 30, "x"]}
    said = person(roles.OPERATOR).post(reverse(LIST), given, follow=True).content.decode()
    assert f"Meter {retired}:" in said
    assert not Command.objects.exists()


def test_few_silent_meters_are_found_from_what_is_kept(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """To go through a million meters for three takes seconds; one that is heard again leaves the list at once."""
    silent, never = fleet.commission(2, None)
    row = silent.counter()
    row.heard_at = NOW - timedelta(days=3)
    row.save()
    client = person(roles.OPERATOR)
    assert silent.meter.serial_number in listed(client, health="silent")[0]
    monkeypatch.setattr("ami_headend.cached_answers.RESTS", 1e9)
    later = fleet.commission(1, None)[0]
    assert len(listed(client, health="never")) == 1
    KeptAnswer.objects.all().delete()
    found = " ".join(listed(client, health="never"))
    assert later.meter.serial_number in found
    assert never.meter.serial_number in found
    row.heard_at = NOW
    row.save()
    assert listed(client, health="silent") == []
    monkeypatch.setattr("ami_headend.console.fleet_queries.FEW", 0)
    KeptAnswer.objects.all().delete()
    assert len(listed(client, health="never")) == 2


def test_one_meter_gets_a_key_of_another_scheme(concentrator: Concentrator) -> None:
    (device,) = fleet.commission(1, concentrator)
    provisioning.provision_stored([NewKey(device.title, 0)])
    url = reverse("admin:meter-new-key", args=[device.meter.pk])
    officer = person(roles.KEY_OFFICER)
    assert url in officer.get(reverse("admin:meter", args=[device.meter.pk])).content.decode()
    assert "under a key of scheme <strong>ccm</strong>" in officer.get(url).content.decode()
    refused = officer.post(url, {"scheme": "sealed"}).content.decode()
    assert "here is no agreement key" in refused
    assert "has no keys for" in officer.post(url, {"scheme": "mac", "algorithm": "10"}).content.decode()
    for name in ("hes-1", "hes-2"):
        agreement_keys.init(name, Actor("tester", "test"))
    said = officer.post(url, {"scheme": "sealed", "agreement_key": "hes-2"}, follow=True).content.decode()
    assert "brings the key of epoch 2" in said
    pending = DeviceKey.objects.get(state="pending")
    assert (pending.scheme, getattr(pending.agreement_key, "name", None)) == ("sealed", "hes-2")
    assert url not in person(roles.OPERATOR).get(reverse("admin:meter", args=[device.meter.pk])).content.decode()
