"""The overview: figures that agree with what happened, for those who may see them, at a constant cost."""

import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client
from django.urls import reverse, reverse_lazy
from django.utils import timezone

from ami_headend.alerts import silence
from ami_headend.alerts.models import Alert, Rule, SubjectKind
from ami_headend.console import fleet_queries, overview_panels, rotation_queries, todo, traffic_queries
from ami_headend.console.fleet_queries import DAY, METERS_HEARD, PROFILES, Profiles
from ami_headend.console.formatting import link
from ami_headend.health import components
from ami_headend.models import KeptAnswer
from concentrators.failures.kinds import FailureKind, Severity
from concentrators.fleet import health
from concentrators.models import Assignment, Concentrator, IntervalTotal, RotationWave, Uplink, WaveMeter, WaveState
from concentrators.totals.completeness import Hour, IntervalShare
from keyvault import approvals
from keyvault.approvals import Person
from keyvault.models import DeviceKey, MasterKeyRotation, RotationState
from meters.models import Meter, Register
from meters.readings.obis import LOAD_PROFILE
from tests.concentrators import fleet
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)
OVERVIEW = reverse_lazy("admin:index")
LIVE = {"HX-Request": "true"}


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


def text_of(client: Client, **headers: str) -> str:
    return unescape(client.get(OVERVIEW, headers=headers).content.decode())


def figure(text: str, title: str) -> str:
    """The value and the note of a figure."""
    found = re.search(rf"</span>{re.escape(title)}</p>\s*<p[^>]*>(.*?)</p>\s*<p[^>]*>(.*?)</p>", text)
    assert found is not None, title
    return f"{found[1]}; {found[2]}"


# --- what is asked -------------------------------------------------------------------------------


def test_verdicts_stand_in_their_hour() -> None:
    concentrator = traffic()
    now = timezone.now()
    hours = traffic_queries.VERDICTS.ask(now)
    assert len(hours) == traffic_queries.HOURS
    assert hours[-1].start == now.replace(minute=0, second=0, microsecond=0)
    assert tuple(sum(hour[n] for hour in hours) for n in (1, 2, 3)) == (3, 1, 2)
    assert sum(hour.verified for hour in hours) == 6
    Uplink.objects.filter(concentrator=concentrator).exclude(verified_at=None).update(
        verified_at=now - 7 * HOUR, received_at=now - 8 * HOUR
    )
    assert traffic_queries.VERDICTS.ask(now)[-8][1:] == (3, 1, 2)


def test_the_lag_is_that_of_verified_uplinks() -> None:
    assert traffic_queries.lag_s() is None
    concentrator = traffic()
    at = timezone.now()
    Uplink.objects.filter(concentrator=concentrator).exclude(verified_at=None).update(
        received_at=at - timedelta(seconds=3), verified_at=at
    )
    assert traffic_queries.lag_s() == 3.0


def test_failures_are_counted_by_kind_over_all_concentrators() -> None:
    traffic()
    traffic()
    counts = traffic_queries.FAILURES_BY_KIND.ask(timezone.now())
    assert counts == [
        traffic_queries.KindCount(FailureKind.MALFORMED, 2),
        traffic_queries.KindCount(FailureKind.TAG_INVALID, 2),
    ]
    assert traffic_queries.FAILURES_BY_KIND.ask(timezone.now() + DAY + 2 * HOUR) == []


def test_silent_concentrators_come_first_and_the_others_where_asked_for() -> None:
    never = ConcentratorFactory.create()
    Assignment.objects.create(meter=MeterFactory.create(), concentrator=never, valid_from=timezone.now() - DAY)
    ConcentratorFactory.create()  # new, and without meters
    ConcentratorFactory.create(is_active=False)
    posting, quiet = traffic(), traffic()
    now = timezone.now()
    Uplink.objects.filter(concentrator=quiet).update(received_at=now - 3 * HOUR)
    Concentrator.objects.update(created_at=now - 5 * HOUR)
    found = {one.id: one for one in health.of_concentrators(now - 2 * HOUR, now)}
    assert {one.id for one in found.values() if one.is_silent} == {never.pk, quiet.pk}
    assert [(one.is_active, one.is_new) for one in found.values()].count((True, True)) == 1
    assert [found[row.pk].waiting for row in (never, quiet, posting)] == [0, 1, 1]
    silent = [one.id for one in health.of_concentrators(now - 4 * HOUR, now) if one.is_silent]
    assert silent == [never.pk]
    panel = overview_panels.concentrators(Profiles(now, [], [IntervalShare(posting.pk, 1, 1, now)]), now)
    assert [str(row[0].content) for row in panel["concentrators"].rows] == [
        link(reverse("admin:concentrator", args=[row.pk]), row.name) for row in (never, quiet, posting)
    ]
    assert panel["figures"][0].value == "1 of 4"
    assert panel["figures"][0].note == "2 silent for over 2 h, 1 never posted yet"
    Concentrator.objects.update(is_active=False)
    assert not any(one.is_silent or one.is_new for one in health.of_concentrators(now, now))


def test_silence_is_measured_as_the_rule_of_its_alert_does() -> None:
    assert silence.silent_after() == 2 * HOUR
    Rule.objects.filter(condition="silent_concentrator").update(period_minutes=600)
    assert silence.silent_after() == 10 * HOUR
    Rule.objects.filter(condition="silent_concentrator").update(is_enabled=False)
    assert silence.silent_after() == 2 * HOUR


def test_meters_are_heard_by_accepted_frames_alone() -> None:
    concentrator = traffic()
    never = MeterFactory.create()
    MeterFactory.create(status="retired")
    heard = METERS_HEARD.ask(timezone.now())
    assert (heard.expected, heard.heard, heard.never) == (4, 3, 1)
    assert heard.silent[0] == fleet_queries.SilentMeter(never.pk, never.serial_number, None, None)
    assert {meter.via for meter in heard.silent[1:]} == {concentrator.name}
    assert METERS_HEARD.ask(timezone.now() + 2 * DAY).heard == 0


def test_profiles_end_where_readings_may_still_be_on_their_way() -> None:
    now = datetime(2026, 11, 24, 9, 20, tzinfo=UTC)
    found = PROFILES.ask(now)
    assert found.end == datetime(2026, 11, 24, 7, tzinfo=UTC)
    assert found.hours[0].start == datetime(2026, 11, 17, 7, tzinfo=UTC)
    assert found.hours[-1].start == datetime(2026, 11, 24, 9, tzinfo=UTC)
    assert found.over(DAY) == (0, 0)


def test_waves_that_have_not_ended_tell_how_far_they_are() -> None:
    wave = RotationWave.objects.create(name="spring", rate_per_hour=60, failure_budget=3, created_by="officer")
    RotationWave.objects.create(
        name="old", state=WaveState.FINISHED, rate_per_hour=60, failure_budget=3, created_by="officer"
    )
    for _ in range(2):
        WaveMeter.objects.create(wave=wave, meter=MeterFactory.create())
    found = rotation_queries.OPEN_WAVES.ask(timezone.now())
    assert found == [rotation_queries.WaveRow(wave.pk, "spring", "running", 2, 0, 0, 0, 3)]
    panel = overview_panels.rotation(found, None)
    assert panel["figures"][0].value == "0.0 %"
    assert "0 of 2 meters" in panel["rotations"][0].note
    assert panel["rotations"][0].url.endswith(f"/{wave.pk}/")


def test_a_rotation_of_the_master_key_is_under_way_too() -> None:
    standing = MasterKeyRotation(to_version=2, state=RotationState.STOPPED, total=8, rewrapped=2, unreadable=0)
    panel = overview_panels.rotation([], standing)
    assert panel["figures"][0].value == "25.0 %"
    assert panel["figures"][0].note == "1 stopped or paused"
    assert panel["rotations"][0].title == "Master key to version 2"


# --- what is shown -------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, LIVE])
def test_only_staff_may_look(headers: dict[str, str], client: Client, admin_client: Client) -> None:
    assert admin_client.get(OVERVIEW, headers=headers).status_code == 200
    assert client.get(OVERVIEW, headers=headers).status_code == 302
    client.force_login(User.objects.create_user("visitor"))
    assert client.get(OVERVIEW, headers=headers).status_code == 302


@pytest.mark.parametrize("headers", [{}, LIVE])
def test_an_empty_head_end_says_what_to_do(headers: dict[str, str], admin_client: Client) -> None:
    components.look()
    KeptAnswer.objects.filter(name="components").update(content=b"\x80")  # all is well: nothing found
    text = text_of(admin_client, **headers)
    for told in ("No frame was rejected.", "Register a concentrator", "Import meters", "no intervals are expected yet"):
        assert told in text
    assert ("<html" in text) == (not headers)


def test_the_figures_are_what_happened(admin_client: Client) -> None:
    concentrator = traffic()
    text = text_of(admin_client)
    assert figure(text, "Active meters") == "3 of 3; last 24 hours"
    assert figure(text, "Concentrators posting") == "1 of 1; none silent"
    assert figure(text, "Signs of tampering") == "1; forged or copied frames, 24 h"
    assert figure(text, "Frames rejected") == "2; 33.3 % of 6 in 24 hours"
    assert re.fullmatch(r"1; the oldest for \d+ s", figure(text, "Uplinks waiting"))
    assert concentrator.name in text
    link = re.search(r'href="([^"]*kind=tag_invalid[^"]*)"', text)
    assert link is not None
    [row] = admin_client.get(link[1]).context["content"].rows
    assert "invalid tag" in str(row[2].content)


def test_meters_are_counted_by_scheme_once_there_are_several() -> None:
    _usual, *devices = fleet.commission(4, None)
    client = staff("view_meter")
    assert "Meters by protection scheme" not in text_of(client)
    moved, cut_off, holder = (DeviceKey.objects.filter(system_title=device.title) for device in devices)
    moved.update(scheme="mac", algorithm=5)
    cut_off.update(state="compromised")
    Meter.objects.filter(system_title=devices[2].title).delete()
    holder.update(scheme="concentrator")
    KeptAnswer.objects.all().delete()
    text = text_of(client)
    assert f"{reverse('admin:meters')}?scheme=mac" in text
    words = " ".join(re.sub(r"<[^>]+>", " ", text).split())
    assert "Meters by protection scheme ccm 1 50.0 % mac: carried in clear 1 50.0 % " in words
    assert "?scheme=concentrator" not in text
    assert "protection scheme" not in text_of(person(rights=("view_uplink",)))


def test_completeness_is_of_what_is_expected(admin_client: Client) -> None:
    now = timezone.now()
    concentrator = ConcentratorFactory.create()
    device = fleet.commission(1, concentrator)[0]
    Meter.objects.filter(pk=device.meter.pk).update(commissioned_at=now - 30 * DAY)
    end = PROFILES.ask(now).end
    for n in range(1, 49):
        if n not in (5, 6):
            IntervalTotal.objects.create(
                concentrator=concentrator,
                register=Register.objects.get(obis_code=LOAD_PROFILE),
                interval_minutes=30,
                interval_start=end - n * HOUR / 2,
                value_sum=250,
                meters_counted=1,
            )
    fleet.post(concentrator, [device.frame(0)], now)
    text = text_of(admin_client)
    assert figure(text, "Completeness, 24 hours") == "95.8 %; 2 of 48 intervals missing"
    assert figure(text, "Completeness, 7 days") == "13.7 %; 290 of 336 intervals missing"
    assert "lagging" in text
    load = chart_of(text, "load")
    assert load["datasets"][0]["data"].count(None) == 1
    assert set(load["datasets"][0]["data"]) == {None, 500.0}
    assert load["datasets"][1]["data"] == [None] * 24


def chart_of(text: str, name: str) -> Any:
    found = re.search(rf'data-chart="chart-{name}" data-chart-value="(.*?)"></div>', text)
    assert found is not None
    return json.loads(found[1])


def test_the_live_part_carries_the_data_of_the_charts(admin_client: Client) -> None:
    traffic()
    datasets = chart_of(text_of(admin_client, **LIVE), "verdicts")["datasets"]
    assert {one["label"]: sum(one["data"]) for one in datasets} == {"accepted": 3, "duplicate": 1, "refused": 2}


@pytest.mark.parametrize(
    ("counted", "tone"), [(100, "good"), (98, "good"), (97, "unsure"), (95, "unsure"), (94, "bad"), (0, "bad")]
)
def test_a_figure_warns_in_its_tone(counted: int, tone: str) -> None:
    end = datetime(2026, 11, 24, tzinfo=UTC)
    found = Profiles(end, [Hour(end - HOUR, counted, 100, 0.0)], [])
    assert overview_panels.profiles(found)["figures"][0].tone == tone


@pytest.mark.parametrize(
    ("permission", "seen", "hidden"),
    [
        ("view_uplink", "Frames rejected", "Active meters"),
        ("view_meter", "Active meters", "Frames rejected"),
        ("view_concentrator", "Concentrators posting", "Frames rejected"),
        ("view_failuretally", "Failures by kind", "Latest failures"),
        ("view_integrityfailure", "Latest failures", "Failures by kind"),
        ("view_intervaltotal", "Load of the fleet", "Active meters"),
        ("view_rotationwave", "Key rotation", "Load of the fleet"),
    ],
)
def test_panels_are_for_those_who_may_see_them(permission: str, seen: str, hidden: str) -> None:
    traffic()
    text = text_of(staff(permission))
    assert seen in text
    assert hidden not in text


def test_who_has_no_role_sees_nothing_and_how_to_get_one(settings: Any) -> None:
    traffic()
    settings.MASTER_KEY_FILE = "/nowhere/master.keys"
    components.look()
    text = text_of(staff())
    assert "Health of components" not in text
    assert "/nowhere" not in text
    assert "console-figure-value" not in text
    assert "Your account has no role yet" in text


def test_who_may_see_components_sees_only_them() -> None:
    text = text_of(staff("view_components"))
    assert "Health of components" in text
    assert "has no role yet" not in text
    assert "console-figure-value" not in text


def test_the_page_loads_nothing_from_other_hosts(admin_client: Client) -> None:
    text = admin_client.get(OVERVIEW).content.decode()
    assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]*', text)


def test_the_cost_is_the_same_however_much_there_is(admin_client: Client) -> None:
    traffic()
    with counting() as statements:
        admin_client.get(OVERVIEW, headers=LIVE)
        first = statements.take()
        KeptAnswer.objects.update(took_s=60)
        statements.take()
        admin_client.get(OVERVIEW, headers=LIVE)
        rested = statements.take()
        for _ in range(3):
            traffic(6)
        KeptAnswer.objects.all().delete()
        statements.take()
        admin_client.get(OVERVIEW, headers=LIVE)
        assert len(statements) == len(first) <= 63, [*statements]
        KeptAnswer.objects.update(took_s=60)
        statements.take()
        admin_client.get(OVERVIEW, headers=LIVE)
        assert len(statements) <= len(rested) <= 20, [*statements]


# --- what to do first ----------------------------------------------------------------------------


def alert(rule: str, subject_id: int = 0, kind: str = SubjectKind.FLEET, **more: Any) -> Alert:
    standing = Rule.objects.get(name=rule)
    now = timezone.now()
    return Alert.objects.create(
        rule=standing,
        severity=standing.severity,
        subject_kind=kind,
        subject_id=subject_id,
        subject="sub-1",
        summary=f"why {rule}",
        opened_at=now,
        seen_at=now,
        **more,
    )


def items(text: str) -> list[str]:
    list_ = re.search(r'<section aria-labelledby="to-do".*?</section>', text, re.DOTALL)
    assert list_ is not None
    return [
        " ".join(re.sub(r"<[^>]*>", " ", item).split()) for item in re.findall(r"<li>.*?</li>", list_[0], re.DOTALL)
    ]


def test_open_alerts_are_what_to_do_first_by_severity(admin_client: Client) -> None:
    components.look()
    KeptAnswer.objects.filter(name="components").update(content=b"\x80")
    concentrator = traffic()
    assert "Nothing needs attention now." in text_of(admin_client)
    silent = alert("Concentrator is silent", concentrator.pk, SubjectKind.CONCENTRATOR)
    alert("Counter used twice")
    alert("Many frames refused", snoozed_until=timezone.now() + HOUR)
    text = text_of(admin_client)
    first, second = items(text)
    assert first.startswith("critical Counter used twice why Counter used twice")
    assert second.startswith("warning Concentrator is silent: sub-1")
    assert f'href="/admin/alerts/{silent.pk}/"' in text


def test_more_alerts_than_are_shown_are_counted(admin_client: Client) -> None:
    components.look()
    KeptAnswer.objects.filter(name="components").update(content=b"\x80")
    for rule in Rule.objects.order_by("pk")[:8]:
        alert(rule.name)
    text = text_of(admin_client)
    assert len(items(text)) == 6
    assert "and 2 more" in text


def test_many_alerts_of_a_rule_stand_once_and_hide_no_other(admin_client: Client) -> None:
    components.look()
    KeptAnswer.objects.filter(name="components").update(content=b"\x80")
    used = [alert("Counter used twice", number, SubjectKind.METER) for number in range(1, 10)]
    Alert.objects.filter(pk=used[0].pk).update(acknowledged_at=timezone.now())
    Alert.objects.filter(pk=used[8].pk).update(opened_at=timezone.now() - 9 * HOUR, subject="the oldest")
    outage = alert("Concentrator is silent", 1, SubjectKind.CONCENTRATOR)
    text = text_of(admin_client)
    first, second = items(text)
    assert first.startswith("critical Counter used twice: the oldest, and 8 more")
    assert f"?rule={used[0].rule_id}" in text
    assert second.startswith("warning Concentrator is silent: ")
    assert f'href="/admin/alerts/{outage.pk}/"' in text
    assert "console-todo-more" not in text
    page = admin_client.get(reverse("admin:alerts"), {"rule": used[0].rule_id})
    assert len(page.context["content"].rows) == 9
    ended = next(url for name, url, _ in page.context["tabs"] if name == "ended")
    assert f"rule={used[0].rule_id}" in ended
    wrong = admin_client.get(reverse("admin:alerts"), {"rule": "999999"})
    assert wrong.context["form"].errors


def test_a_request_waits_for_whoever_may_decide_and_did_not_ask() -> None:
    officer = User.objects.create_user("ann", is_staff=True)
    officer.groups.add(Group.objects.get(name="key officer"))
    subject = {"version": 1, "place": "x"}
    approvals.request(approvals.DESTROY, subject, "rotated in May", Person(officer, "test"), timezone.now())
    asker = Client()
    asker.force_login(officer)
    said = "ann requests your approval"
    assert said not in text_of(asker)
    for number in range(9):  # many alerts do not hide it
        alert("Meter is silent", number + 1, SubjectKind.METER)
    text = text_of(person("administrator"))
    assert said in text
    assert "To destroy version 1 of the master key: rotated in May" in text
    assert said not in text_of(person("auditor"))


def test_two_requests_come_before_alerts_and_the_others_after_them() -> None:
    officer = User.objects.create_user("ann", is_staff=True)
    officer.groups.add(Group.objects.get(name="key officer"))
    asker = Person(officer, "test")
    for version in range(1, 5):
        approvals.request(approvals.DESTROY, {"version": version, "place": "x"}, "old", asker, timezone.now())
    alert("Counter used twice")
    components.look()
    user, now = User.objects.create_superuser("root"), timezone.now()
    found = todo.to_do(user, [], now)
    assert [item.text.split(" of ")[0][-9:] if item.text.startswith("To ") else item.title for item in found.items] == [
        "version 1",
        "version 2",
        "Counter used twice",
        "version 3",
        "version 4",
    ]
    for version in range(5, 10):
        approvals.request(approvals.DESTROY, {"version": version, "place": "x"}, "old", asker, now)
    found = todo.to_do(user, [], now)
    assert (len(found.items), found.more) == (6, 4)


def test_alerts_are_for_those_who_may_see_them() -> None:
    traffic()
    alert("Counter used twice")
    assert "Counter used twice" not in text_of(staff("view_meter"))


def test_without_a_worker_the_overview_says_so(admin_client: Client) -> None:
    assert items(text_of(admin_client))[0].startswith("critical Schedule and workers: no sign")
    components.look()
    assert "all this was checked" in text_of(admin_client)
    KeptAnswer.objects.filter(name="components").update(taken_at=timezone.now() - HOUR)
    assert "no sign for 60 min" in text_of(admin_client)


def test_a_component_that_is_not_well_comes_first(admin_client: Client, settings: Any) -> None:
    alert("Counter used twice")
    settings.MASTER_KEY_FILE = "/nowhere/master.keys"
    components.look()
    found = items(text_of(admin_client))
    assert found[0].startswith("critical Master key: ")
    assert any("Counter used twice" in item for item in found)
    assert Severity.CRITICAL.name.lower() == "critical"
