"""Whatever stands in an address or a form: an answer in words, and never a fault of ours."""

from collections.abc import Iterable
from itertools import cycle, islice
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from drf_spectacular.generators import SchemaGenerator

from ami_headend.console.lists import ListPage
from ami_headend.console.site import PAGES as CONSOLE
from tests.test_doors import Door, arguments, doors, sign_in_again
from tests.test_doors import rows as rows  # noqa: PLC0414 - a fixture

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rows")]

# A NUL has a test of its own: it is refused at the gate.
EVIL = [
    "9" * 5_000, f"{2**63}", "0001-01-01T00:00:00+14:00~1~1~1",
    "9999-12-31T23:59:59-12:00~99999999999999999999~x~1", "\U0001f600('<%00>",
]  # fmt: skip
NUMBERS = ["9" * 5_000, f"{2**63}", "99999999999", "a%00b", "x", "_399", "0"]  # where an address has one
# Names get them in turn in every run, and each of them in the long one: it asks hundreds of addresses.
EACH = pytest.mark.parametrize(
    "values",
    [
        pytest.param(EVIL, id="in turn"),
        *(pytest.param([value], marks=pytest.mark.soak, id=str(n)) for n, value in enumerate(EVIL)),
    ],
)
# What pages read beside their forms.
OTHERS = {
    "admin:meter": ("on", "period", "register"),
    "admin:meter-gaps-export": ("on", "period", "register"),
    "admin:concentrator": ("from", "to", "page"),
    "admin:alerts": ("state", "after"),
    "admin:meters_meter_assign": ("meters",),
    "admin:search": ("s", "extended", "page"),
    "admin:interval_totals": ("concentrator", "register", "from", "to", "after"),
    "admin:masked_totals": ("from", "to", "after"),
    "admin:failure_tallies": ("concentrator", "kind", "from", "to", "after"),
    "admin:readings": ("meter", "register", "from", "to", "after"),
    "admin:signatures": ("meter", "register", "from", "to", "after"),
    "admin:wave-new": ("name", "meters", "concentrator", "older_than_days"),
}
AT = ("_0", "_1", "")
FIELDS = (
    "act", "do", "number", "note", "reason", "minutes", "alert", "failure", "which", "version", "confirm", "batch_size",
    "name", "label", "expires_in_days", "days", "token", "meters", "meter", "concentrator", "older_than_days",
    "rate_per_hour",
    "failure_budget", "fleet_key", "derived_from", "place", "new_meter", "how", "interval_minutes", "at", "valid_from",
    "serial_number", "system_title_hex", "commissioned_at", "obis_code", "kind", "unit", "scaler", "username",
    "password1", "password2", "groups", "address", "least_severity", "condition", "threshold", "period_minutes",
    "selector", "session",
    "change", "action", "_selected_action", "captured_at", "step_up_proof",
)  # fmt: skip


@pytest.fixture
def root() -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("root"))
    return client


def parameters(door: Door, root: Client) -> Iterable[str]:
    """What an address may be asked by."""
    yield from OTHERS.get(door.name, ())
    for page in CONSOLE:
        if door.name == f"admin:{page.name}" and issubclass(page, ListPage):
            yield from (*page.form_class.base_fields, "after")
    if door.name.endswith("_changelist"):
        shown = root.get(reverse(door.name))
        yield from ("q", "o", "p", "_to_field")
        for spec in shown.context["cl"].filter_specs:
            yield from (name for name in spec.expected_parameters() if name is not None)


def faults(answers: Iterable[tuple[str, Any]]) -> list[str]:
    return sorted({said for said, answer in answers if answer.status_code >= 500})


@EACH
@pytest.mark.timeout(900)
def test_no_parameter_of_a_page_is_a_fault(root: Client, values: list[str]) -> None:
    found: list[tuple[str, Any]] = []
    evil = cycle(values)
    for door in doors():
        if door.method == "get" and door.name.startswith("admin:"):
            address = reverse(door.name, args=arguments(door))
            names = sorted({*parameters(door, root)})
            # In turn: of two names that follow each other one, which of them alternates from page to page.
            for name, value in zip(names if len(values) == 1 else names[len(found) % 2 :: 2], evil, strict=False):
                found.append((f"{address}?{name}={value[:40]!r}", root.get(address, {name: value})))
    assert len(found) > 150
    assert not faults(found)


@EACH
@pytest.mark.timeout(900)
def test_no_field_of_a_form_is_a_fault(root: Client, values: list[str]) -> None:
    """All fields at once, whatever the form: each has to stand what is written there."""
    found, evil = [], cycle(values)
    for door in doors():
        if door.method != "get" and door.name.startswith("admin:") and "change_password" not in door.name:
            address = reverse(door.name, args=arguments(door))
            for act in {*map(str, door.body.values())} or {""}:
                body = {f"{name}{part}": next(evil) for name in FIELDS for part in AT}
                body |= dict.fromkeys(("act", "do"), act)
                sign_in_again(root, User.objects.get_or_create(username="root")[0])
                found.append((f"{address} {act} {body['number'][:40]!r}", root.post(address, body)))
    assert not faults(found)


def test_no_period_of_a_rest_list_is_a_fault(root: Client) -> None:
    """From the first instant that can be written, and until the last one."""
    paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]  # type: ignore[no-untyped-call]
    found = []
    for path, ways in paths.items():
        names = {one["name"] for one in ways.get("get", {}).get("parameters", ()) if one["in"] == "query"}
        if {"from", "to"} <= names and "{" not in path:
            for first, last in (
                ("0001-01-01", "0001-01-02"),
                ("2026-01-01", "9999-12-31"),
                ("9999-12-30", "9999-12-31"),
            ):
                period = {"from": f"{first}T00:00:00Z", "to": f"{last}T23:59:59Z"}
                found += [(f"{path} {said}", root.get(path, said)) for said in (period, {"from": period["from"]})]
    assert len(found) > 30
    assert not faults(found)


def test_a_nul_is_refused_in_words_wherever_it_stands(root: Client) -> None:
    found = []
    for door in doors():
        address = reverse(door.name, args=arguments(door))
        if door.name.startswith("admin:"):
            answer = root.get(address, {"q": "a\0b"}) if door.method == "get" else root.post(address, {"note": "a\0b"})
            found.append((door.name, answer))
    assert {answer.status_code for _, answer in found} == {400}
    assert "NUL character" in found[0][1].content.decode()


@pytest.mark.parametrize(
    "values", [pytest.param(NUMBERS, id="in turn"), *(pytest.param([n], marks=pytest.mark.soak) for n in NUMBERS)]
)
@pytest.mark.timeout(900)
def test_no_number_in_an_address_is_a_fault(root: Client, values: list[str]) -> None:
    found, wrong = [], cycle(values)
    for door in doors():
        args = arguments(door)
        for value in islice(wrong, 3) if args else ():
            address = reverse(door.name, args=["4711", *args[1:]]).replace("4711", value)
            ask = getattr(root, door.method)
            found.append((f"{door.method} {door.name} {value[:20]}", ask(address, **_json(door))))
    assert len(found) > 200
    assert not faults(found)


def _json(door: Door) -> dict[str, Any]:
    is_rest = not door.name.startswith("admin:") and door.method != "get"
    return {"data": {}, "content_type": "application/json"} if is_rest else {}


@pytest.mark.parametrize(
    "lookup", ["name__regex", "serial_number__iregex", "commissioned_at__year", "id__in", "nonsense"]
)
def test_a_lookup_that_no_filter_offers_is_refused_in_words(lookup: str, root: Client) -> None:
    answer = root.get(reverse("admin:meters_meter_changelist"), {lookup: "("})
    assert answer.status_code == 400
    assert f"This list has no filter {lookup}" in answer.content.decode()


@pytest.mark.parametrize(
    "name", ["meters", "failures", "failure-groups", "concentrators", "audit", "readings", "interval_totals"]
)
def test_a_page_tells_of_a_parameter_that_it_does_not_know(name: str, root: Client) -> None:
    shown = root.get(reverse(f"admin:{name}"), {"stauts": "open"}).content.decode()
    assert "There is no filter stauts here" in shown


def test_a_filter_that_cannot_be_read_does_not_show_the_whole_list(root: Client) -> None:
    for asked in ({"commissioned_at_from_0": "never"}, {"commissioned_at_from_0": "0001-01-01"}):
        assert root.get(reverse("admin:meters_meter_changelist"), asked).status_code == 400


def test_every_address_of_the_api_refuses_what_it_does_not_know(root: Client) -> None:
    for door in doors():
        if (
            not door.name.startswith("admin:")
            and door.method == "get"
            and door.name not in ("schema", "docs", "metrics")
        ):
            answer = root.get(reverse(door.name, args=arguments(door)), {"nonsense": "1"})
            assert answer.status_code in (400, 401, 403), door.name
            if answer.status_code == 400:
                assert answer.json()["errors"][0]["name"] == "nonsense", door.name
