"""The admin: every page answers whom it should, shows no secret, and costs the same however many rows there are."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.db.models import Model
from django.template.response import SimpleTemplateResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ami_headend.alerts.models import Channel, Delivery
from ami_headend.console.navigation import sidebar
from ami_headend.web.admin import octets_begin
from ami_headend.web.forms import OctetsField
from concentrators.commands import downlink, rollouts
from concentrators.fleet import tokens
from concentrators.fleet.selection import Selection
from concentrators.models import (
    Assignment,
    Command,
    Concentrator,
    ConcentratorToken,
    FailureTally,
    FeedDelivery,
    FeedSubscription,
    RotationWave,
    Uplink,
    WaveMeter,
)
from concentrators.totals.expected import refresh
from keyvault import approvals
from keyvault.audit.chain import Actor
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import (
    AuditRecord,
    DeviceKey,
    DownlinkCounter,
    FleetKey,
    InvocationCounter,
    MasterKeyRotation,
    RotationState,
    TagFailures,
)
from meters.admin_households import PlaceAdmin
from meters.models import EarlierLength, HouseholdAccess, Installation, Meter, MeterEvent, MeterStatus, Place, Register
from tests.concentrators import fleet
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db

WRITTEN_BY_US: list[type[Model]] = [
    Command,
    RotationWave,
    WaveMeter,
    EarlierLength,
    DownlinkCounter,
    TagFailures,
    MasterKeyRotation,
    AuditRecord,
]
MODELS: list[type[Model]] = [
    Concentrator,
    Assignment,
    Uplink,
    Meter,
    Place,
    Installation,
    Register,
    MeterEvent,
    DeviceKey,
    FleetKey,
    InvocationCounter,
    User,
    Group,
    *WRITTEN_BY_US,
]
READ_ONLY = [Uplink, MeterEvent, DeviceKey, FleetKey, InvocationCounter, Assignment, Installation, *WRITTEN_BY_US]
PAGES = ["admin:readings", "admin:interval_totals", "admin:failure_tallies"]
ACTOR = Actor("tester", "test")
NONSENSE = ["deadbeef", "0024beff fe804ff1", "zz", "0", "9" * 40, "%", "'; --", "-1", "ü", "a\x00b", "f" * 400]


def list_of(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_changelist")


def page_of(row: Model) -> str:
    return reverse(f"admin:{row._meta.label_lower.replace('.', '_')}_change", args=[row.pk])


def first_of(model: type[Model]) -> Model:
    row = model._default_manager.order_by("pk").first()
    assert row is not None
    return row


def fill(meters: int) -> tuple[Concentrator, list[fleet.Device]]:
    """Rows of every model: a concentrator with meters that said something, and frames that failed."""
    concentrator = ConcentratorFactory.create()
    tokens.issue(concentrator, "spring")
    devices = fleet.commission(meters, concentrator)
    frames = [device.frame(interval) for interval in range(2) for device in devices]
    damaged = [frame[:-1] + bytes([frame[-1] ^ 1]) for frame in frames[:meters]]
    fleet.verified(concentrator, [*frames, *damaged, b"\xd0"])
    fleet.post(concentrator, [devices[0].frame(9)])
    register = Register.objects.get(obis_code="0-0:96.11.1")
    provisioning.create_fleet_key(f"batch {concentrator.pk}")
    now = timezone.now()
    channel = Channel.objects.create(name=f"duty {concentrator.pk}", kind="webhook", address="https://hooks.example/")
    Delivery.objects.create(channel=channel, event="test", body={}, created_at=now, due_at=now)
    values = {"resource": "readings", "era": "e", "position": 1, "row": 0, "moved_at": now}
    subscription = FeedSubscription.objects.create(name=f"mdm-{concentrator.pk}", **values)
    FeedDelivery.objects.create(
        subscription=subscription, kind="folder", address="/srv/feed", format="csv", rows=10, wait_minutes=1
    )
    access_at = {"hour": now, "first_at": now, "last_at": now}
    HouseholdAccess.objects.bulk_create(
        HouseholdAccess(account="op", door="admin:meter", meter=device.meter, **access_at) for device in devices
    )
    for device in devices:
        place = Place.objects.create(name=f"place {device.meter.pk}")
        Installation.objects.create(meter=device.meter, place=place, installed_at=fleet.START)
        MeterEvent.objects.create(
            meter=device.meter,
            register=register,
            captured_at=fleet.START,
            value=1,
            uplink_id=1,
            received_at=fleet.NOW,
        )
    Group.objects.create(name=f"readers of {concentrator}")
    provisioning.provision_stored([NewKey(device.title, 0) for device in devices])
    rollouts.begin("spring", Selection(concentrator=concentrator), ACTOR, timezone.now(), 6000, 0)
    rollouts.step(timezone.now())
    downlink.offer(concentrator.pk, 100, timezone.now())
    subject = {"what": "send 'read now' to 9 meters", "kind": "read_now", "commands": 9}
    approvals.hold(approvals.SEND_COMMANDS, subject, "held: a test", ACTOR, now)
    MasterKeyRotation.objects.create(
        to_version=2, batch_size=1, total=1, beat_at=fleet.NOW, state=RotationState.FINISHED
    )
    EarlierLength.objects.bulk_create(
        EarlierLength(meter=device.meter, interval_minutes=60, valid_to=fleet.START) for device in devices
    )
    return concentrator, devices


def limited(*codenames: str) -> Client:
    """A signed-in member of staff with these permissions and no other."""
    user = User.objects.create_user(f"staff {User.objects.count()}", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def test_lists_and_details_open_and_hold_no_secret(admin_client: Client) -> None:
    _, devices = fill(3)
    secret = [device.key.hex() for device in devices]
    secret += [bytes(key.wrapped or b"-").hex() for key in DeviceKey.objects.all()]
    secret += [bytes(key.wrapped).hex() for key in FleetKey.objects.all()]
    secret += [bytes(token.digest).hex() for token in ConcentratorToken.objects.all()]
    secret += [bytes(uplink.body or b"-").hex() for uplink in Uplink.objects.all()]
    shown = "memory at|&lt;memory"
    for model in MODELS:
        row = first_of(model)
        for address in (list_of(model), page_of(row)):
            answer = admin_client.get(address)
            text = answer.content.decode()
            assert answer.status_code == 200, address
            assert not [value for value in secret if len(value) > 2 and value in text], address
            assert not re.search(shown, text), address


@pytest.mark.parametrize("model", MODELS)
def test_only_staff_with_permission_may_look(model: type[Model], client: Client) -> None:
    assert client.get(list_of(model)).status_code == 302
    client.force_login(User.objects.create_user("visitor"))
    assert client.get(list_of(model)).status_code == 302
    assert limited().get(list_of(model)).status_code == 403
    name = model.__name__.lower()
    beside = ["view_place"] if model is Installation else []  # it tells of places
    assert limited(f"view_{name}", *beside).get(list_of(model)).status_code == 200


@pytest.mark.parametrize("model", READ_ONLY)
def test_what_the_head_end_writes_cannot_be_written(model: type[Model], admin_client: Client) -> None:
    fill(1)
    row = first_of(model)
    names = f"admin:{row._meta.label_lower.replace('.', '_')}"
    assert admin_client.get(reverse(f"{names}_add")).status_code == 403
    assert admin_client.post(reverse(f"{names}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403
    assert admin_client.post(page_of(row), {}).status_code == 403
    assert model._default_manager.filter(pk=row.pk).exists()


def test_lists_cost_the_same_however_many_rows(admin_client: Client) -> None:
    fill(2)
    addresses = [list_of(model) for model in MODELS]
    with counting() as statements:

        def costs() -> dict[str, list[str]]:
            statements.take()
            found = {}
            for address in addresses:
                admin_client.get(address)
                found[address] = statements.take()
            return found

        few = costs()
        fill(12)
        many = costs()
    assert not {address: asked for address, asked in many.items() if not len(asked) == len(few[address]) <= 10}


def test_an_empty_list_says_what_would_stand_there(admin_client: Client) -> None:
    ours = [page for model, page in admin.site._registry.items() if model not in (User, Group)]
    assert [page for page in ours if not getattr(page, "when_empty", "")] == []
    nothing = admin_client.get(list_of(Place)).content.decode()
    assert PlaceAdmin.when_empty in unescape(nothing)
    assert "Add place" in nothing
    found_nothing = admin_client.get(list_of(Place), {"q": "nowhere"}).content.decode()
    assert "No row matches the search and the filters." in found_nothing
    assert PlaceAdmin.when_empty not in unescape(found_nothing)


def test_what_is_only_read_has_no_history_and_its_page_in_the_sidebar(admin_client: Client) -> None:
    fill(1)
    uplink = admin_client.get(page_of(first_of(Uplink))).content.decode()
    assert reverse("admin:concentrators_uplink_history", args=[first_of(Uplink).pk]) not in uplink
    meter = admin_client.get(page_of(first_of(Meter))).content.decode()
    assert reverse("admin:meters_meter_history", args=[first_of(Meter).pk]) in meter
    request = admin_client.get(list_of(AuditRecord)).wsgi_request
    active = [item["title"] for group in sidebar(request) for item in group["items"] if item["active"](request)]
    assert active == ["Audit chain"]


@pytest.mark.parametrize("model", MODELS)
def test_search_stands_any_input(model: type[Model], admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are asked for before the page around them is written, which is so for one of them alone."""
    found = {admin_client.get(list_of(model), {"q": NONSENSE[-1]}).status_code}
    monkeypatch.setattr(SimpleTemplateResponse, "rendered_content", "")
    found |= {admin_client.get(list_of(model), {"q": term}).status_code for term in NONSENSE[:-1]}
    assert found <= {200, 400}


@pytest.mark.parametrize(("model", "lookup"), [(Command, "kid"), (DeviceKey, "wrapped__startswith")])
def test_octets_are_no_look_up(model: type[Model], lookup: str, admin_client: Client) -> None:
    fill(1)
    assert admin_client.get(list_of(model), {lookup: "_"}).status_code == 400


def test_the_search_over_everything_stands_any_input(admin_client: Client) -> None:
    asked = [{"s": term, "extended": "1"} for term in NONSENSE]
    assert {admin_client.get(reverse("admin:search"), query).status_code for query in asked} <= {200, 400}


def test_the_choice_of_a_meter_stands_any_input(admin_client: Client) -> None:
    field = {"app_label": "concentrators", "model_name": "assignment", "field_name": "meter"}
    asked = [field | {"term": term} for term in NONSENSE]
    assert {admin_client.get(reverse("admin:autocomplete"), query).status_code for query in asked} <= {200, 400}


def test_the_search_over_everything_finds_by_hex_and_shows_what_may_be_seen(admin_client: Client) -> None:
    _, (device, _) = fill(2)
    asked = {"s": device.title.hex(), "extended": "1"}
    found = admin_client.get(reverse("admin:search"), asked).content.decode()
    page = reverse("admin:meter", args=[device.meter.pk])
    assert page in found
    assert page_of(device.row()) in found
    assert (
        reverse("admin:meter", args=[device.meter.pk])
        not in limited().get(reverse("admin:search"), asked).content.decode()
    )


def test_binary_columns_are_searched_by_their_first_hex_digits(admin_client: Client) -> None:
    _, (device, other) = fill(2)
    rows = admin_client.get(list_of(Meter), {"q": device.title.hex()}).context["cl"].result_list
    assert [row.pk for row in rows] == [device.meter.pk]
    common = admin_client.get(list_of(DeviceKey), {"q": device.title.hex()[:10].upper()}).context["cl"].result_list
    assert {bytes(row.system_title) for row in common} == {device.title, other.title}


def test_a_prefix_of_all_ones_has_no_end() -> None:
    meter = MeterFactory.create(system_title=b"\xff" * 8)
    assert Meter.objects.filter(octets_begin("system_title", b"\xff\xff")).get() == meter


def test_failures_of_an_uplink_are_linked(admin_client: Client) -> None:
    fill(2)
    uplink = Uplink.objects.filter(rejected__gt=0).get()
    asked = reverse("admin:concentrators_uplink_show_failures", args=[uplink.pk])
    rows = admin_client.get(asked, follow=True).context["content"].rows
    assert len(rows) == uplink.rejected


# --- meters ---------------------------------------------------------------------------------------


def new_meter(**given: str) -> dict[str, str]:
    return {
        "system_title_hex": "0024befffe804ff1",
        "serial_number": "SGM-1",
        "interval_minutes": "30",
        "commissioned_at_0": "2026-01-01",
        "commissioned_at_1": "00:00:00",
        "first_keys": "random",
        "scheme": "ccm",
    } | given


@pytest.mark.parametrize("written", ["0024befffe804ff1", "00:24:BE:FF:FE:80:4F:F1", " 0024-beff-fe80-4ff1 "])
def test_a_new_meter_is_written_in_hex_and_gets_its_keys(written: str, admin_client: Client) -> None:
    answer = admin_client.post(reverse("admin:meters_meter_add"), new_meter(system_title_hex=written))
    assert answer.status_code == 302
    meter = Meter.objects.get(serial_number="SGM-1")
    assert bytes(meter.system_title).hex() == "0024befffe804ff1"
    assert set(DeviceKey.objects.filter(system_title=meter.system_title).values_list("epoch", flat=True)) == {0, 1}


def test_a_new_meter_gets_the_scheme_that_is_chosen(admin_client: Client) -> None:
    answer = admin_client.post(reverse("admin:meters_meter_add"), new_meter(scheme="mac"))
    assert answer.status_code == 302
    keys = DeviceKey.objects.order_by("epoch").values_list("scheme", "algorithm")
    assert list(keys) == [("ccm", 10), ("mac", 5)]
    page = admin_client.get(reverse("admin:meters_meter_changelist")).content.decode()
    assert ">mac<" in "".join(page.split())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"scheme": "concentrator"}, "Select a valid choice."),
        ({"system_title_hex": "0024befffe804f"}, "A system title is 16 hex digits; these are 14."),
        (
            {"system_title_hex": "0024befffe804fzz"},
            "A system title is 16 hex digits (0 to 9, a to f) and nothing else.",
        ),
        ({"system_title_hex": ""}, "This field is required."),
        ({"interval_minutes": "0"}, "Ensure this value is greater than or equal to 1."),
        ({"first_keys": "77"}, "Select a valid choice."),
    ],
)
def test_a_new_meter_is_refused_clearly(given: dict[str, str], reason: str, admin_client: Client) -> None:
    answer = admin_client.post(reverse("admin:meters_meter_add"), new_meter(**given))
    assert answer.status_code == 200
    assert reason in answer.content.decode()
    assert not Meter.objects.exists()
    assert not DeviceKey.objects.exists()


def test_a_system_title_is_registered_once(admin_client: Client) -> None:
    MeterFactory.create(system_title=bytes.fromhex("0024befffe804ff1"))
    answer = admin_client.post(reverse("admin:meters_meter_add"), new_meter())
    assert "There is a meter with system title 0024befffe804ff1 already." in answer.content.decode()
    assert Meter.objects.count() == 1


def test_a_title_with_keys_of_a_concentrator_is_no_meters(admin_client: Client) -> None:
    title = bytes.fromhex("0024befffe804ff1")
    provisioning.provision_stored([NewKey(title, 0), NewKey(title, 1, None, 10, "concentrator")])
    answer = admin_client.post(reverse("admin:meters_meter_add"), new_meter(first_keys="later"))
    said = unescape(answer.content.decode())
    assert f"System title {title.hex()} has keys of scheme concentrator: it is a concentrator's." in said
    assert not Meter.objects.exists()


def test_a_meter_whose_keys_cannot_be_made_is_not_saved(admin_client: Client) -> None:
    provisioning.provision_devices([bytes.fromhex("0024befffe804ff1")])
    answer = admin_client.post(reverse("admin:meters_meter_add"), new_meter(), follow=True)
    assert "Nothing was changed" in answer.content.decode()
    assert not Meter.objects.exists()


def test_octets_show_as_hex() -> None:
    field = OctetsField(octets=2, what="A thing")
    assert field.prepare_value(b"\x01\xff") == "01ff"
    assert field.prepare_value("01f") == "01f"


def test_status_and_place_change_through_the_registry(admin_client: Client) -> None:
    meter, heir = MeterFactory.create_batch(2, commissioned_at=fleet.START)
    place = Place.objects.create(name="cellar")
    at = {"at_0": "2040-01-01", "at_1": "00:00:00"}
    later = {"at_0": "2041-01-01", "at_1": "00:00:00"}

    def press(action: str, **given: object) -> str:
        address = reverse(f"admin:meters_meter_{action}", args=[meter.pk])
        assert admin_client.get(address).status_code == 200
        return admin_client.post(address, given, follow=True).content.decode()

    assert f"Meter {meter} suspended." in press("suspend")
    assert Meter.objects.get(pk=meter.pk).status == MeterStatus.SUSPENDED
    assert f"Meter {meter} is suspended, not commissioned." in press("suspend")
    assert "taken back into service" in press("resume")
    assert "hangs at no place" in press("exchange", new_meter=heir.pk, **at)
    assert "installed:" in press("install", place=place.pk, **at)
    assert "is taken" in press("install", place=place.pk, **at)
    assert "exchanged:" in press("exchange", new_meter=heir.pk, **later)
    assert Installation.objects.get(removed_at=None).meter == heir
    assert "retired from 2041-01-01" in press("retire", **later)
    assert Meter.objects.get(pk=meter.pk).status == MeterStatus.RETIRED


def test_another_interval_length_is_told_or_entered(admin_client: Client) -> None:
    meter = MeterFactory.create(commissioned_at=fleet.START)
    address = reverse("admin:meters_meter_interval", args=[meter.pk])
    assert admin_client.get(address).status_code == 200

    def press(**given: object) -> str:
        return admin_client.post(address, given, follow=True).content.decode()

    admin_client.cookies["zone"] = "Europe/Berlin"
    later = {"at_0": "2040-01-01", "at_1": "01:00:00"}
    told = press(interval_minutes=15, how="command", **later)
    assert "is told (command" in told
    assert "from 2040-01-01 01:00:00 on" in told
    assert Command.objects.get().parameters["from_s"] == datetime(2040, 1, 1, tzinfo=UTC).timestamp()
    assert Meter.objects.get(pk=meter.pk).interval_minutes == 30
    assert "being told another length already" in press(interval_minutes=15, how="command")
    assert "measures in 60 min from" in press(interval_minutes=60, how="hand")
    assert Meter.objects.get(pk=meter.pk).interval_minutes == 60
    assert "measures in 60 min already" in press(interval_minutes=60, how="hand")
    assert "Ensure this value is less than or equal to 1440" in press(interval_minutes=1441, how="hand")


@pytest.mark.parametrize("action", ["suspend", "install", "assign_one", "interval"])
def test_a_reader_changes_no_meter(action: str) -> None:
    meter = MeterFactory.create()
    client = limited("view_meter")
    assert client.post(reverse(f"admin:meters_meter_{action}", args=[meter.pk])).status_code == 403
    assert client.post(reverse("admin:meters_meter_assign")).status_code == 403
    assert Meter.objects.get(pk=meter.pk).status == MeterStatus.COMMISSIONED


def test_a_register_is_checked_and_then_stays(admin_client: Client) -> None:
    given = {"obis_code": "1-0:999.8.0", "kind": "cumulative", "unit": "Wh", "scaler": "0", "name": "odd"}
    answer = admin_client.post(reverse("admin:meters_register_add"), given)
    assert "has a value group over 255" in answer.content.decode()
    register = Register.objects.get(obis_code="1-0:1.8.0")
    admin_client.post(page_of(register), given | {"name": "Import"})
    register.refresh_from_db()
    assert (register.obis_code, register.name, register.scaler) == ("1-0:1.8.0", "Import", 0)


# --- concentrators --------------------------------------------------------------------------------


def test_meters_are_assigned_and_their_totals_move_along(admin_client: Client) -> None:
    concentrator, devices = fill(2)
    heir = ConcentratorFactory.create()
    selected = {"action": "assign_selected", "_selected_action": [device.meter.pk for device in devices]}
    asked = admin_client.post(list_of(Meter), selected)
    assert asked["Location"].endswith(f"?meters={devices[0].meter.pk},{devices[1].meter.pk}")
    form = admin_client.get(asked["Location"]).context["form"]
    assert form.initial["meters"] == [device.meter.pk for device in devices]
    given = {
        "meters": [device.meter.pk for device in devices],
        "concentrator": heir.pk,
        "valid_from_0": f"{fleet.START:%Y-%m-%d}",
        "valid_from_1": f"{fleet.START:%H:%M:%S}",
    }
    answer = admin_client.post(asked["Location"], given, follow=True)
    assert f"2 meters now belong to {heir}." in answer.content.decode()
    assert set(Assignment.objects.filter(valid_to=None).values_list("concentrator_id", flat=True)) == {heir.pk}
    totals = walk(admin_client, f"{reverse('admin:interval_totals')}?from=2020-01-01T00:00")
    assert {row[2] for row in totals} == {heir.name}
    early = given | {"valid_from_0": "2020-01-01", "concentrator": concentrator.pk}
    assert "begins after" in admin_client.post(asked["Location"], early).content.decode()


def test_assigning_nobody_or_nonsense_is_refused(admin_client: Client) -> None:
    address = reverse("admin:meters_meter_assign")
    assert admin_client.get(address, {"meters": "x,1,²,-3"}).status_code == 200
    assert "This field is required." in admin_client.post(address, {}).content.decode()
    wrong = admin_client.post(address, {"meters": "x", "concentrator": "y"}).content.decode()
    assert "is not a valid value" in wrong
    assert "Select a valid choice" in wrong


# --- pages of rows --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_pages_of_rows_are_for_those_who_may_see_them(name: str, client: Client) -> None:
    permission = {"readings": "view_reading", "interval_totals": "view_intervaltotal"}
    assert client.get(reverse(name)).status_code == 302
    assert limited("view_meter", "view_concentrator").get(reverse(name)).status_code == 403
    allowed = limited(permission.get(name.removeprefix("admin:"), "view_failuretally"))
    assert allowed.get(reverse(name)).status_code == 200


def walk(client: Client, address: str) -> list[list[Any]]:
    """All rows of all pages, by the links to the next one."""
    rows: list[list[Any]] = []
    page: Any = ""
    for _ in range(50):
        answer = client.get(address + page)
        rows += [[cell.content for cell in row] for row in answer.context["content"].rows]
        page = answer.context.get("next_page")
        if page is None:
            return rows
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize(
    ("name", "expected"), [("admin:readings", 2 * 2 * 40), ("admin:interval_totals", 2), ("admin:failure_tallies", 2)]
)
def test_pages_of_rows_show_each_row_once(name: str, expected: int, admin_client: Client) -> None:
    fill(40)
    rows = walk(admin_client, reverse(name))
    assert len(rows) == expected == len({tuple(map(str, row)) for row in rows})


def test_tallies_go_on_where_a_page_ended(admin_client: Client) -> None:
    concentrators = ConcentratorFactory.create_batch(3)
    hours = [fleet.NOW - timedelta(hours=n) for n in range(9)]
    FailureTally.objects.bulk_create(
        FailureTally(concentrator=concentrator, kind=kind, hour=hour, failures=1)
        for concentrator in concentrators
        for kind in ("malformed", "tag_invalid", "replayed")
        for hour in hours
    )
    rows = walk(admin_client, reverse("admin:failure_tallies"))
    assert len(rows) == 81 == len({tuple(row) for row in rows})
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), key=str, reverse=True)
    some = walk(admin_client, f"{reverse('admin:failure_tallies')}?kind=replayed&concentrator={concentrators[0].pk}")
    assert len(some) == 9


def test_readings_are_filtered_by_meter_and_register(admin_client: Client) -> None:
    _, (device, other) = fill(2)
    register = Register.objects.get(obis_code="1-0:1.29.0")
    for meter in (device.title.hex(), device.meter.serial_number):
        rows = walk(admin_client, f"{reverse('admin:readings')}?meter={meter}&register={register.pk}")
        assert [(row[1], ">1-0:1.29.0<" in row[2]) for row in rows] == [(device.title.hex(), True)] * 2
    assert other.title.hex() in str(walk(admin_client, reverse("admin:readings")))


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"meter": "nobody"}, "There is no meter with serial number nobody"),
        ({"meter": "ffffffffffffffff"}, "there is no meter with system title ffffffffffffffff"),
        ({"register": "999"}, "Select a valid choice."),
        ({"from": "rubbish"}, "Enter a valid date/time."),
        ({"from": "2026-01-02T00:00", "to": "2026-01-01T00:00"}, "The period ends before it begins."),
        ({"after": "rubbish"}, "There is no such page"),
        ({"after": "2026-01-01T00:00:00~1~1"}, "There is no such page"),
        ({"after": f"2026-01-01T00:00:00+00:00~{2**40}~1"}, "There is no such page"),
    ],
)
def test_readings_say_what_is_wrong_with_the_question(query: dict[str, str], reason: str, admin_client: Client) -> None:
    answer = admin_client.get(reverse("admin:readings"), query)
    assert answer.status_code == 200
    assert reason in answer.content.decode()
    assert "content" not in answer.context


@pytest.mark.parametrize("name", PAGES)
def test_pages_of_rows_cost_the_same_however_many_rows(name: str, admin_client: Client) -> None:
    fill(2)
    refresh()  # the first who looks after a change counts anew what is expected
    with counting() as statements:
        admin_client.get(reverse(name))
        few = statements.take()
        fill(12)
        refresh()
        statements.take()
        admin_client.get(reverse(name))
        assert len(statements) == len(few) <= 9, [*statements]


def test_a_long_list_is_not_counted_to_its_end(admin_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ami_headend.web.admin.COUNTED_ROWS", 60)
    MeterFactory.create_batch(70)
    text = admin_client.get(list_of(Meter)).content.decode()
    assert "the first 60 meters; filters find the others" in text


@pytest.mark.parametrize(
    "page",
    [
        "concentrators/uplink/{}/show_failures/",
        "meters/meter/{}/assign_one/",
    ],
)
def test_a_link_of_something_that_is_not_there_is_no_fault(admin_client: Client, page: str) -> None:
    for number in ("x", "9" * 30, "1&e=2"):
        answer = admin_client.get(f"/admin/{page.format(number)}", follow=True)
        assert answer.status_code == (404 if number.isdigit() else 200)


@pytest.mark.parametrize("name", ["admin:interval_totals", "admin:failure_tallies"])
def test_pages_of_rows_name_a_concentrator_and_offer_no_choice_among_all(name: str, admin_client: Client) -> None:
    concentrator, _ = fill(2)
    ConcentratorFactory.create_batch(30)
    text = admin_client.get(reverse(name)).content.decode()
    assert text.count("<option") < 30
    for asked in (concentrator.name, str(concentrator.pk)):  # by its number, too: addresses have it that were kept
        rows = walk(admin_client, f"{reverse(name)}?concentrator={asked}")
        assert rows
        assert concentrator.name in rows[0]
    answer = admin_client.get(reverse(name), {"concentrator": "nobody"})
    assert "There is no concentrator named nobody." in answer.content.decode()
    assert "content" not in answer.context
