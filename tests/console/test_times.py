"""Times of year 1 and 9999, which are none in some zone of the earth: refused where they are given, in words."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from ami_headend.signin import roles
from concentrators.models import Assignment, Concentrator, ConcentratorToken
from meters.models import Installation, Meter, MeterStatus, Place
from tests.console.people import person
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db

DAYS = ["0001-01-01", "1969-12-30", "9999-12-31"]
REFUSAL = "time that can be stored"


@pytest.fixture
def meter() -> Meter:
    return MeterFactory.create()


def forms(meter: Meter, concentrator: Concentrator, day: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Each form that takes a time that is kept: its address, what is sent, and whose role it takes."""
    at = {"at_0": day, "at_1": "12:00:00"}
    new = {"system_title_hex": "0102030405060708", "serial_number": "new", "interval_minutes": "30"}
    commissioned = {"commissioned_at_0": day, "commissioned_at_1": "12:00:00"}
    place, other = Place.objects.get_or_create(name="house")[0], MeterFactory.create()
    yield reverse("admin:meters_meter_add"), new | commissioned, roles.OPERATOR
    changed = {"serial_number": meter.serial_number} | commissioned
    yield reverse("admin:meters_meter_change", args=[meter.pk]), changed, roles.OPERATOR
    acts: dict[str, dict[str, Any]] = {
        "install": {"place": place.pk},
        "exchange": {"new_meter": other.pk},
        "retire": {},
        "interval": {"interval_minutes": "15", "how": "hand"},
    }
    for act, more in acts.items():
        yield reverse(f"admin:meters_meter_{act}", args=[meter.pk]), at | more, roles.OPERATOR
    assigned = {"meters": [meter.pk], "concentrator": concentrator.pk, "valid_from_0": day, "valid_from_1": "12:00:00"}
    yield reverse("admin:meters_meter_assign"), assigned, roles.OPERATOR
    token = {"act": "make", "label": "x", "expires_at": f"{day}T12:00"}
    yield reverse("admin:concentrator", args=[concentrator.pk]), token, roles.ADMINISTRATOR


@pytest.mark.parametrize("day", DAYS)
def test_no_form_takes_a_time_that_cannot_be_shown_everywhere(meter: Meter, day: str) -> None:
    concentrator = ConcentratorFactory.create()
    clients = {role: person(role) for role in (roles.OPERATOR, roles.ADMINISTRATOR)}
    before = Meter.objects.get(pk=meter.pk).commissioned_at
    for address, given, role in forms(meter, concentrator, day):
        answer = clients[role].post(address, given)
        assert answer.status_code == 200, address
        assert REFUSAL in answer.content.decode(), address
    meter.refresh_from_db()
    assert (meter.commissioned_at, meter.status) == (before, MeterStatus.COMMISSIONED)
    assert not Meter.objects.filter(serial_number="new").exists()
    assert not any(model.objects.exists() for model in (Installation, Assignment, ConcentratorToken))


@pytest.mark.parametrize("day", DAYS)
def test_no_imported_time_keeps_a_page_from_being_shown(day: str) -> None:
    """One such line and the list of places was an error for everybody east or west of it, with every other place."""
    client = person(roles.OPERATOR)
    table = f"system_title,serial_number,place,commissioned_at\n0102030405060708,SN,house,{day}\n".encode()
    form = {"file": SimpleUploadedFile("meters.csv", table), "keys": "later", "act": "import"}
    assert "is not a date from 1970 on" in client.post(reverse("admin:meter-import"), form).content.decode()
    for zone in ("America/Los_Angeles", "Pacific/Kiritimati"):
        client.cookies["zone"] = zone
        assert client.get(reverse("admin:places")).status_code == 200


@pytest.mark.parametrize("day", DAYS)
def test_no_clock_was_wrong_beyond_all_times(day: str, admin_client: Client) -> None:
    given = {"from": f"{day}T00:00:00Z", "to": f"{day}T23:59:59Z", "behind_s": 3600, "note": "by NTP"}
    answer = admin_client.post("/api/v1/clock-corrections", given, content_type="application/json")
    assert (answer.status_code, REFUSAL in answer.content.decode()) == (400, True)
    with pytest.raises(CommandError, match=REFUSAL):
        call_command("correct_clock", f"--from={day}T00:00Z", f"--to={day}T23:59Z", "--behind=3600", "--note=by NTP")
