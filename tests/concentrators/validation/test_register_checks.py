"""Registers against intervals, from what the feed tells to what consumers, REST and pages are told."""

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from ami_headend.alerts.conditions import validation
from ami_headend.alerts.models import Condition, Rule
from ami_headend.signin import roles
from concentrators import retention
from concentrators.feed import lots, messages, pages
from concentrators.feed.cursor import Cursor
from concentrators.feed.cursor import Place as At
from concentrators.feed.formats.profile import Profile
from concentrators.feed.place_series import series_of
from concentrators.feed.rows import Change, Resource
from concentrators.models import FeedHead, FeedLot, RegisterDifference, UncheckedDay
from concentrators.validation import register_checks
from meters.codes.qualities import Fact
from meters.group_models import FleetGroup, MeterInGroup, Via
from meters.models import Meter, Place, Reading, Register
from meters.readings.obis import LOAD_PROFILE
from meters.readings.partitions import retention_start
from meters.readings.queries import ReadingSelection, Stored
from meters.registry.lifecycle import install
from tests.concentrators.feed.numbering import numbered
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db
TODAY = timezone.now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAY = timedelta(days=1)
START = TODAY - 10 * DAY
HOUR = timedelta(hours=1)
ENERGY = "1-0:1.8.0"


def store(meter: Meter, code: str, values: dict[datetime, int]) -> None:
    """Store values as verification does: with a lot, which has its position."""
    register = Register.objects.get(obis_code=code)
    minutes = meter.interval_minutes if code == LOAD_PROFILE else 0
    rows = [Stored(at, meter.pk, register.pk, value, 1, minutes, None) for at, value in sorted(values.items())]
    Reading.objects.bulk_create(Reading(**row._asdict()) for row in rows)
    lots.add_again(Change.NEW, rows)
    numbered()


def hourly(values: Iterable[int], start: datetime = START) -> dict[datetime, int]:
    return {start + n * HOUR: value for n, value in enumerate(values)}


@pytest.fixture
def meter() -> Meter:
    return MeterFactory.create(interval_minutes=60, commissioned_at=START - DAY)


@pytest.fixture
def wrong(meter: Meter) -> Meter:
    """A meter whose register advanced by 241 on a day of 24 times 10."""
    store(meter, LOAD_PROFILE, hourly([10] * 24))
    store(meter, ENERGY, {START: 1000, START + DAY: 1241})
    run()
    return meter


def run(now: datetime = TODAY + 5 * HOUR) -> int:
    register_checks.follow()
    return register_checks.check(now)


def numbered_up_to() -> int:
    numbered()
    return FeedHead.objects.get().position


def after(position: int) -> list[Any]:
    cursor = Cursor(Resource.READINGS, FeedHead.objects.get().era_id, At(position + 1, 0))
    numbered()
    return list(pages.page(Resource.READINGS, str(cursor), 1000).rows)


def test_a_difference_is_found_and_told_to_consumers(meter: Meter) -> None:
    store(meter, LOAD_PROFILE, hourly([10] * 24))
    store(meter, ENERGY, {START: 1000, START + DAY: 1241})
    position = numbered_up_to()
    run()
    (found,) = RegisterDifference.objects.all()
    assert (found.span_start, found.span_end) == (START, START + DAY)
    assert (int(found.advance), int(found.interval_sum)) == (241, 240)
    told = after(position)
    assert {row.captured_at for row in told} == set(hourly([10] * 24))
    assert {(row.change, row.value, row.quality) for row in told} == {
        (Change.FLAGGED, Decimal(10), ("authentic", "failed"))
    }
    assert run() == 0, "what is told again is not checked again"
    assert (RegisterDifference.objects.count(), UncheckedDay.objects.count()) == (1, 0)


def test_equal_energies_leave_nothing(meter: Meter) -> None:
    store(meter, LOAD_PROFILE, hourly([10] * 24))
    store(meter, ENERGY, {START: 1000, START + DAY: 1240})
    assert run() > 0
    assert not RegisterDifference.objects.exists()


def test_it_waits_for_intervals_that_are_missing_and_for_the_day_to_be_over(meter: Meter) -> None:
    values = hourly([10] * 24)
    late = START + 7 * HOUR
    store(meter, LOAD_PROFILE, {at: value for at, value in values.items() if at != late})
    store(meter, ENERGY, {START: 1000, START + DAY: 1250})
    run(START + DAY)
    assert UncheckedDay.objects.filter(day=START.date()).exists(), "the day is over, but not for long"
    assert run() > 0
    assert not RegisterDifference.objects.exists()
    store(meter, LOAD_PROFILE, {late: 10})
    assert run() == 1
    assert RegisterDifference.objects.get().advance == 250


def test_a_reading_that_divides_the_span_clears_it_and_finds_the_part(wrong: Meter) -> None:
    position = numbered_up_to()
    store(wrong, ENERGY, {START + 12 * HOUR: 1120})
    run()
    whole, part = RegisterDifference.objects.order_by("span_start")
    assert whole.cleared_at is not None
    assert (part.span_start, part.cleared_at, int(part.advance)) == (START + 12 * HOUR, None, 121)
    told = [row for row in after(position) if row.interval_minutes]
    assert [row.change for row in told] == [Change.CLEARED] * 24 + [Change.FLAGGED] * 12
    assert {"failed" in row.quality for row in told[:24]} == {False}


def test_what_passes_after_a_correction_of_the_catalogue_is_cleared(meter: Meter) -> None:
    """The register's digits became known: it had begun again at 0."""
    store(meter, LOAD_PROFILE, hourly([10] * 24))
    store(meter, ENERGY, {START: 99_999_900, START + DAY: 140})
    run()
    assert RegisterDifference.objects.get().cleared_at is None
    Register.objects.filter(obis_code=ENERGY).update(maximum=99_999_999)
    register_checks.recheck(START.date(), (START + DAY).date())
    run()
    assert RegisterDifference.objects.get().cleared_at is not None


def test_days_are_learnt_from_registers_and_from_what_is_late(meter: Meter) -> None:
    today = datetime.combine(timezone.now().date(), time(), UTC)  # not that of the import: a run may pass midnight
    store(meter, LOAD_PROFILE, hourly([10] * 2, today))
    register_checks.follow()
    assert not UncheckedDay.objects.exists(), "an interval alone ends no span"
    store(meter, ENERGY, {today + 2 * HOUR: 7})
    register_checks.follow()
    assert [row.day for row in UncheckedDay.objects.all()] == [today.date()]
    store(meter, LOAD_PROFILE, {START: 1})
    store(meter, "1-0:1.7.0", {START - DAY: 1})
    register_checks.follow()
    assert [row.day for row in UncheckedDay.objects.order_by("day")] == [START.date(), today.date()]


@pytest.mark.parametrize(
    ("before", "marked"), [(timedelta(minutes=1), True), (timedelta(minutes=-1), True), (timedelta(minutes=40), False)]
)
def test_an_interval_stored_just_before_its_day_is_compared_marks_it_again(
    meter: Meter, before: timedelta, marked: bool
) -> None:
    store(meter, LOAD_PROFILE, hourly([10]))
    FeedLot.objects.update(stored_at=START + DAY + register_checks.SETTLES - before)
    register_checks.follow()
    assert UncheckedDay.objects.filter(day=START.date()).exists() == marked


def test_the_number_of_queries_does_not_depend_on_the_number_of_meters(meter: Meter) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            run()
        return len(captured)

    store(meter, LOAD_PROFILE, hourly([10] * 24))
    store(meter, ENERGY, {START: 1000, START + DAY: 1241})
    of_one = queries()
    for other in MeterFactory.create_batch(7, interval_minutes=60):
        store(other, LOAD_PROFILE, hourly([10] * 24))
        store(other, ENERGY, {START: 1000, START + DAY: 1241})
    assert queries() == of_one
    assert RegisterDifference.objects.count() == 8


def test_rest_lists_filters_and_exports(wrong: Meter) -> None:
    client = signed_in()
    title, period = bytes(wrong.system_title).hex(), {"from": START.isoformat(), "to": TODAY.isoformat()}
    asked = {**period, "meter": title, "register": LOAD_PROFILE, "state": "open"}
    url = reverse("register-differences")
    (row,) = client.get(url, asked).json()["results"]
    assert {name: row[name] for name in ("system_title", "advance", "interval_sum", "difference", "unit")} == {
        "system_title": title,
        "advance": "241",
        "interval_sum": "240",
        "difference": "1",
        "unit": "Wh",
    }
    assert client.get(url, {**asked, "state": "cleared"}).json()["results"] == []
    assert client.get(url, {**asked, "from": (START + DAY).isoformat()}).json()["results"] == []
    assert client.get(url, {**period, "state": "x"}).status_code == 400
    exported = body(client.get(url, {**asked, "format": "csv"}))
    assert [one["difference"] for one in csv.DictReader(io.StringIO(exported))] == ["1"]


def test_pages_show_it(wrong: Meter) -> None:
    client = signed_in()
    place = Place.objects.create(name="Mill Lane 4")
    install(wrong, place, START - DAY)
    asked = {"period": "day", "on": START.date().isoformat()}
    for page in (reverse("admin:meter", args=[wrong.pk]), reverse("admin:place", args=[place.pk])):
        assert "Register and intervals differ" in client.get(page, asked).content.decode()
        assert "Register and intervals differ" not in client.get(page).content.decode()
    listed = reverse("admin:register_differences")
    period = {"from": f"{START - DAY:%Y-%m-%dT%H:%M}"}
    assert "241 Wh" in client.get(listed, period).content.decode()
    assert "241 Wh" not in client.get(listed, {**period, "state": "cleared"}).content.decode()
    assert "241" in body(client.get(listed, {**period, "export": "csv"}))


def test_messages_and_documents_of_a_period_say_that_a_check_failed(wrong: Meter) -> None:
    place = Place.objects.create(name="Mill Lane 4")
    install(wrong, place, START - DAY)
    store(wrong, LOAD_PROFILE, {START + DAY: 5})
    register = Register.objects.get(obis_code=LOAD_PROFILE)
    selection = ReadingSelection(START, START + 2 * DAY, register_ids=[register.pk])
    message = messages.of_period(selection, Profile(), TODAY, shows_places=False)
    assert (message.rows, message.octets.count(b'ref="2.6.0"')) == (25, 24)
    series = series_of(place, [register], START, START + 2 * DAY, TODAY)
    facts = [point.fact for one in series for point in one.points]
    assert facts[:25] == [Fact.FAILED] * 24 + [Fact.AUTHENTIC]


def test_the_command_compares_again(wrong: Meter, capsys: pytest.CaptureFixture[str]) -> None:
    RegisterDifference.objects.all().delete()
    days = {"start": START.isoformat(), "end": (START + DAY).isoformat()}
    call_command("check_registers", **days, meter=wrong.serial_number)
    said = capsys.readouterr().out
    assert "1 day of a meter was" in said
    assert "register 241, intervals 240 Wh" in said
    for wrongly, reason in (
        ({"meter": "nobody"}, "--meter: "),
        ({"start": TODAY.isoformat(), "end": START.isoformat()}, "--from must lie before"),
        ({"start": "2001-01-01T00:00Z"}, "readings are kept from"),
    ):
        with pytest.raises(CommandError, match=reason):
            call_command("check_registers", **wrongly)


def test_differences_go_with_their_readings(wrong: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_BATCH", 2)
    found = RegisterDifference.objects.get()
    for number in range(1, 5):
        found.pk, found.span_end = None, START + number * HOUR
        found.save(force_insert=True)
    retention.delete_old(START + 2 * DAY)
    assert RegisterDifference.objects.count() == 5
    with CaptureQueriesContext(connection) as captured:
        gone = retention.delete_old(START + 2 * DAY + (TODAY - retention_start(TODAY)))
    assert gone["register differences"] == 5
    assert not RegisterDifference.objects.exists()
    deletions = [one["sql"] for one in captured if "DELETE FROM concentrators_registerdifference" in one["sql"]]
    assert len(deletions) == 3, "in batches"


def body(answer: Any) -> str:
    return b"".join(answer.streaming_content).decode()


def signed_in() -> Client:
    user = User.objects.create_user("operator", is_staff=True)
    user.groups.set(Group.objects.filter(name=roles.OPERATOR))
    client = Client()
    client.force_login(user)
    return client


def test_a_rule_counts_the_meters_that_differ(wrong: Meter, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    rule = Rule.objects.get(condition=Condition.REGISTERS_DIFFER)
    now = TODAY + 5 * HOUR
    with django_assert_num_queries(1):
        (found,) = validation.registers_differ(rule, [], now).listed
    assert found.subjects == 1
    assert found.summary.startswith("1 meter has differences")
    assert found.summary.endswith(f": {wrong.serial_number}")
    rule.threshold = 2
    assert validation.registers_differ(rule, [], now).total == 0
    rule.threshold, rule.group = 1, FleetGroup.objects.create(kind="district", name="North")
    assert validation.registers_differ(rule, [], now).total == 0
    MeterInGroup.objects.create(group=rule.group, meter=wrong, via=Via.METER)
    (found,) = validation.registers_differ(rule, [], now).listed
    assert found.subject == "registers and intervals, district:North"
    rule.period_minutes = 60
    assert validation.registers_differ(rule, [], now).total == 0
    rule.period_minutes = 30 * 1440
    RegisterDifference.objects.update(cleared_at=now)
    assert validation.registers_differ(rule, [], now).total == 0
