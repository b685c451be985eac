"""What had arrived by a deadline: counted once, again as more arrives, and from history; with what it costs."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from rest_framework.test import APIClient

from ami_headend.alerts.conditions import deadlines
from ami_headend.alerts.models import Channel, Condition, Rule, SubjectKind
from ami_headend.alerts.parameters import EACH, TOGETHER
from ami_headend.web.scopes import Program
from concentrators.fleet import groups
from concentrators.models import Assignment, ClockCorrection, Concentrator, ReadDay, ReadDeadline, ReadShare, Uplink
from concentrators.totals import expected, meter_success, read_success, totals
from concentrators.totals.read_success import DeadlineInUseError, Success
from keyvault.audit.chain import Actor
from keyvault.models import AuditRecord
from meters.models import MaskedReading, Meter, Reading, Register
from meters.readings import partitions
from meters.readings.obis import LOAD_PROFILE
from meters.registry.groups import GroupName
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db

NOW = timezone.now().replace(hour=12, minute=0, second=0, microsecond=0)
TODAY = NOW.date()
DAY = TODAY - timedelta(days=1)
START = datetime.combine(DAY, datetime.min.time(), tzinfo=UTC)
DUE = datetime.combine(TODAY, datetime.min.time(), tzinfo=UTC) + timedelta(hours=7)
ACTOR = Actor("ann", "test")
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _partitions() -> None:
    partitions.maintain(NOW)


@pytest.fixture
def _at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of views stands, so that a run over midnight asks for the same day."""
    monkeypatch.setattr(timezone, "now", lambda: NOW)


@pytest.fixture
def deadline() -> ReadDeadline:
    return ReadDeadline.objects.get()  # that every head-end has


def meter_of(concentrator: Concentrator) -> Meter:
    """A meter with four intervals a day, since yesterday."""
    meter = MeterFactory.create(commissioned_at=START, interval_minutes=360)
    Assignment.objects.create(meter=meter, concentrator=concentrator, valid_from=START)
    return meter


def uplink(concentrator: Concentrator, at: datetime, **more: Any) -> Uplink:
    more = {"verified_at": at, **more}
    return Uplink.objects.create(
        concentrator=concentrator, received_at=at, due_at=at, sha256=bytes(32), octets=1, frames=0, **more
    )


def read(meter: Meter, of: Uplink, *numbers: int, masked: bool = False) -> None:
    """Store the intervals of these numbers of yesterday, and have the totals follow."""
    register = Register.objects.get(obis_code=LOAD_PROFILE)
    for number in numbers:
        key: dict[str, Any] = {"captured_at": START + 6 * number * HOUR, "meter": meter, "register": register}
        key |= {"value": 5, "uplink_id": of.pk, "interval_minutes": 360}
        if masked:
            MaskedReading.objects.create(**key, received_at=of.received_at, scheme=9)
        else:
            Reading.objects.create(**key)
    totals.recompute(START - 40 * 24 * HOUR, START + 24 * HOUR)


def counts() -> list[tuple[str, int, int, int]]:
    rows = ReadShare.objects.order_by("concentrator__name")
    return list(rows.values_list("concentrator__name", "expected", "in_time", "late"))


def test_intervals_are_in_time_by_when_their_uplink_was_received(deadline: ReadDeadline) -> None:
    one, other = ConcentratorFactory.create(name="A"), ConcentratorFactory.create(name="B")
    first, second, third = meter_of(one), meter_of(one), meter_of(other)
    early, at_once, late = uplink(one, DUE - HOUR), uplink(one, DUE), uplink(one, DUE + MINUTE)
    read(first, early, 0, 1, 2)
    read(first, late, 3)
    read(second, at_once, 0, masked=True)
    read(second, late, 1, masked=True)
    read(third, uplink(one, DUE - MINUTE), 0)  # through another concentrator: it counts for its own
    assert read_success.count_due(DUE - MINUTE) == 7  # days before, on which nothing was expected
    assert not counts()
    assert read_success.count_due(NOW) >= 1
    assert counts() == [("A", 8, 4, 2), ("B", 4, 1, 0)]
    day = ReadDay.objects.get(deadline=deadline, day=DAY)
    assert (day.expected, day.in_time, day.late, day.due_at) == (12, 5, 2, DUE)


def test_a_day_is_counted_again_when_more_arrives_and_only_then(deadline: ReadDeadline) -> None:
    concentrator = ConcentratorFactory.create(name="A")
    meter = meter_of(concentrator)
    read(meter, uplink(concentrator, DUE - HOUR), 0)
    while read_success.count_due(NOW):
        pass
    assert counts() == [("A", 4, 1, 0)]
    read(meter, uplink(concentrator, NOW), 1)
    assert read_success.count_due(NOW + MINUTE) == 0  # it was looked at a minute ago
    assert read_success.count_due(NOW + HOUR) == 1
    assert counts() == [("A", 4, 1, 1)]
    assert read_success.count_due(NOW + 2 * HOUR) == 0  # nothing has changed
    # A frame that was received in time, and verified late, was in time.
    read(meter, uplink(concentrator, DUE - HOUR, verified_at=NOW + 2 * HOUR), 2)
    assert read_success.count_due(NOW + 4 * HOUR) == 1
    assert counts() == [("A", 4, 2, 1)]


def test_a_day_waits_an_hour_for_uplinks_that_came_in_time(deadline: ReadDeadline) -> None:
    meter_of(concentrator := ConcentratorFactory.create())
    uplink(concentrator, DUE - MINUTE, verified_at=None)
    for at, is_counted in ((DUE + 59 * MINUTE, False), (DUE + HOUR, True)):
        read_success.count_due(at)
        assert ReadDay.objects.filter(day=DAY).exists() is is_counted


def test_a_clock_that_was_behind_makes_nothing_in_time(deadline: ReadDeadline) -> None:
    meter = meter_of(concentrator := ConcentratorFactory.create(name="A"))
    ClockCorrection.objects.create(
        start=DUE - 2 * HOUR, end=DUE, behind_s=7200, by="anna", at=NOW, note="the clock was two hours behind"
    )
    read(meter, uplink(concentrator, DUE - HOUR, corrected_at=DUE + HOUR), 0)
    read(meter, uplink(concentrator, DUE - 4 * HOUR), 1)
    read_success.count_due(NOW)
    assert counts() == [("A", 4, 1, 1)]


def test_catching_up_is_bounded_and_a_day_costs_the_same_whatever_the_fleet(deadline: ReadDeadline) -> None:
    total, runs = 0, 0
    while counted := read_success.count_due(NOW):
        total, runs = total + counted, runs + 1
    assert total == read_success.HISTORY_DAYS
    assert runs == 5
    costs = []
    for meters in (1, 6):
        for _ in range(meters):
            meter = meter_of(concentrator := ConcentratorFactory.create())
            read(meter, uplink(concentrator, DUE - HOUR), 0)
        ReadDay.objects.filter(day=DAY).delete()
        expected.refresh()
        with counting() as statements:
            assert read_success.count_due(NOW) == 1
        costs.append(len(statements))
    assert costs[0] == costs[1]


def test_a_correction_that_keeps_the_sums_is_noticed(deadline: ReadDeadline) -> None:
    one, other = ConcentratorFactory.create(name="A"), ConcentratorFactory.create(name="B")
    first, second = meter_of(one), meter_of(other)
    read(first, uplink(one, DUE - HOUR), 0, 1, 2)
    read(second, of := uplink(other, DUE - HOUR), 0)
    read_success.count_due(NOW)
    assert counts() == [("A", 4, 3, 0), ("B", 4, 1, 0)]
    Assignment.objects.filter(meter=first).update(concentrator=other)
    Assignment.objects.filter(meter=second).update(concentrator=one)
    totals.recompute(START - 40 * 24 * HOUR, START + 24 * HOUR)
    read_success.count_due(NOW + HOUR)
    assert counts() == [("A", 4, 1, 0), ("B", 4, 3, 0)]
    Uplink.objects.filter(pk=of.pk).update(corrected_at=DUE + HOUR)  # its clock was behind
    ClockCorrection.objects.create(
        start=DUE - 2 * HOUR, end=DUE, behind_s=7200, by="anna", at=NOW, note="the clock was two hours behind"
    )
    assert read_success.count_due(NOW + 3 * HOUR) >= 1
    assert counts() == [("A", 4, 0, 1), ("B", 4, 3, 0)]


def test_what_another_system_counted_stays(deadline: ReadDeadline) -> None:
    concentrator = ConcentratorFactory.create(name="A")
    read(meter_of(concentrator), uplink(concentrator, DUE - HOUR), 0)
    read_success.count_due(NOW)
    read_success.take_over(deadline, DAY, {concentrator.pk: Success(100, 97, 2), 10**6: Success(1, 1, 0)}, NOW)
    read_success.count_due(NOW + HOUR)
    assert counts() == [("A", 100, 97, 2)]
    assert ReadDay.objects.get(day=DAY).expected == 101


def test_the_days_of_one_meter(deadline: ReadDeadline) -> None:
    concentrator = ConcentratorFactory.create(name="A")
    meter = meter_of(concentrator)
    read(meter, uplink(concentrator, DUE - HOUR), 0, 1)
    read(meter, uplink(concentrator, DUE + HOUR), 2, masked=True)
    while read_success.count_due(NOW):
        pass
    days = read_success.history(deadline, DAY, 3)
    with counting() as statements:
        found = meter_success.of_meter(meter, days, NOW)
    assert [found[day.pk] for day in days] == [(0, 0, 0), (0, 0, 0), (4, 2, 1)]
    assert len(statements) <= 3


def test_history_goes_with_its_readings(deadline: ReadDeadline) -> None:
    meter_of(ConcentratorFactory.create())
    read_success.count_due(NOW)
    days = ReadDay.objects.count()
    assert read_success.delete_old(START) == days - 1
    assert read_success.delete_old(NOW) == 1
    assert not ReadShare.objects.exists()


@pytest.mark.usefixtures("_at_noon")
def test_the_api_tells_of_fleet_concentrators_and_groups(deadline: ReadDeadline, admin_user: User) -> None:
    one, other = ConcentratorFactory.create(name="A"), ConcentratorFactory.create(name="B")
    read(meter_of(one), uplink(one, DUE - HOUR), 0, 1, 2, 3)
    read(meter_of(other), uplink(other, DUE - HOUR), 0)
    read_success.count_due(NOW)
    client = APIClient()
    client.force_authenticate(admin_user)
    address = "/api/v1/completeness/deadlines"
    (told,) = client.get(address).json()["results"]
    assert (told["deadline"], told["expected"], told["in_time"], told["status"]) == (deadline.name, 8, 5, "missed")
    assert [row["concentrator"] for row in told["concentrators"]] == ["B", "A"]
    (told,) = client.get(address, {"day": DAY.isoformat(), "concentrator": "A"}).json()["results"]
    assert (told["expected"], told["in_time"], told["status"]) == (4, 4, "met")
    group = groups.make(GroupName("district", "North"), ACTOR)
    groups.put_and_take(group, groups.Members(concentrators=[other.pk]), groups.Members(), ACTOR)
    (told,) = client.get(address, {"day": DAY.isoformat(), "group": "district:North"}).json()["results"]
    assert (told["expected"], told["in_time"]) == (4, 1)
    (told,) = client.get(address, {"day": TODAY.isoformat()}).json()["results"]
    assert (told["status"], told["expected"], told["concentrators"]) == ("open", None, [])
    assert client.get(address, {"day": "2020-01-01"}).json()["results"] == []
    assert client.get("/api/v1/feed/completeness", {"day": DAY.isoformat(), "limit": "0"}).json()["results"] == [
        {**client.get(address).json()["results"][0], "concentrators": []}
    ]
    for bad in (
        {"day": "9999-12-31"},
        {"day": "0001-01-01"},
        {"day": "yesterday"},
        {"day": DAY.isoformat(), "concentrator": "C"},
    ):
        assert client.get(address, bad).status_code == 400


@pytest.mark.usefixtures("_at_noon")
def test_a_token_that_is_limited_to_groups_sees_their_concentrators_alone(deadline: ReadDeadline) -> None:
    one, other = ConcentratorFactory.create(name="A"), ConcentratorFactory.create(name="B")
    for concentrator in (one, other):
        read(meter_of(concentrator), uplink(concentrator, DUE - HOUR), 0)
    read_success.count_due(NOW)
    group = groups.make(GroupName("district", "North"), ACTOR)
    groups.put(group, groups.Members(concentrators=[other.pk]), ACTOR)
    client = APIClient()
    client.force_authenticate(Program(1, "billing", ["totals", "feed"], [group.pk]))  # type: ignore[arg-type]
    for address in ("/api/v1/completeness/deadlines", "/api/v1/feed/completeness"):
        (told,) = client.get(address).json()["results"]
        assert told["expected"] == 4
        assert [row["concentrator"] for row in told["concentrators"]] == ["B"]
        assert client.get(address, {"concentrator": "A"}).status_code == 400  # as one that is not there


def test_the_alert_begins_when_a_target_is_missed_and_ends_with_a_day_that_meets_it(deadline: ReadDeadline) -> None:
    rule = Rule.objects.get(condition=Condition.READ_DEADLINE)
    assert deadlines.read_deadline(rule, [], NOW).total == 0
    meter = meter_of(concentrator := ConcentratorFactory.create())
    read(meter, uplink(concentrator, DUE - HOUR), 0, 1, 2)
    read_success.count_due(NOW)
    (found,) = deadlines.read_deadline(rule, [], NOW).listed
    assert f"75.0 % of {DAY}" in found.summary
    assert "98 %" in found.summary
    ReadDay.objects.filter(day=DAY).update(target_percent=75)
    assert deadlines.read_deadline(rule, [], NOW).total == 0


def test_an_alert_for_a_group_and_for_each_concentrator(deadline: ReadDeadline) -> None:
    one, other = ConcentratorFactory.create(name="A"), ConcentratorFactory.create(name="B")
    read(meter_of(one), uplink(one, DUE - HOUR), 0, 1, 2, 3)
    read(meter_of(other), uplink(other, DUE - HOUR), 0)
    read_success.count_due(NOW)
    rule = Rule.objects.get(condition=Condition.READ_DEADLINE)
    group = groups.make(GroupName("district", "North"), ACTOR)
    groups.put(group, groups.Members(concentrators=[one.pk]), ACTOR)
    rule.group = group
    assert deadlines.read_deadline(rule, [], NOW).total == 0
    rule.selector = EACH
    assert deadlines.read_deadline(rule, [], NOW).total == 0
    rule.group = None
    (found,) = deadlines.read_deadline(rule, [], NOW).listed
    assert (found.kind, found.id, found.subject) == (SubjectKind.CONCENTRATOR, other.pk, "B")
    assert "25.0 %" in found.summary
    rule.group, rule.selector = group, TOGETHER
    ReadShare.objects.update(in_time=0)
    (found,) = deadlines.read_deadline(rule, [], NOW).listed
    assert found.subject == "deadlines of readings, district:North"


def test_a_deadline_is_removed_once_it_is_inactive(deadline: ReadDeadline) -> None:
    read_success.count_due(NOW)
    with pytest.raises(DeadlineInUseError, match="set it inactive first"):
        read_success.remove(ACTOR, deadline)
    deadline.is_active = False
    read_success.save(ACTOR, deadline)
    channel = Channel.objects.create(name="control room", kind="mails", address="a@b.example", deadline=deadline)
    with pytest.raises(DeadlineInUseError, match="in use by control room"):
        read_success.remove(ACTOR, deadline)
    assert ReadDay.objects.exists()
    channel.delete()
    read_success.remove(ACTOR, deadline)
    assert not ReadDay.objects.exists()
    assert AuditRecord.objects.filter(act="deadline.remove").count() == 1


def test_deadlines_are_made_changed_and_removed_by_rest(admin_user: User) -> None:
    client = APIClient()
    client.force_authenticate(admin_user)
    address = "/api/v1/deadlines"
    terms = {"name": "Five days after", "due_time": "07:00", "days_after": 5, "zone": "Europe/Oslo"}
    answer = client.post(address, {**terms, "target_percent": "99.9"}, format="json")
    assert answer.status_code == 201, answer.json()
    one = f"{address}/{answer.json()['number']}"
    assert [row["name"] for row in client.get(address).json()] == ["Day after, 07:00", "Five days after"]
    for wrong in ({}, terms, {**terms, "name": "x", "zone": "Mars"}, {**terms, "name": "x", "days_after": 0}):
        assert client.post(address, wrong, format="json").status_code == 400
    assert client.delete(one).status_code == 400
    while read_success.count_due(NOW):
        pass
    assert client.patch(one, {"is_active": False}, format="json").json()["is_active"] is False
    assert client.get(one).json()["days_after"] == 5
    assert client.get(f"{one}/days").json()
    assert client.delete(one).status_code == 204
    assert client.get(one).status_code == 404
    assert client.get(f"{one}/days").status_code == 404


def test_the_history_by_rest(deadline: ReadDeadline, admin_user: User) -> None:
    one, other = ConcentratorFactory.create(name="A"), ConcentratorFactory.create(name="B")
    read(meter_of(one), uplink(one, DUE - HOUR), 0, 1, 2, 3)
    read(meter_of(other), uplink(other, DUE + HOUR), 0)
    while read_success.count_due(NOW):
        pass
    client = APIClient()
    client.force_authenticate(admin_user)
    address = f"/api/v1/deadlines/{deadline.pk}/days"
    days = client.get(address, {"last": DAY.isoformat()}).json()
    assert len(days) == 28
    assert (days[-1]["expected"], days[-1]["in_time"], days[-1]["late"], days[-1]["status"]) == (8, 4, 1, "missed")
    assert days[0]["status"] == "nothing expected"
    asked = {"first": DAY.isoformat(), "last": DAY.isoformat(), "concentrator": "A"}
    (day,) = client.get(address, asked).json()
    assert (day["expected"], day["status"]) == (4, "met")
    for bad, why in (
        ({"first": TODAY.isoformat(), "last": DAY.isoformat()}, f"first: it is after the last day, {DAY}"),
        ({"first": "9990-01-01"}, "which is yesterday unless it is given"),
        ({"last": "x"}, "last: "),
        ({"first": "x"}, "first: "),
        ({"first": "2000-01-01", "last": "2026-01-01"}, "last: these are 9,498 days: ask for at most 400 at once"),
        ({"first": "2000-01-01"}, "ask for at most 400"),
        ({"first": "0001-01-01"}, "first: there are no readings of such a day"),
        ({"last": "0001-01-01"}, "last: there are no readings of such a day"),
        ({"last": "9999-12-31"}, "last: there are no readings of such a day"),
        ({"begin": DAY.isoformat()}, "begin"),
    ):
        answer = client.get(address, bad)
        assert (answer.status_code, answer["Content-Type"]) == (400, "application/problem+json")
        assert why in answer.json()["detail"]


def test_a_change_is_audited_and_leaves_counted_days_alone(deadline: ReadDeadline) -> None:
    read_success.count_due(NOW)
    deadline.target_percent = Decimal("99.9")
    read_success.save(ACTOR, deadline)
    assert AuditRecord.objects.filter(act="deadline.save").count() == 1
    assert set(ReadDay.objects.values_list("target_percent", flat=True)) == {Decimal(98)}


def test_a_day_of_another_zone(deadline: ReadDeadline) -> None:
    ReadDeadline.objects.update(zone="Asia/Tokyo")
    read_success.count_due(NOW)
    newest = ReadDay.objects.order_by("-day")[0]
    assert newest.end - newest.start == 24 * HOUR
    assert newest.start.hour == 15
    assert isinstance(newest.day, date)
