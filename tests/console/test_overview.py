"""The overview: figures that agree with what happened, for those who may see them, at a constant cost."""

import json
import re
from datetime import timedelta
from html import unescape

import pytest
from django.contrib.auth.models import Permission, User
from django.core.cache import cache
from django.test import Client
from django.urls import reverse_lazy
from django.utils import timezone

from ami_headend.console import queries
from concentrators.models import Concentrator, Uplink
from concentrators.verdicts import FailureKind
from tests.concentrators import fleet
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db

HOUR, DAY = timedelta(hours=1), timedelta(hours=24)
OVERVIEW = reverse_lazy("admin:index")
LIVE = {"HX-Request": "true"}


@pytest.fixture(autouse=True)
def _nothing_rested() -> None:
    cache.clear()


def traffic(meters: int = 3) -> Concentrator:
    """Accepted frames of each meter, a duplicate, and a refused frame of two kinds; one uplink that waits."""
    concentrator = ConcentratorFactory.create()
    devices = fleet.commission(meters, concentrator)
    frames = [device.frame(0) for device in devices]
    damaged = frames[0][:-1] + bytes([frames[0][-1] ^ 1])
    now = timezone.now()
    fleet.verified(concentrator, [*frames, frames[0], damaged, b"\xd0"], now)
    fleet.post(concentrator, [devices[0].frame(1)], now)
    return concentrator


def staff(*codenames: str) -> Client:
    user = User.objects.create_user("reader", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def test_verdicts_stand_in_their_minute() -> None:
    concentrator = traffic()
    now = timezone.now()
    minutes = queries.frames_by_minute(now, 30)
    assert len(minutes) == 30
    assert minutes[-1].start == now.replace(second=0, microsecond=0)
    assert tuple(map(sum, list(zip(*minutes, strict=True))[1:])) == (3, 1, 2)
    Uplink.objects.filter(concentrator=concentrator).exclude(verified_at=None).update(
        verified_at=now - timedelta(minutes=7), received_at=now - timedelta(minutes=8)
    )
    assert queries.frames_by_minute(now, 30)[-8][1:] == (3, 1, 2)
    assert not any(sum(minute[1:]) for minute in queries.frames_by_minute(now, 5))


def test_failures_are_counted_by_kind_over_all_concentrators() -> None:
    traffic()
    traffic()
    counts = queries.failures_by_kind(timezone.now() - DAY)
    assert counts == [
        queries.KindCount(FailureKind.MALFORMED, 2),
        queries.KindCount(FailureKind.TAG_INVALID, 2),
    ]
    assert queries.failures_by_kind(timezone.now() + 2 * HOUR) == []


def test_concentrators_tell_when_they_posted_last_and_how_much() -> None:
    silent = ConcentratorFactory.create(name="a silent one")
    retired = ConcentratorFactory.create(is_active=False)
    posting = traffic()
    active, heard, rows = queries.concentrators(timezone.now(), HOUR, 8)
    assert (active, heard) == (2, 1)
    assert [row.id for row in rows] == [posting.pk, silent.pk, retired.pk]
    assert (rows[0].uplinks, rows[0].frames, rows[0].rejected) == (2, 7, 2)
    assert (rows[1].heard_at, rows[1].frames) == (None, 0)
    assert len(queries.concentrators(timezone.now(), HOUR, 1)[2]) == 1


def test_meters_are_heard_by_accepted_frames_alone() -> None:
    concentrator = traffic()
    never = MeterFactory.create()
    MeterFactory.create(status="retired")
    heard = queries.meters_heard(timezone.now(), DAY, 8)
    assert (heard.expected, heard.heard, heard.never) == (4, 3, 1)
    assert heard.silent[0] == queries.SilentMeter(never.pk, never.serial_number, None, None)
    assert {meter.via for meter in heard.silent[1:]} == {concentrator.name}
    cache.clear()
    assert queries.meters_heard(timezone.now() + 2 * DAY, DAY, 8).heard == 0


def test_a_costly_question_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "_RESTS", 1e6)
    assert queries.meters_heard(timezone.now(), DAY, 8).expected == 0
    MeterFactory.create()
    assert queries.meters_heard(timezone.now(), DAY, 8).expected == 0
    cache.clear()
    assert queries.meters_heard(timezone.now(), DAY, 8).expected == 1


@pytest.mark.parametrize("headers", [{}, LIVE])
def test_only_staff_may_look(headers: dict[str, str], client: Client, admin_client: Client) -> None:
    assert admin_client.get(OVERVIEW, headers=headers).status_code == 200
    assert client.get(OVERVIEW, headers=headers).status_code == 302
    client.force_login(User.objects.create_user("visitor"))
    assert client.get(OVERVIEW, headers=headers).status_code == 302


@pytest.mark.parametrize("headers", [{}, LIVE])
def test_an_empty_head_end_has_an_overview(headers: dict[str, str], admin_client: Client) -> None:
    text = admin_client.get(OVERVIEW, headers=headers).content.decode()
    for told in ("No frame was refused.", "Nothing was posted yet.", "No meter is registered yet.", "nothing waits"):
        assert told in text


def test_the_page_shows_what_happened(admin_client: Client) -> None:
    concentrator = traffic()
    text = admin_client.get(OVERVIEW).content.decode()
    assert concentrator.name in text
    assert "3 of 3" in text
    assert re.search(r"oldest for \d+\.\d s", text)
    link = re.search(r'href="([^"]*kind=tag_invalid[^"]*)"', text)
    assert link is not None
    [row] = admin_client.get(link[1].replace("&amp;", "&")).context["content"].rows
    assert "tag invalid" in str(row[2].content)


def test_the_live_part_carries_the_data_of_the_chart(admin_client: Client) -> None:
    traffic()
    text = admin_client.get(OVERVIEW, headers=LIVE).content.decode()
    found = re.search(r'data-chart="chart-verdicts" data-chart-value="(.*?)"', text)
    assert found is not None
    datasets = {dataset["label"]: sum(dataset["data"]) for dataset in json.loads(unescape(found[1]))["datasets"]}
    assert datasets == {"accepted": 3, "duplicate": 1, "rejected": 2}
    assert "<html" not in text


@pytest.mark.parametrize(
    ("permission", "seen", "hidden"),
    [
        ("view_uplink", "Latest uplinks", "Meters heard"),
        ("view_meter", "Meters heard", "Latest uplinks"),
        ("view_concentrator", "Concentrators posting", "Frames verified"),
        ("view_failuretally", "Failures by kind", "Latest failures"),
        ("view_integrityfailure", "Latest failures", "Failures by kind"),
    ],
)
def test_sections_are_for_those_who_may_see_them(permission: str, seen: str, hidden: str) -> None:
    traffic()
    text = staff(permission).get(OVERVIEW).content.decode()
    assert seen in text
    assert hidden not in text


def test_who_may_see_nothing_is_told_so() -> None:
    assert "may not see any of the sections" in staff().get(OVERVIEW).content.decode()


def test_the_page_loads_nothing_from_other_hosts(admin_client: Client) -> None:
    text = admin_client.get(OVERVIEW).content.decode()
    assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]*', text)


def test_the_cost_is_the_same_however_much_there_is(admin_client: Client) -> None:
    traffic()
    with counting() as statements:
        admin_client.get(OVERVIEW, headers=LIVE)
        few = statements.take()
        for _ in range(3):
            traffic(6)
        cache.clear()
        statements.take()
        admin_client.get(OVERVIEW, headers=LIVE)
        assert len(statements) == len(few) <= 12, [*statements]
