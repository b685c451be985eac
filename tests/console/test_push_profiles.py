"""A push profile is registered on a page: from a frame that waits, element by element, to readings."""

import secrets
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from ami_headend.signin import roles
from concentrators.ingest import reverification_queue
from concentrators.models import Concentrator, IntegrityFailure, Uplink
from keyvault.audit import chain
from keyvault.models import DeviceKey, KeyState
from meters.models import HouseholdAccess, PushProfile, Reading
from meters.readings import push_profiles
from meters.readings.push.definition import parse_definition
from tests.concentrators.dlms_devices import dlms_meter
from tests.concentrators.fleet import judged, outcome
from tests.concentrators.statements import counting
from tests.concentrators.test_push_profile_command import PLAIN, TITLE, dated
from tests.console.people import person
from tests.dlms_frames import SYNTHETIC
from tests.factories import ConcentratorFactory
from tests.meters.push.profiles import BY_NAME

pytestmark = pytest.mark.django_db
NAME = "admin:push-profiles"
POSITIONAL = {
    "name": "a list", "titles": "545354", "clock_from": "apdu", "deviation": "standard", "invalid_bit": "refuse",
    "voltage_ratio": "1", "current_ratio": "1",
}  # fmt: skip


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


@pytest.fixture
def waiting(concentrator: Concentrator) -> list[bytes]:
    """Three frames of a meter, one of which waits."""
    device = dlms_meter(TITLE, secrets.token_bytes(32), concentrator)
    frames = [device.frame(dated(PLAIN), counter) for counter in range(3)]
    assert judged(concentrator, frames[:1]) == {"unknown_profile": 1}
    return frames


def page_of_waiting() -> str:
    return reverse("admin:push-profile-new", args=[IntegrityFailure.objects.get().pk])


def answers(client: Client, address: str, **said: str) -> dict[str, str]:
    """The form as it is filled in at first, with the columns of the sample answered."""
    shown: Any = client.get(address).context
    filled = dict(POSITIONAL)
    for column in shown["columns"]:
        filled |= {column.add_prefix(name): str(value or "") for name, value in column.initial.items()}
    return filled | said


def test_from_a_frame_that_waits_to_readings(concentrator: Concentrator, waiting: list[bytes]) -> None:
    client = person(roles.OPERATOR)
    listed = client.get(reverse(NAME)).content.decode()
    assert "TST (545354)" in listed
    address = page_of_waiting()
    assert address in listed
    text = client.get(address).content.decode()
    assert "10,331,445" in text
    assert HouseholdAccess.objects.exists()
    filled = answers(client, address)
    assert "Say what this element is." in client.post(address, filled | {"act": "check"}).content.decode()
    ignored = {key: "ignore" for key, value in filled.items() if key.endswith("-means") and not value}
    filled |= ignored | {"at1-means": "value", "at1-register": "1-0:1.8.0"}
    assert "The frame says none: enter" in client.post(address, filled | {"act": "check"}).content.decode()
    filled |= {"at1-scaler": "0", "at1-unit": "Wh"}
    checked = client.post(address, filled | {"act": "check"}).content.decode()
    assert "10,331,445 x 10^0" in checked
    assert not PushProfile.objects.exists()
    done = client.post(address, filled | {"act": "register"}, follow=True).content.decode()
    assert "Registered a list version 1" in done
    assert "judged again" in done
    while reverification_queue.work():
        pass
    assert outcome(Uplink.objects.get()) == {"accepted": 1}
    assert Reading.objects.get().value == 10_331_445
    assert judged(concentrator, waiting[1:]) == {"accepted": 2}
    assert "No notification waits for a profile" in client.get(reverse(NAME)).content.decode()
    assert chain.verify().number >= 1
    assert client.get(address).status_code == 404


def filled_for(shown: Any, definition: dict[str, Any]) -> dict[str, str]:
    """The form as somebody fills it in who has a definition on paper."""
    clock = definition["clock"]
    filled = POSITIONAL | {"clock_from": clock["from"], "zone": clock.get("zone", "")}
    filled |= {name: str(definition[name]) for name in ("period_s", "interval_time") if name in definition}
    wanted = parse_definition(definition)
    for column in shown["columns"]:
        element = column.element
        answers = {name: str(value or "") for name, value in column.initial.items()}
        said = wanted.by_place.get(element.place) or wanted.by_obis.get(element.obis)
        if said is not None:
            means = said.role.value
            answers |= {"means": means, "register": said.obis if means == "value" else "", "unit": said.unit}
            answers["scaler"] = "" if said.scaler is None else str(said.scaler)
        filled |= {column.add_prefix(name): value for name, value in answers.items() if name != "scaler" or value}
    return filled


KINDS = [
    "profile_buffer", "profile_null_times", "compact_array", "compact_array_octets", "delta_array", "p1_telegram",
    "push_object_list", "push_object_list_6",
]  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_notifications_of_every_kind_are_said_on_the_page(concentrator: Concentrator, name: str) -> None:
    """Rows, compact arrays, telegrams and pushlists: what is registered reads what the definition on paper reads."""
    sample, definition = bytes.fromhex(SYNTHETIC[name]["plain"]), BY_NAME[name]
    device = dlms_meter(TITLE, secrets.token_bytes(32), concentrator)
    assert judged(concentrator, [device.frame(sample, 1)]) == {"unknown_profile": 1}
    client = person(roles.OPERATOR)
    address = f"{page_of_waiting()}?kind={definition['kind']}"
    shown: Any = client.get(address).context
    assert shown["kind"] == definition["kind"]
    filled = filled_for(shown, definition)
    checked: Any = client.post(address, filled | {"act": "check"}).context
    assert checked["form"].errors == {}
    wanted = push_profiles.check(definition, sample, TITLE).values
    assert [row[1].content for row in checked["checked"].rows] == [value.obis for value in wanted]
    done = client.post(address, filled | {"act": "register"}, follow=True)
    assert b"Registered a list version 1" in done.content
    profile = PushProfile.objects.get()
    assert push_profiles.check(profile.definition, sample, TITLE).values == wanted
    page: Any = client.get(reverse("admin:push-profile", args=[profile.pk]))
    assert {row[0].content for row in page.context["reads"].rows} == {value.obis for value in wanted}


def test_a_serial_number_of_twelve_characters_is_no_time(concentrator: Concentrator) -> None:
    sample = (
        bytes.fromhex("0f000000000c07e9070e010a0f0000ff88800202" + "090c") + b"181220000009" + b"\x06\x00\x00\x00\x07"
    )
    device = dlms_meter(TITLE, secrets.token_bytes(32), concentrator)
    assert judged(concentrator, [device.frame(sample, 1)]) == {"unknown_profile": 1}
    shown: Any = person(roles.OPERATOR).get(page_of_waiting()).context
    assert [(one.value, one.type) for one in shown["columns"]] == [('"181220000009"', "12 octets"), ("7", "number")]
    assert [value for value, _ in shown["form"].fields["clock_from"].choices] == ["apdu"]


def test_a_profile_is_retired_on_its_page_or_by_rest(concentrator: Concentrator, waiting: list[bytes]) -> None:
    client = person(roles.OPERATOR)
    address = page_of_waiting()
    filled = answers(client, address, act="register", **{"at1-scaler": "0", "at1-unit": "Wh"})
    filled |= {key: "ignore" for key, value in filled.items() if key.endswith("-means") and not value}
    filled |= {"at1-means": "value", "at1-register": "1-0:1.8.0"}
    for name in ("one", "two"):
        client.post(address, filled | {"name": name})
    one, two = PushProfile.objects.order_by("pk")
    page = reverse("admin:push-profile", args=[one.pk])
    assert page in client.get(reverse(NAME)).content.decode()
    assert "1-0:1.8.0" in client.get(page).content.decode()
    assert "Retired one version 1" in client.post(page, follow=True).content.decode()
    assert "Nothing was done" in client.post(page, follow=True).content.decode()
    auditor = person(roles.AUDITOR)
    assert auditor.get(page).status_code == 200
    assert auditor.post(page).status_code == 403
    rest = f"/api/v1/push-profiles/{two.pk}/retirement"
    assert auditor.post(rest).status_code == 403
    assert client.post(rest).json()["retired_at"] is not None
    assert client.post(rest).status_code == 400
    assert client.post("/api/v1/push-profiles/0/retirement").status_code == 404
    assert not PushProfile.objects.filter(retired_at=None).exists()


def test_what_a_definition_lacks_is_said(waiting: list[bytes]) -> None:
    client = person(roles.OPERATOR)
    address = page_of_waiting()
    filled = answers(client, address, act="register")
    filled |= {key: "ignore" for key in filled if key.endswith("-means")}
    for wrong, why in (
        ({}, "No value of the sample comes out"),
        ({"at1-means": "value", "at1-register": ""}, "Name the register."),
        ({"at1-means": "value", "at1-register": "1-0:1.8.0", "at1-scaler": "0"}, "go together"),
        ({"at1-means": "value", "at1-register": "energy", "at1-scaler": "0", "at1-unit": "Wh"}, "olumn "),
        ({"zone": "Europe/Atlantis"}, "no zone"),
        ({"titles": "00"}, "Select a valid choice"),
    ):
        answer = client.post(address, filled | wrong)
        assert answer.status_code == 200
        assert why in answer.content.decode(), why
    assert not PushProfile.objects.exists()


def test_a_frame_that_opens_no_more_is_told(waiting: list[bytes]) -> None:
    DeviceKey.objects.update(state=KeyState.COMPROMISED)
    client = person(roles.OPERATOR)
    for answer in (client.get(page_of_waiting()), client.post(page_of_waiting())):
        assert "does not open" in answer.content.decode()


def test_who_may_not_see_readings_sees_what_waits_alone(waiting: list[bytes]) -> None:
    client = person(roles.ADMINISTRATOR)
    assert "TST (545354)" in client.get(reverse(NAME)).content.decode()
    assert client.get(page_of_waiting()).status_code == 403


def test_pages_cost_the_same_however_much_waits(concentrator: Concentrator, waiting: list[bytes]) -> None:
    client = person(roles.OPERATOR)
    costs = []
    for number in range(3):
        with counting() as noted:
            client.get(reverse(NAME))
            client.get(reverse("admin:push-profile-new", args=[IntegrityFailure.objects.order_by("pk")[0].pk]))
            costs.append(len(noted.take()))
        other = dlms_meter(bytes((0x41 + number,)) * 3 + TITLE[3:], secrets.token_bytes(32), concentrator)
        assert judged(concentrator, [other.frame(dated(PLAIN), n) for n in range(5)]) == {"unknown_profile": 5}
    assert costs[1] == costs[2]
    assert len(client.get(reverse(NAME)).context["waiting"].rows) == 4


def test_rest_registers_and_lists(waiting: list[bytes]) -> None:
    client = person(roles.OPERATOR)
    said: dict[str, Any] = {
        "name": "by rest", "definition": BY_NAME["positional"], "sample": PLAIN.hex(), "system_title": TITLE.hex(),
    }  # fmt: skip
    made = client.post("/api/v1/push-profiles", said, content_type="application/json")
    assert made.status_code == 201
    assert made.json()["title_prefix"] == "545354"
    (listed,) = client.get("/api/v1/push-profiles").json()["results"]
    assert listed == made.json()
    assert "sample" not in listed
    for wrong, status in (({"sample": "0f00"}, 400), ({"definition": {"kind": "x"}}, 400), ({"sample": "x"}, 400)):
        answer = client.post("/api/v1/push-profiles", said | wrong, content_type="application/json")
        assert answer.status_code == status, answer.content
        assert answer["Content-Type"] == "application/problem+json"
    assert PushProfile.objects.count() == 1
