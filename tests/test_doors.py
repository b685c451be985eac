"""Every door and every role: who is let in and who is refused. A door that stands in no line here fails the test."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.contrib import admin
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import Group, User
from django.db.models import Model
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone
from pytest_django import Settings

from ami_headend.alerts.models import Alert, Condition, GatheredSubjects, Rule
from ami_headend.signin import journal, roles
from ami_headend.signin.models import SignInOutcome
from concentrators.fleet import tokens
from concentrators.models import Acknowledgement, Concentrator, IntegrityFailure, RotationWave
from keyvault import master_key
from keyvault.models import DeviceKey
from meters.group_models import FleetGroup
from meters.models import Meter
from tests.concentrators import enrolling
from tests.test_admin import fill, first_of

pytestmark = pytest.mark.django_db

OPERATOR, OFFICER, ADMIN, AUDITOR = roles.OPERATOR, roles.KEY_OFFICER, roles.ADMINISTRATOR, roles.AUDITOR
NOBODY = "nobody"  # may sign in to the console, and has no role
ROLES = (OPERATOR, OFFICER, ADMIN, AUDITOR, NOBODY)
TRAFFIC = {OPERATOR, ADMIN, AUDITOR}
ALL = {OPERATOR, OFFICER, ADMIN, AUDITOR}


class Pages(NamedTuple):
    """Who may look at, add, change and delete rows on a model's pages."""

    view: set[str]
    add: set[str] = set()
    change: set[str] = set()
    delete: set[str] = set()


MODELS = {
    "auth.user": Pages({ADMIN, AUDITOR}, {ADMIN}, {ADMIN}, {ADMIN}),
    "auth.group": Pages({ADMIN, AUDITOR}),
    "alerts.rule": Pages(ALL, {ADMIN}, {ADMIN}, {ADMIN}),
    "alerts.channel": Pages({ADMIN, AUDITOR}, {ADMIN}, {ADMIN}, {ADMIN}),
    "alerts.delivery": Pages({ADMIN, AUDITOR}),
    "signin.signin": Pages({ADMIN, AUDITOR}),
    "concentrators.uplink": Pages(TRAFFIC),
    "concentrators.concentrator": Pages(ALL, {ADMIN}, {ADMIN}),
    "concentrators.assignment": Pages(TRAFFIC),
    "concentrators.feeddelivery": Pages(TRAFFIC, {ADMIN}, {ADMIN}, {ADMIN}),
    "concentrators.readdeadline": Pages(TRAFFIC, {ADMIN}, {ADMIN}),
    "concentrators.commandlimit": Pages(ALL, {ADMIN}, {ADMIN}, {ADMIN}),
    "concentrators.command": Pages({OPERATOR, OFFICER, AUDITOR}),
    "concentrators.rotationwave": Pages({OPERATOR, OFFICER, AUDITOR}),
    "concentrators.wavemeter": Pages({OPERATOR, OFFICER, AUDITOR}),
    "meters.meter": Pages(ALL, {OPERATOR}, {OPERATOR}),
    "meters.earlierlength": Pages({OPERATOR}),
    "meters.place": Pages({OPERATOR}, {OPERATOR}, {OPERATOR}),
    "meters.installation": Pages({OPERATOR}),
    "meters.register": Pages(TRAFFIC, {ADMIN}, {ADMIN}),
    "meters.meterevent": Pages({OPERATOR}),
    "meters.householdaccess": Pages({AUDITOR}),
    "keyvault.devicekey": Pages({OPERATOR, OFFICER, AUDITOR}),
    "keyvault.fleetkey": Pages({OFFICER, AUDITOR}),
    "keyvault.invocationcounter": Pages({OPERATOR, OFFICER, AUDITOR}),
    "keyvault.downlinkcounter": Pages({OFFICER, AUDITOR}),
    "keyvault.tagfailures": Pages({OPERATOR, OFFICER, AUDITOR}),
    "keyvault.masterkeyrotation": Pages({OFFICER, AUDITOR}),
    "keyvault.auditrecord": Pages({AUDITOR}),
}


class Door(NamedTuple):
    """A view by its name: how it is asked, for what (a model's first row, or arguments), and who is let in."""

    name: str
    who: set[str]
    method: str = "get"
    of: str | tuple[Any, ...] = ()
    body: dict[str, Any] = {}


EVERYBODY = {*ALL, NOBODY}
PAGES = [
    Door("admin:index", EVERYBODY),
    Door("admin:search", EVERYBODY),
    Door("admin:sign-in", EVERYBODY),
    Door("admin:password_change", EVERYBODY),
    Door("admin:failures", ALL),
    Door("admin:failures", {OPERATOR, OFFICER}, "post"),
    Door("admin:failure-groups", ALL),
    Door("admin:failure-numbers", ALL),
    Door("admin:failures-acknowledge", {OPERATOR, OFFICER}),
    Door("admin:failures-acknowledge", {OPERATOR, OFFICER}, "post"),
    Door("admin:acknowledgement", ALL, of="concentrators.acknowledgement"),
    Door("admin:acknowledgement", {OPERATOR, OFFICER}, "post", "concentrators.acknowledgement"),
    Door("admin:failure", ALL, of="concentrators.integrityfailure"),
    Door("admin:failure", {OPERATOR, OFFICER}, "post", "concentrators.integrityfailure", {"act": "acknowledge"}),
    Door("admin:alerts", ALL),
    Door("admin:alerts", {OPERATOR, OFFICER, ADMIN}, "post", body={"do": "acknowledge", "minutes": 60}),
    Door("admin:alert", ALL, of="alerts.alert"),
    Door("admin:alert-subjects", ALL, of="alerts.alert"),
    Door("admin:alert-subjects-export", ALL, of="alerts.alert"),
    Door("admin:alert", {OPERATOR, OFFICER, ADMIN}, "post", "alerts.alert", {"do": "acknowledge", "minutes": 60}),
    *(
        Door(f"admin:alerts_channel_{act}", {ADMIN}, method, "alerts.channel")
        for act in ("send_test", "rotate_secret")
        for method in ("get", "post")
    ),
    Door("admin:concentrators_feeddelivery_new_secret", {ADMIN}, of="concentrators.feeddelivery"),
    Door("admin:concentrators_feeddelivery_new_secret", {ADMIN}, "post", "concentrators.feeddelivery"),
    Door("admin:alerts_channel_show_deliveries", {ADMIN, AUDITOR}, of="alerts.channel"),
    Door("admin:interval_totals", {OPERATOR, AUDITOR}),
    Door("admin:masked_totals", {OPERATOR, AUDITOR}),
    Door("admin:failure_tallies", ALL),
    Door("admin:readings", {OPERATOR}),
    Door("admin:register_differences", {OPERATOR}),
    Door("admin:signatures", {OPERATOR}),
    Door("admin:events", {OPERATOR}),
    Door("admin:events", {OPERATOR}, "post", (), {"note": "a test"}),
    Door("admin:outages", {OPERATOR}),
    Door("admin:outages", {OPERATOR}, "post", (), {"act": "check"}),
    Door("admin:past-outages", {OPERATOR}),
    Door("admin:outage", {OPERATOR}, of="concentrators.concentrator"),
    Door("admin:outage", {OPERATOR}, "post", "concentrators.concentrator", {"act": "check"}),
    Door("admin:codes", TRAFFIC),
    *(Door("admin:codes", {ADMIN}, "post", (), {"act": act}) for act in ("put", "reset")),
    Door("admin:meters_meter_assign", {OPERATOR}),
    Door("admin:meters_meter_assign", {OPERATOR}, "post"),
    Door("admin:meters_meter_assign_one", {OPERATOR}, of="meters.meter"),
    *(
        Door(f"admin:meters_meter_{act}", {OPERATOR}, method, "meters.meter")
        for act in ("interval", "correct_length", "suspend", "resume", "install", "exchange", "retire")
        for method in ("get", "post")
    ),
    *(Door("admin:meters_register_correct_entry", {ADMIN}, method, "meters.register") for method in ("get", "post")),
    Door("admin:concentrators_assignment_assign_meters", {OPERATOR}),
    Door("admin:meters", ALL),
    Door("admin:meter-import", {OPERATOR}),
    Door("admin:meter-import", {OPERATOR}, "post"),
    Door("admin:meters", {OPERATOR}, "post", (), {"act": "read-now"}),
    Door("admin:meters", {OFFICER}, "post", (), {"act": "compromise"}),
    Door("admin:meter", ALL, of="meters.meter"),
    Door("admin:meter-gaps-export", {OPERATOR}, of="meters.meter"),
    *(
        Door("admin:meter", {OPERATOR}, "post", "meters.meter", {"act": act})
        for act in ("read-now", "resend", "cancel")
    ),
    Door("admin:meter-new-key", {OFFICER}, of="meters.meter"),
    Door("admin:meter-new-key", {OFFICER}, "post", "meters.meter"),
    Door("admin:keys", {OPERATOR, OFFICER, AUDITOR}),
    Door("admin:schemes", {OPERATOR, OFFICER, AUDITOR}),
    Door("admin:enrolment", {OPERATOR, OFFICER, AUDITOR}),
    Door("admin:enrolment-allow", {OFFICER}),
    Door("admin:enrolment-allow", {OFFICER}, "post", (), {"act": "allow"}),
    Door("admin:authority-unpin", {OFFICER}, of=(enrolling.KID.hex(),)),
    *(
        Door("admin:authority-unpin", {OFFICER}, "post", (enrolling.KID.hex(),), {"act": act})
        for act in ("ask", "unpin")
    ),
    Door("admin:mask-authorities", {OPERATOR, OFFICER, AUDITOR}),
    *(
        Door("admin:mask-authorities", {OFFICER}, "post", (), {"act": act})
        for act in ("ask", "pin", "pin-approved", "withdraw")
    ),
    Door("admin:master-key", {OFFICER, AUDITOR}),
    *(Door("admin:master-key", {OFFICER}, "post", (), {"act": act}) for act in ("stop", "resume", "rotate")),
    Door("admin:master-key-destroy", {OFFICER}, of=(1,)),
    *(Door("admin:master-key-destroy", {OFFICER}, "post", (1,), {"act": act}) for act in ("ask", "destroy")),
    Door("admin:waves", {OPERATOR, OFFICER, AUDITOR}),
    Door("admin:compromise", {OFFICER}),
    Door("admin:compromise", {OFFICER}, "post"),
    Door("admin:wave-new", {OFFICER}),
    Door("admin:wave-new", {OFFICER}, "post"),
    Door("admin:wave", {OPERATOR, OFFICER, AUDITOR}, of="concentrators.rotationwave"),
    *(
        Door("admin:wave", {OFFICER}, "post", "concentrators.rotationwave", {"act": act})
        for act in ("pause", "resume", "cancel")
    ),
    Door("admin:approvals", {OFFICER, ADMIN, AUDITOR}),
    Door("admin:approvals", {OFFICER, ADMIN}, "post", (), {"act": "approve", "number": "1"}),
    Door("admin:audit", {AUDITOR}),
    Door("admin:audit", {AUDITOR}, "post", (), {"act": "verify"}),
    Door("admin:audit-export", {AUDITOR}),
    Door("admin:api-tokens", {ADMIN, AUDITOR}),
    *(Door("admin:api-tokens", {ADMIN}, "post", (), {"act": act}) for act in ("make", "rotate", "revoke")),
    Door("admin:places", {OPERATOR}),
    Door("admin:place", {OPERATOR}, of="meters.place"),
    Door("admin:places", {OPERATOR}, "post", body={"act": "put-in"}),
    Door("admin:saved-views", ALL, "post", body={"page": "meters", "act": "save", "name": "mine", "query": ""}),
    Door("admin:groups", ALL),
    Door("admin:groups", {OPERATOR}, "post", body={"name": "leaky"}),
    Door("admin:group", ALL, of="meters.fleetgroup"),
    Door("admin:group", {OPERATOR}, "post", "meters.fleetgroup", {"act": "rename"}),
    Door("admin:group", {OPERATOR}, "post", "meters.fleetgroup", {"act": "remove"}),
    Door("admin:push-profiles", TRAFFIC),
    Door("admin:subscriptions", TRAFFIC),
    Door("admin:deadlines", {OPERATOR, AUDITOR}),
    Door("admin:push-profile", TRAFFIC, of=(0,)),
    Door("admin:push-profile", {OPERATOR}, "post", (0,)),
    Door("admin:key-retire", {OFFICER}, of="keyvault.devicekey"),
    Door("admin:key-retire", {OFFICER}, "post", "keyvault.devicekey"),
    Door("admin:push-profile-new", {OPERATOR}, of=(1,)),
    Door("admin:push-profile-new", {OPERATOR}, "post", (1,)),
    Door("admin:concentrators", ALL),
    Door("admin:concentrators", {OPERATOR}, "post", body={"act": "put-in"}),
    Door("admin:concentrator", ALL, of="concentrators.concentrator"),
    *(
        Door("admin:concentrator", {ADMIN}, "post", "concentrators.concentrator", {"act": act})
        for act in ("make", "rotate", "revoke")
    ),
    Door("admin:concentrators_uplink_show_failures", ALL, of="concentrators.uplink"),
    Door("admin:auth_user_password_change", {ADMIN}, of="auth.user"),
    Door("admin:auth_user_password_change", {ADMIN}, "post", "auth.user"),
    *(
        Door(f"admin:auth_user_{act}", {ADMIN}, method, "auth.user")
        for act in ("reset_second_factor", "unlock", "end_sessions")
        for method in ("get", "post")
    ),
]
REST = [
    Door("meters", ALL),
    Door("meter", ALL, of="title"),
    Door("meter-gaps", {OPERATOR}, of="title"),
    Door("meter-signatures", {OPERATOR}, of="title"),
    Door("mask-groups", {OPERATOR}, "post"),
    Door("places", {OPERATOR}),
    Door("places", {OPERATOR}, "post", body={"name": "House 2"}),
    Door("place", {OPERATOR}, of="meters.place"),
    Door("place", {OPERATOR}, "patch", "meters.place", {"address": "Mill Lane 5"}),
    Door("groups", ALL),
    Door("groups", {OPERATOR}, "post", body={"kind": "district", "name": "South"}),
    Door("group", ALL, of="meters.fleetgroup"),
    Door("group", {OPERATOR}, "patch", "meters.fleetgroup", {"note": "all of it"}),
    Door("group", {OPERATOR}, "delete", (0,)),
    Door("group-members", {OPERATOR}, "post", "meters.fleetgroup", {"put": {"meters": []}}),
    Door("readings", {OPERATOR}),
    Door("green-button", {OPERATOR}, of="meters.place"),
    Door("market-document", {OPERATOR}, of="meters.place"),
    Door("events", {OPERATOR}),
    Door("feed-readings", {OPERATOR}),
    Door("feed-events", {OPERATOR}),
    Door("reading-messages", {OPERATOR}),
    Door("event-messages", {OPERATOR}),
    Door("feed-completeness", {OPERATOR, AUDITOR}),
    Door("feed-subscriptions", TRAFFIC),
    Door("feed-subscription", TRAFFIC, of=("billing",)),
    Door("feed-subscription", {OPERATOR}, "put", ("billing",)),
    Door("feed-subscription", {OPERATOR}, "delete", ("billing",)),
    Door("register-differences", {OPERATOR}),
    Door("feed-delivery", TRAFFIC, of=("billing",)),
    Door("feed-delivery", {ADMIN}, "put", ("billing",)),
    Door("feed-delivery", {ADMIN}, "delete", ("billing",)),
    Door("feed-delivery-secret", {ADMIN}, "post", ("billing",)),
    Door("outages", {OPERATOR}),
    Door("outages-by-group", {OPERATOR}),
    Door("outages-past", {OPERATOR}),
    Door("outages-meters", {OPERATOR}),
    Door("outages", {OPERATOR}, "post"),
    Door("keys", {OPERATOR, OFFICER, AUDITOR}),
    Door("agreement-keys", {OPERATOR, OFFICER, AUDITOR}),
    Door("authorities", {OPERATOR, OFFICER, AUDITOR}),
    Door("certificates", {OPERATOR, OFFICER, AUDITOR}),
    Door("revocations", {OPERATOR, OFFICER, AUDITOR}),
    Door("revocations", {OFFICER}, "post"),
    Door("awaited-enrolments", {OPERATOR, OFFICER, AUDITOR}),
    Door("awaited-enrolments", {OFFICER}, "post"),
    Door("codes", TRAFFIC),
    Door("codes", {ADMIN}, "put"),
    Door("codes", {ADMIN}, "delete"),
    Door("push-profiles", TRAFFIC),
    Door("push-profiles", {OPERATOR}, "post"),
    Door("api-tokens", {ADMIN, AUDITOR}),
    Door("api-tokens", {ADMIN}, "post"),
    Door("api-token", {ADMIN}, "delete", (1,)),
    Door("api-token-rotation", {ADMIN}, "post", (1,)),
    Door("push-profile-retirement", {OPERATOR}, "post", (0,)),
    Door("key-retirement", {OFFICER}, "post", (0,)),
    Door("failures", ALL),
    Door("alerts", ALL),
    Door("totals", {OPERATOR, AUDITOR}),
    Door("completeness-deadlines", {OPERATOR, AUDITOR}, body={"day": "2026-11-01"}),
    Door("deadlines", TRAFFIC),
    Door("deadlines", {ADMIN}, "post"),
    Door("deadline", TRAFFIC, of="concentrators.readdeadline"),
    Door("deadline", {ADMIN}, "patch", "concentrators.readdeadline"),
    Door("deadline", {ADMIN}, "delete", (0,)),
    Door("deadline-days", {OPERATOR, AUDITOR}, of="concentrators.readdeadline"),
    Door("masked-totals", {OPERATOR, AUDITOR}),
    Door("masked-total-answers", {OPERATOR, AUDITOR}, of=(1,)),
    Door("meter-commands", {OPERATOR, OFFICER, AUDITOR}, of="title"),
    Door("meter-commands", {OPERATOR}, "post", "title", {"kind": "read_now"}),
    Door("meter-commands", {OFFICER}, "post", "title", {"kind": "set_key"}),
    Door("meter-commands", {OPERATOR, OFFICER}, "post", "title", {"kind": "nonsense"}),
    Door("meter-command", {OPERATOR, OFFICER}, "delete", "title and 0"),
    Door("resends", {OPERATOR}, "post"),
    Door("clock-corrections", TRAFFIC),
    Door("clock-corrections", {ADMIN}, "post"),
    Door("held-commands", {OFFICER, ADMIN, AUDITOR}),
    Door("held-commands-one", {OFFICER, ADMIN, AUDITOR}, of=(1,)),
    Door("held-commands-one", {OFFICER, ADMIN}, "post", (1,)),
    Door("rotations", {OPERATOR, OFFICER, AUDITOR}),
    Door("rotations", {OFFICER}, "post"),
    Door("rotation", {OPERATOR, OFFICER, AUDITOR}, of="concentrators.rotationwave"),
    Door("rotation", {OFFICER}, "patch", "concentrators.rotationwave"),
    # A concentrator's, by its token: no person's.
    Door("uplinks", set(), "post"),
    Door("uplink", set(), of="concentrators.uplink"),
    Door("commands", set()),
    Door("command-receipt", set(), "post", (1,)),
    Door("hop-keys", set()),
    Door("next-key", set()),
    Door("hop-failures", set(), "post", body={"failures": []}),
    Door("reported-hop-failures", ALL),
    Door("metrics", TRAFFIC),
    Door("schema", EVERYBODY),
    Door("docs", EVERYBODY),
]
# Whoever is not signed in gets there, too, or nothing stands behind: tested where they are made.
OPEN = {
    "live", "ready", "second-factor", "second-factor-set-up", "admin:login", "admin:logout", "admin:colours",
    "single-sign-on", "single-sign-on-answer", "single-sign-on-logout",
    "step-up", "admin:jsi18n", "admin:password_change_done", "admin:view_on_site", "admin:app_list",
    "admin:autocomplete",
}  # fmt: skip
REFUSED = {401, 403}


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "django.request")  # a traceback for each refusal


@pytest.fixture
def rows(settings: Settings, tmp_path: Path) -> None:
    """A row of everything that a door may be asked for, under a master key that a door may rotate."""
    settings.MASTER_KEY_FILE = tmp_path / "master.keys"
    master_key.init(settings.MASTER_KEY_FILE)
    fill(1)
    enrolling.pin()
    RotationWave.objects.create(name="spring", rate_per_hour=1, failure_budget=1, created_by="tester")
    journal.record(SignInOutcome.SIGNED_IN, "someone", "")
    now = timezone.now()
    rule = Rule.objects.get(condition=Condition.QUEUE_LAG)
    alert = Alert.objects.create(rule=rule, severity=20, subject_kind="fleet", opened_at=now, seen_at=now)
    GatheredSubjects.objects.create(alert=alert, kind="meter", ids=[1])
    User.objects.create_user("someone")
    Acknowledgement.objects.create(by="someone", at=now, note="a test")
    FleetGroup.objects.create(kind="district", name="North")


def row_of(label: str) -> Model:
    app, name = label.split(".")
    (model,) = [m for m in _models() if m._meta.label_lower == f"{app}.{name}"]
    return User.objects.get(username="someone") if model is User else first_of(model)


def _models() -> list[type[Model]]:
    return [*admin.site._registry, Acknowledgement, IntegrityFailure, Alert, FleetGroup]


def arguments(door: Door) -> list[Any]:
    if isinstance(door.of, tuple):
        return [*door.of]
    if door.of.startswith("title"):
        title = bytes(Meter.objects.order_by("pk")[0].system_title).hex()
        return [title, 0] if door.of == "title and 0" else [title]
    return [row_of(door.of).pk]


def doors() -> Iterator[Door]:
    yield from PAGES
    yield from REST
    for label, may in MODELS.items():
        name = f"admin:{label.replace('.', '_')}"
        yield Door(f"{name}_changelist", may.view)
        yield Door(f"{name}_changelist", may.view, "post")
        if label != "keyvault.auditrecord":  # the page of the chain exports it
            yield Door("admin:model-list", may.view, of=(label,))
        yield Door(f"{name}_add", may.add)
        yield Door(f"{name}_add", may.add, "post")
        yield Door(f"{name}_change", may.view, of=label)
        yield Door(f"{name}_change", may.change, "post", label)
        # A meter's history tells where it was installed.
        yield Door(f"{name}_history", {OPERATOR} if label == "meters.meter" else may.view, of=label)
        yield Door(f"{name}_delete", may.delete, of=label)
        yield Door(f"{name}_delete", may.delete, "post", label)


def faults(role: str, door: Door, answer: Any) -> list[str]:
    """What is wrong with what a door answers to a role: who it lets in, a fault, or that a browser keeps it."""
    is_let_in = answer.status_code not in REFUSED
    is_right = is_let_in is (role in door.who) and answer.status_code < 500
    said = [] if is_right else [f"{door.method} {door.name}: {answer.status_code}"]
    kept = answer.get("Cache-Control", "")
    return said if "no-store" in kept else [*said, f"{door.method} {door.name}: Cache-Control: {kept}"]


def sign_in_again(client: Client, user: User) -> None:
    """Where a door signed the user out."""
    if SESSION_KEY not in client.session:
        client.force_login(user)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.usefixtures("rows")
def test_each_role_at_each_door_that_writes(role: str) -> None:
    """Doors to look at are asked in test_households.py, which reads what each of them shows to each role."""
    user = User.objects.create_user(f"the {role}", is_staff=True)
    user.groups.set(Group.objects.filter(name=role))
    client = Client(raise_request_exception=False)
    wrong = []
    for door in doors():
        if door.method != "get":
            sign_in_again(client, user)
            wrong += faults(role, door, _ask(client, door))
    assert not wrong, "\n".join([f"{role}:", *wrong])


@pytest.mark.usefixtures("rows")
def test_who_is_not_signed_in_gets_nowhere() -> None:
    client = Client()
    login = reverse("admin:login")
    wrong = []
    for door in doors():
        answer = _ask(client, door)
        sent_to_sign_in = answer.status_code == 302 and answer["Location"].startswith(login)
        if door.name not in ("schema", "docs") and not sent_to_sign_in and answer.status_code not in REFUSED:
            wrong.append(f"{door.method} {door.name}: {answer.status_code}")
    assert not wrong, "\n".join(wrong)


def _ask(client: Client, door: Door) -> Any:
    address = reverse(door.name, args=arguments(door))
    if door.method == "get":
        return client.get(address)
    is_rest = not door.name.startswith("admin:")
    content_type = {"content_type": "application/json"} if is_rest else {}
    return getattr(client, door.method)(address, door.body, **content_type)


@pytest.mark.usefixtures("rows")
def test_no_door_of_the_api_fails_on_a_nul_nor_on_options() -> None:
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("root"))
    token = tokens.issue(Concentrator.objects.all()[0], "bench", None)
    wrong = []
    for path, operations in client.get("/api/schema/?format=json").json()["paths"].items():
        address = re.sub("{.*?}", "1", path.replace("{system_title}", Meter.objects.all()[0].system_title.hex()))
        answers = [client.options(address), Client().options(address, headers={"Authorization": f"Bearer {token}"})]
        assert {answer.status_code for answer in answers} == {200, 401}, path
        named = [parameter["name"] for parameter in operations.get("get", {}).get("parameters", [])]
        answers += [client.get(address, {name: "a\0b"}) for name in named]
        fields = (
            ("name", "concentrator", "derived_from", "fleet_key", "register", "kind") if "post" in operations else ()
        )
        answers += [client.post(address, {name: "a\0b"}, content_type="application/json") for name in fields]
        wrong += [f"{answer.request['REQUEST_METHOD']} {path}" for answer in answers if answer.status_code >= 500]
    assert not wrong


def test_no_door_is_left_out() -> None:
    named = {door.name for door in doors()} | OPEN
    assert not sorted(set(_views(get_resolver())) - named)
    assert {model._meta.label_lower for model in admin.site._registry} == set(MODELS)


def _views(resolver: URLResolver, space: str = "") -> Iterator[str]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            yield from _views(pattern, f"{pattern.namespace}:" if pattern.namespace else space)
        elif isinstance(pattern, URLPattern) and pattern.name:
            yield space + pattern.name


def test_the_sidebar_shows_the_doors_that_open() -> None:
    opens = {reverse(door.name): door.who for door in doors() if door.method == "get" and door.of == ()}
    for role in ROLES:
        user = User.objects.create_user(f"the {role}", is_staff=True)
        user.groups.set(Group.objects.filter(name=role))
        client = Client()
        client.force_login(user)
        context: Any = client.get(reverse("admin:index")).context
        links = [item["link"] for group in context["sidebar_navigation"] for item in group["items"]]
        assert reverse("admin:index") in links
        assert not [link for link in links if role not in opens[link]], role
        assert len(links) == len(set(links))


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("role", ROLES)
def test_the_registry_gives_no_keys_to_whom_may_not_make_them(role: str) -> None:
    user = User.objects.create_user("someone else", is_staff=True)
    user.groups.set(Group.objects.filter(name=role))
    client = Client()
    client.force_login(user)
    answer = client.get(reverse("admin:meters_meter_add"))
    assert answer.status_code == (200 if role == OPERATOR else 403)
    assert "first_keys" not in answer.content.decode()
    body = {
        "system_title_hex": "00" * 7 + "01", "serial_number": "new", "interval_minutes": "30", "first_keys": "random",
        "scheme": "ccm",
        "commissioned_at_0": "2026-01-01", "commissioned_at_1": "00:00:00",
    }  # fmt: skip
    keys = DeviceKey.objects.count()
    client.post(reverse("admin:meters_meter_add"), body)
    assert Meter.objects.filter(serial_number="new").exists() is (role == OPERATOR)
    assert DeviceKey.objects.count() == keys
