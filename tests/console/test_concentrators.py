"""The list of concentrators and the page of one: health, completeness by the hour, tokens, and their cost."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from ami_headend.console import overview_panels
from ami_headend.console.concentrator import _heat_map
from ami_headend.console.fleet_queries import Profiles
from ami_headend.core import bearer
from ami_headend.models import KeptAnswer
from ami_headend.signin import roles
from concentrators.fleet import tokens
from concentrators.models import Concentrator, ConcentratorToken, Uplink
from concentrators.totals.completeness import Hour, IntervalShare, incomplete_meters
from keyvault.models import AuditRecord
from meters.models import Meter
from tests.concentrators import fleet
from tests.concentrators.fleet import HALF_HOUR_S, START, verified
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import ConcentratorFactory, UplinkFactory

pytestmark = pytest.mark.django_db

LIST = "admin:concentrators"
STEPS_ANEW = 7  # statements for up to 50 concentrators, however many meters they have


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create(name="north")


@pytest.fixture
def devices(concentrator: Concentrator) -> list[fleet.Device]:
    """Two meters, a day of readings from START on; the second lacks intervals 20 and 21."""
    devices = fleet.commission(2, concentrator)
    Meter.objects.update(commissioned_at=START)
    frames = [device.frame(n) for device in devices for n in range(40) if device is devices[0] or n not in (20, 21)]
    verified(concentrator, frames, timezone.now())
    return devices


def page_of(concentrator: Concentrator) -> str:
    return reverse("admin:concentrator", args=[concentrator.pk])


def listed(client: Client, **asked: str) -> list[str]:
    answer = client.get(reverse(LIST), asked)
    assert answer.status_code == 200
    return [" | ".join(str(cell.content) for cell in row) for row in answer.context["content"].rows]


def test_health_is_told_in_a_word(devices: list[fleet.Device]) -> None:
    now = timezone.now()
    silent, lagging, inactive, _ = ConcentratorFactory.create_batch(4)
    UplinkFactory.create(concentrator=silent, received_at=now - timedelta(hours=2))
    UplinkFactory.create(concentrator=lagging, received_at=now - timedelta(minutes=5))
    Uplink.objects.filter(concentrator=lagging).update(verified_at=None)
    Concentrator.objects.filter(pk=inactive.pk).update(is_active=False)
    rows = listed(person(roles.OPERATOR))
    health = [
        next(word for word in ("posting", "silent", "lagging", "inactive", "never") if f"\n{word}" in row)
        for row in rows
    ]
    assert health == ["silent", "lagging", "inactive", "never", "posting"]
    assert len(listed(person(roles.OPERATOR), state="inactive")) == 1
    [north] = listed(person(roles.OPERATOR), search="NOR")
    assert "?concentrator=north" in north


def test_the_list_is_sorted_by_what_was_asked(devices: list[fleet.Device]) -> None:
    now = timezone.now()
    busy, quiet = ConcentratorFactory.create(name="a busy one"), ConcentratorFactory.create(name="b quiet one")
    UplinkFactory.create(concentrator=busy, received_at=now, frames=90, accepted=40, rejected=50)
    UplinkFactory.create(concentrator=quiet, received_at=now - timedelta(hours=3), frames=5, accepted=4, rejected=1)
    client = person(roles.OPERATOR)

    def names(sort: str) -> list[str]:
        return re.findall(
            r"a busy one|b quiet one|north", " ".join(row.split("|")[0] for row in listed(client, sort=sort))
        )

    assert names("name") == ["a busy one", "b quiet one", "north"]
    assert names("-rejected")[0] == "a busy one"
    assert names("rejected")[-1] == "a busy one"
    assert names("heard")[0] == "b quiet one"
    assert names("-meters")[0] == "north"
    assert names("rubbish") == names("name")
    header = client.get(reverse(LIST), {"sort": "-rejected"}).content.decode()
    assert 'aria-sort="descending"' in header
    assert "?sort=rejected" in header


def test_silent_ones_do_not_push_lagging_ones_off_the_overview(
    concentrator: Concentrator, devices: list[fleet.Device]
) -> None:
    end = timezone.now()
    lacking = Profiles(end, [], [IntervalShare(concentrator.pk, 1, 100, None)])
    ConcentratorFactory.create_batch(12)
    shown = overview_panels.concentrators(lacking, end)["concentrators"].rows
    assert any("north" in str(row[0].content) for row in shown)


def test_completeness_leads_to_the_meter_that_lacks_intervals(
    concentrator: Concentrator, devices: list[fleet.Device]
) -> None:
    client = person(roles.OPERATOR)
    context = client.get(page_of(concentrator)).context
    lacking = START + timedelta(seconds=20 * HALF_HOUR_S)
    cells = {cell.url: cell for row in context["heat"] for cell in row["cells"] if cell and "50.0 %" in cell.said}
    assert len(cells) == 1
    [(url, cell)] = cells.items()
    assert "2 of 4 intervals" in cell.said
    found = client.get(url.split("#")[0]).context["incomplete"].rows
    assert len(found) == 1
    assert str(devices[1].meter) in found[0][0].content
    assert f"on={lacking:%Y-%m-%d}" in found[0][0].content
    assert (found[0][1].content, found[0][2].content) == ("2", "2")


def test_meters_that_lack_intervals_come_with_the_worst_first(
    concentrator: Concentrator, devices: list[fleet.Device]
) -> None:
    end = START + timedelta(seconds=42 * HALF_HOUR_S)
    rows = incomplete_meters(concentrator.pk, START, end, 10)
    assert [(row.serial_number, row.missing, row.expected) for row in rows] == [
        (devices[1].meter.serial_number, 4, 42),
        (devices[0].meter.serial_number, 2, 42),
    ]
    assert incomplete_meters(concentrator.pk, START, START + timedelta(hours=1), 10) == []


@pytest.mark.parametrize(
    ("zone", "first", "rows"),
    [
        ("Europe/Berlin", datetime(2026, 10, 24, 22, tzinfo=UTC), {25: 24}),
        ("Europe/Berlin", datetime(2026, 3, 28, 23, tzinfo=UTC), {29: 23}),
    ],
)
def test_hours_of_a_day_on_which_clocks_are_changed(zone: str, first: datetime, rows: dict[int, int]) -> None:
    hours = [Hour(first + timedelta(hours=n), 1, 2, 100.0) for n in range(25 if first.month == 10 else 23)]
    with timezone.override(ZoneInfo(zone)):
        [day] = _heat_map(hours, "/x")
    assert day["day"].day in rows
    cells = day["cells"]
    assert sum(cell is not None for cell in cells) == rows[day["day"].day]
    if first.month == 10:
        assert "2 of 4" in cells[2].said
    else:
        assert cells[2] is None


@pytest.mark.parametrize("asked", ["from=x&to=y", "from=2026-01-01T00:00:00", "from=2026-01-01&to=2027-01-01"])
def test_odd_hours_ask_for_nothing(concentrator: Concentrator, asked: str) -> None:
    answer = person(roles.OPERATOR).get(f"{page_of(concentrator)}?{asked}")
    assert answer.status_code == 200
    assert "incomplete" not in answer.context


def made(answer: Any) -> str:
    found = re.findall(r"dcu_[\w-]{43}", answer.content.decode())
    assert len(found) == 1
    return str(found[0])


def test_a_token_is_made_and_shown_once(concentrator: Concentrator) -> None:
    client = person(roles.ADMINISTRATOR)
    answer = client.post(page_of(concentrator), {"act": "make", "label": "spring"})
    secret = made(answer)
    assert "no-store" in answer["Cache-Control"]
    row = ConcentratorToken.objects.get()
    assert (bytes(row.digest), row.label) == (bearer.digest(secret), "spring")
    assert secret not in client.get(page_of(concentrator)).content.decode()
    assert secret not in str(dict(client.session))
    record = AuditRecord.objects.latest("number")
    assert (record.act, record.subject["label"]) == ("token.issue", "spring")


def test_a_token_is_rotated_and_the_old_one_ends_a_day_later(concentrator: Concentrator) -> None:
    old = tokens.issue(concentrator, "spring")
    client = person(roles.ADMINISTRATOR)
    given = {"act": "rotate", "token": ConcentratorToken.objects.get().pk}
    new = made(client.post(page_of(concentrator), given))
    now = timezone.now()
    assert tokens.find(new, now) is not None
    assert tokens.find(old, now) is not None
    assert tokens.find(old, now + timedelta(days=1, minutes=1)) is None
    assert tokens.find(new, now + timedelta(days=300)) is not None
    assert AuditRecord.objects.latest("number").act == "token.rotate"


def test_a_token_is_revoked(concentrator: Concentrator) -> None:
    secret = tokens.issue(concentrator, "spring")
    client, pk = person(roles.ADMINISTRATOR), ConcentratorToken.objects.get().pk
    asked = client.post(page_of(concentrator), {"act": "revoke", "token": pk}).content.decode()
    assert "It is the only valid token" in asked
    assert tokens.find(secret, timezone.now()) is not None
    given = {"act": "revoke", "token": pk, "confirmed": "1"}
    said = client.post(page_of(concentrator), given, follow=True).content.decode()
    assert "refused from now on" in said
    assert tokens.find(secret, timezone.now()) is None
    again = client.post(page_of(concentrator), {"act": "rotate", "token": pk}, follow=True).content.decode()
    assert "Nothing was done" in again
    assert AuditRecord.objects.latest("number").act == "token.revoke"


def test_a_token_that_would_never_be_valid_is_not_made(concentrator: Concentrator) -> None:
    given = {"act": "make", "expires_at": "2020-01-01T00:00"}
    assert "This time has passed" in person(roles.ADMINISTRATOR).post(page_of(concentrator), given).content.decode()
    assert not ConcentratorToken.objects.exists()


@pytest.mark.parametrize("token", ["", "x", "9" * 30, "another's"])
def test_a_token_of_another_is_not_touched(concentrator: Concentrator, token: str) -> None:
    tokens.issue(ConcentratorFactory.create())
    given = {"act": "revoke", "token": token if token != "another's" else ConcentratorToken.objects.get().pk}
    answer = person(roles.ADMINISTRATOR).post(page_of(concentrator), given, follow=True)
    assert "Nothing was done" in answer.content.decode()
    assert ConcentratorToken.objects.get().revoked_at is None


@pytest.mark.parametrize("role", [roles.OPERATOR, roles.AUDITOR])
def test_who_may_only_see_tokens_changes_none(concentrator: Concentrator, role: str) -> None:
    tokens.issue(concentrator, "spring")
    client = person(role)
    text = client.get(page_of(concentrator)).content.decode()
    assert "spring" in text
    assert "Make a token" not in text
    for act in ("make", "rotate", "revoke", "x"):
        given = {"act": act, "token": ConcentratorToken.objects.get().pk}
        assert client.post(page_of(concentrator), given).status_code == 403
    assert ConcentratorToken.objects.filter(revoked_at=None, expires_at=None).count() == 1
    assert person(rights=("view_meter",)).get(page_of(concentrator)).status_code == 403


@pytest.mark.parametrize(
    ("address", "most"), [(lambda concentrator: reverse(LIST), 8), (page_of, 24)], ids=["list", "page"]
)
def test_pages_cost_the_same_however_much_there_is(
    concentrator: Concentrator, devices: list[fleet.Device], address: Callable[[Concentrator], str], most: int
) -> None:
    client = person(roles.OPERATOR)
    client.get(address(concentrator))
    KeptAnswer.objects.update(took_s=1_000)  # kept answers rest: what they cost is no part of a page
    with counting() as statements:
        client.get(address(concentrator))
        few = statements.take()
        ConcentratorFactory.create_batch(9)
        more = fleet.commission(9, concentrator)
        verified(concentrator, [device.frame(0) for device in more] + [b"x", b"y"], timezone.now())
        statements.take()
        client.get(address(concentrator))  # makes the steps of expected intervals anew, as meters were added
        assert len(statements.take()) <= len(few) + STEPS_ANEW
        client.get(address(concentrator))
        assert len(statements) == len(few) <= most, [*statements]
