"""What the console shows of deadlines: overview, page, strips."""

import csv
import io
import re
from datetime import UTC, date, datetime, time, timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from ami_headend.console import deadlines
from ami_headend.health import neighbours
from ami_headend.signin import roles
from concentrators.fleet import groups
from concentrators.models import Concentrator, ReadDay, ReadDeadline, ReadShare
from keyvault.audit.chain import Actor
from meters.registry.groups import GroupName
from tests.concentrators.statements import counting
from tests.console.people import person
from tests.factories import ConcentratorFactory, MeterFactory

pytestmark = pytest.mark.django_db


def yesterday() -> date:
    """The day before now, in UTC: not taken at import, since a run may last over midnight."""
    return timezone.now().date() - timedelta(days=1)


def counted(days_ago: int, **in_time: int) -> ReadDay:
    """A day on which these concentrators had so many of 100 intervals in time, and one more late."""
    day = yesterday() - timedelta(days=days_ago)
    start = datetime.combine(day, time(), tzinfo=UTC)
    row = ReadDay.objects.create(
        deadline=ReadDeadline.objects.get(),
        day=day,
        start=start,
        end=start + timedelta(days=1),
        due_at=start + timedelta(hours=31),
        target_percent=98,
        expected=100 * len(in_time),
        in_time=sum(in_time.values()),
        late=len(in_time),
        counted_at=timezone.now(),
    )
    for name, number in in_time.items():
        concentrator = Concentrator.objects.filter(name=name).first() or ConcentratorFactory.create(name=name)
        ReadShare.objects.create(of_day=row, concentrator=concentrator, expected=100, in_time=number, late=1)
    return row


def words(html: object) -> str:
    return " ".join(re.sub("(?s)<.*?>", " ", str(html)).split())


def test_the_first_figure_of_the_overview_says_whether_yesterday_came_in_time() -> None:
    assert deadlines.newest_figures(timezone.now()) == []
    counted(1, A=99)
    counted(0, A=97, B=99)
    figure = person(roles.OPERATOR).get(reverse("admin:index")).context["figures"][0]
    assert figure.title == "Yesterday by 07:00"
    assert (figure.value, figure.tone) == ("98.0 %", "good")
    assert figure.note == "target 98 %; 2 late, 2 missing"
    assert figure.url.startswith(reverse("admin:deadlines"))


def test_the_page_has_the_worst_first_and_the_days_before() -> None:
    counted(2, A=99, B=99)
    counted(0, A=90, B=99, C=0)
    answer = person(roles.AUDITOR).get(reverse("admin:deadlines"))
    rows = [[words(cell.content) for cell in row][:5] for row in answer.context["worst"].rows]
    assert rows == [
        ["C", "missed", "0 %", "1", "99"],
        ["A", "missed", "90.0 %", "1", "9"],
        ["B", "met", "99.0 %", "1", "0"],
    ]
    strip = answer.context["strip"]
    assert len(strip) == deadlines.STRIP_DAYS
    assert [day.tone for day in strip[-3:]] == ["5", "none", "1"]
    assert "63.0 % in time, missed" in strip[-1].said


def test_a_day_of_a_group() -> None:
    counted(0, A=90, B=99)
    group = groups.make(GroupName("district", "North"), Actor("ann", "test"))
    mine = Concentrator.objects.get(name="B")
    groups.put_and_take(group, groups.Members(concentrators=[mine.pk]), groups.Members(), Actor("ann", "test"))
    client = person(roles.OPERATOR)
    asked = {"group": "district:North", "day": yesterday().isoformat()}
    answer = client.get(reverse("admin:deadlines"), asked)
    assert answer.context["figures"][0].value == "99.0 %"
    assert len(answer.context["worst"].rows) == 1
    assert "group=district%3ANorth" in answer.context["earlier"]
    figures = client.get(reverse("admin:group", args=[group.pk])).context["figures"]
    (figure,) = (one for one in figures if one.title == "Yesterday by 07:00")
    assert figure.value == "99.0 %"
    assert "group=district%3ANorth" in figure.url
    for wrong in ({"day": "x"}, {"deadline": "999"}, {"group": "district:South"}, {"colour": "red"}):
        answer = client.get(reverse("admin:deadlines"), wrong)
        assert answer.status_code == 200
        assert answer.context["form"].errors
    answer = client.get(reverse("admin:deadlines"), {"day": "2020-01-01"})
    assert "Nothing was counted" in answer.content.decode()


def test_the_page_of_a_concentrator_has_its_strip() -> None:
    counted(0, A=90, B=99)
    mine = Concentrator.objects.get(name="A")
    answer = person(roles.OPERATOR).get(reverse("admin:concentrator", args=[mine.pk]))
    assert "90.0 % in time, missed" in answer.context["deadline_strip"][-1].said


def test_the_day_and_those_before_are_saved_as_a_file() -> None:
    counted(1, A=99)
    counted(0, A=90, B=99)
    client = person(roles.OPERATOR)
    answer = client.get(reverse("admin:deadlines"), {"export": "csv"})
    rows = list(csv.DictReader(io.StringIO(b"".join(answer.streaming_content).decode())))  # type: ignore[attr-defined]
    assert [(row["day"], row["concentrator"], row["in_time"], row["status"]) for row in rows] == [
        (yesterday().isoformat(), "A", "90", "missed"),
        (yesterday().isoformat(), "B", "99", "met"),
        ((yesterday() - timedelta(days=1)).isoformat(), "A", "99", "met"),
    ]
    answer = client.get(reverse("admin:deadlines"), {"export": "csv", "day": "2020-01-01"}, follow=True)
    assert "Nothing was exported" in answer.content.decode()


def test_groups_are_one_click_from_the_day() -> None:
    counted(0, A=90, B=99)
    for name, mine in (("North", "A"), ("South", "B")):
        group = groups.make(GroupName("district", name), Actor("ann", "test"))
        one = Concentrator.objects.get(name=mine)
        groups.put(group, groups.Members(concentrators=[one.pk]), Actor("ann", "test"))
    answer = person(roles.AUDITOR).get(reverse("admin:deadlines"))
    rows = [[words(cell.content) for cell in row][:3] for row in answer.context["groups"].rows]
    assert rows == [["district:North", "missed", "90.0 %"], ["district:South", "met", "99.0 %"]]
    assert "group=district%3ANorth" in answer.content.decode()


def test_a_zone_that_nobody_set_is_told() -> None:
    counted(0, A=99)
    client = person(roles.AUDITOR)
    assert "no zone was set" in client.get(reverse("admin:deadlines")).content.decode()
    assert "no zone was set" in neighbours.deadlines()[1]
    ReadDeadline.objects.update(zone="Etc/UTC")
    assert "no zone was set" not in client.get(reverse("admin:deadlines")).content.decode()
    assert neighbours.deadlines() == (True, "Day after, 07:00 (Etc/UTC)", "")


def test_the_page_of_a_meter_has_its_strip() -> None:
    counted(0, A=99)
    start = datetime.combine(yesterday(), time(), tzinfo=UTC)
    meter = MeterFactory.create(commissioned_at=start)
    answer = person(roles.OPERATOR).get(reverse("admin:meter", args=[meter.pk]))
    assert "0 % in time, missed" in answer.context["deadline_strip"][-1].said
    assert "0 % in time, missed" in answer.content.decode()
    later = MeterFactory.create(commissioned_at=timezone.now())
    assert "deadline_strip" not in person(roles.OPERATOR).get(reverse("admin:meter", args=[later.pk])).context


def test_an_inactive_deadline_is_deleted_in_the_console() -> None:
    row = counted(0, A=99)
    client = person(roles.ADMINISTRATOR)
    address = reverse("admin:concentrators_readdeadline_delete", args=[row.deadline_id])
    assert client.post(address, {"post": "yes"}).status_code == 403
    ReadDeadline.objects.update(is_active=False)
    assert "with its history of 1 day" in client.get(address).content.decode()
    client.post(address, {"post": "yes"})
    assert not ReadDeadline.objects.exists()


def test_what_the_page_costs_does_not_depend_on_the_fleet() -> None:
    day = counted(0, A=90, B=99)
    client = person(roles.OPERATOR)
    client.get(reverse("admin:deadlines"))
    costs = []
    for _ in range(2):
        with counting() as statements:
            client.get(reverse("admin:deadlines"))
        costs.append(len(statements))
        for number in range(12):
            concentrator = ConcentratorFactory.create()
            ReadShare.objects.create(of_day=day, concentrator=concentrator, expected=100, in_time=number, late=0)
    assert costs[0] == costs[1]
