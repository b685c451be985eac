"""What stands in the feed: what was stored or corrected, once, in the order of commits."""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from decimal import Decimal

import psycopg
import pytest
from django.db import connection

from concentrators.feed import pages, sequencer
from concentrators.feed.cursor import Cursor
from concentrators.feed.cursor import Place as At
from concentrators.feed.rows import Change, EventRow, Quality, ReadingRow, Resource
from concentrators.ingest import reverification
from concentrators.ingest.length_corrections import LengthRequest, correct
from concentrators.models import Concentrator, FeedHead, FeedLot
from keyvault.audit.chain import Actor
from meters.models import Installation, Place, Reading
from meters.registry import lifecycle
from tests.builders import senml_payload
from tests.concentrators import fleet
from tests.concentrators.feed.numbering import numbered
from tests.concentrators.fleet import HALF_HOUR_S, INTERVAL, NOW, START, START_S, Device
from tests.concentrators.statements import counting
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.usefixtures("own_database")
READINGS, EVENTS = Resource.READINGS, Resource.EVENTS
ACTOR = Actor("tester", "test")


@pytest.fixture
def concentrator() -> Concentrator:
    return ConcentratorFactory.create()


@pytest.fixture
def now_on() -> str:
    """The cursor after everything that other tests stored."""
    numbered()
    head = FeedHead.objects.get()
    return str(Cursor(READINGS, head.era_id, At(head.position + 1, 0)))


def readings(cursor: str, limit: int = 1_000) -> list[ReadingRow]:
    numbered()
    return [row for row in pages.page(READINGS, cursor, limit).rows if isinstance(row, ReadingRow)]


def followed(cursor: str, limit: int) -> Iterator[ReadingRow]:
    while True:
        page = pages.page(READINGS, cursor, limit)
        for row in page.rows:
            assert isinstance(row, ReadingRow)
            yield row
        if page.at_end:
            return
        assert page.rows
        cursor = page.cursor


def key(row: ReadingRow) -> tuple[int, int]:
    return row.position, row.row


def test_a_reading_is_told_with_all_that_is_known_of_it(concentrator: Concentrator, now_on: str) -> None:
    (device,) = fleet.commission(1, concentrator)
    place = Place.objects.create(name="12 High Street")
    lifecycle.install(device.meter, place, START - timedelta(days=1))
    uplink = fleet.verified(concentrator, [device.frame(0, 123)])
    register, interval = readings(now_on)
    assert (register.obis_code, register.value, register.unit) == ("1-0:1.8.0", Decimal(10_000), "Wh")
    assert (register.interval_start, register.interval_minutes, register.captured_at) == (None, 0, START)
    assert (interval.obis_code, interval.value, interval.kind) == ("1-0:1.29.0", Decimal(123), "interval")
    assert (interval.interval_start, interval.interval_end) == (START, START + timedelta(minutes=30))
    assert (interval.change, interval.scheme, interval.quality) == (Change.NEW, "ccm", (Quality.AUTHENTIC,))
    assert (interval.system_title, interval.serial_number) == (device.title.hex(), device.meter.serial_number)
    assert (interval.usage_point, interval.uplink) == (place.name, uplink.pk)
    assert interval.received_at == uplink.received_at
    assert uplink.verified_at is not None
    assert abs(uplink.verified_at - interval.verified_at) < timedelta(seconds=10)
    assert key(interval) == (register.position, 1)


def test_the_place_is_that_of_the_time_of_measuring(concentrator: Concentrator, now_on: str) -> None:
    (device,) = fleet.commission(1, concentrator)
    first, second = (Place.objects.create(name=name) for name in ("3 Mill Lane", "4 Mill Lane"))
    moved = START + timedelta(minutes=60)
    Installation.objects.create(meter=device.meter, place=first, installed_at=START, removed_at=moved)
    Installation.objects.create(
        meter=device.meter, place=second, installed_at=moved, removed_at=moved + timedelta(minutes=30)
    )
    fleet.verified(concentrator, [device.frame(n) for n in range(4)])
    told = [row.usage_point for row in readings(now_on) if row.interval_minutes]
    assert told == [first.name, first.name, second.name, None]


def test_pages_of_any_size_give_the_same_rows_in_the_same_order(concentrator: Concentrator, now_on: str) -> None:
    devices = fleet.commission(3, concentrator)
    for n in range(5):
        fleet.verified(concentrator, [device.frame(n) for device in devices[: n % 3 + 1]])
    whole = readings(now_on)
    assert len(whole) == 2 * (1 + 2 + 3 + 1 + 2)
    assert [key(row) for row in whole] == sorted({key(row) for row in whole})
    for limit in (1, 2, 5, 6, 7, 100):
        assert list(followed(now_on, limit)) == whole


def test_an_empty_page_gives_the_same_cursor_back(now_on: str) -> None:
    page = pages.page(READINGS, now_on, 10)
    assert (page.rows, page.cursor, page.at_end) == ((), now_on, True)


def test_duplicates_and_refused_frames_tell_nothing(concentrator: Concentrator, now_on: str) -> None:
    (device,) = fleet.commission(1, concentrator)
    frame = device.frame(0)
    fleet.verified(concentrator, [frame])
    fleet.verified(concentrator, [frame, b"garbage"])
    assert len(readings(now_on)) == 2


def test_frames_that_waited_are_told_when_they_are_accepted(concentrator: Concentrator, now_on: str) -> None:
    device, suspended = fleet.commission(2, concentrator)
    lifecycle.suspend(suspended.meter)
    uplink = fleet.verified(concentrator, [device.frame(0), suspended.frame(0)])
    before = readings(now_on)
    assert {row.system_title for row in before} == {device.title.hex()}
    lifecycle.resume(suspended.meter)
    reverification.verify_again(uplink.pk)
    after = readings(now_on)
    assert after[:2] == before  # a position never changes
    assert {row.system_title for row in after[2:]} == {suspended.title.hex()}
    assert {row.uplink for row in after} == {uplink.pk}
    assert {row.change for row in after} == {Change.NEW}


def test_a_corrected_length_is_told_with_the_former_one(concentrator: Concentrator, now_on: str) -> None:
    (device,) = fleet.commission(1, concentrator)
    fleet.verified(concentrator, [device.frame(n) for n in (0, 2, 4)])
    before = readings(now_on)
    correct(device.meter, LengthRequest(60, START - timedelta(days=1), None, "a wrong file"), ACTOR, NOW)
    after = readings(now_on)
    assert after[: len(before)] == before
    told = after[len(before) :]
    assert [(row.captured_at - START) // timedelta(minutes=30) for row in told] == [0, 2, 4]
    assert {(row.change, row.interval_minutes, row.former_interval_minutes) for row in told} == {
        (Change.RELABELLED, 60, 30)
    }
    assert {row.value for row in told} == {Decimal(100)}


def test_events_have_a_feed_of_their_own(concentrator: Concentrator, now_on: str) -> None:
    (device,) = fleet.commission(1, concentrator)
    at = str(Cursor(EVENTS, FeedHead.objects.get().era_id, At(FeedHead.objects.get().position + 1, 0)))
    event = senml_payload({"0-0:96.11.1": 40}, START_S, "count")
    fleet.verified(concentrator, [device.frame(0), device.seal(event)])
    assert len(readings(now_on)) == 2
    (told,) = pages.page(EVENTS, at, 10).rows
    assert isinstance(told, EventRow)
    assert (told.obis_code, told.value, told.captured_at, told.row) == ("0-0:96.11.1", 40, START, 0)
    assert (told.system_title, told.quality) == (device.title.hex(), (Quality.AUTHENTIC,))


def test_what_commits_late_is_told_late_and_never_skipped(own_database: str, now_on: str) -> None:
    """Transactions begin, write and commit in three different orders; a consumer follows all the while."""
    lot = """INSERT INTO concentrators_feedlot (change, readings, events, captured_from, captured_to)
             VALUES ('new', 0, 0, now(), now()) RETURNING id"""
    chance = random.Random(4)
    seen: list[int] = []

    def look() -> None:
        sequencer.number_settled()
        seen.extend(
            FeedLot.objects.filter(position__isnull=False, readings=0).exclude(pk__in=seen).order_by("position")
            .values_list("pk", flat=True)
        )  # fmt: skip

    look()
    del seen[:]
    before = FeedHead.objects.get().position
    written: list[int] = []
    open_: list[psycopg.Connection[tuple[int, ...]]] = []
    with ExitStack() as stack:
        for _ in range(150):
            act = chance.choice(("begin", "write", "write", "write", "commit", "roll back"))
            if act == "begin" or not open_:
                open_.append(stack.enter_context(psycopg.connect(own_database)))
            elif act == "write":
                written += [row[0] for row in chance.choice(open_).execute(lot)]
            else:
                one = open_.pop(chance.randrange(len(open_)))
                one.commit() if act == "commit" else one.rollback()
                one.close()
            look()
        for one in open_:
            one.commit()
    numbered()
    look()
    stored = FeedLot.objects.filter(pk__in=written).order_by("position")
    assert seen == [lot.pk for lot in stored]  # each was seen once, in order, and none was left behind
    assert [lot.position for lot in stored] == list(range(before + 1, before + 1 + len(stored)))  # without gaps
    assert seen != sorted(seen)  # their numbers have another order
    assert 20 < len(seen) < len(written)


def test_one_sequencer_at_a_time(own_database: str, concentrator: Concentrator, now_on: str) -> None:
    (device,) = fleet.commission(1, concentrator)
    fleet.verified(concentrator, [device.frame(0)])
    with psycopg.connect(own_database) as other:
        other.execute("SELECT 1 FROM concentrators_feedhead FOR UPDATE")
        assert numbered() == 0
        other.rollback()
    assert numbered() == 1
    assert numbered() == 0


def test_rows_before_a_position_are_counted(concentrator: Concentrator, now_on: str) -> None:
    (device,) = fleet.commission(1, concentrator)
    for n in range(3):
        fleet.verified(concentrator, [device.frame(n)])
    numbered()
    last = list(FeedLot.objects.exclude(position=None).order_by("position"))[-3:]
    after = [(lot.readings_before or 0) + lot.readings for lot in last]
    assert [lot.readings_before for lot in last[1:]] == after[:2]
    assert FeedHead.objects.get().readings == after[2]


def test_the_number_of_queries_does_not_depend_on_the_number_of_rows(concentrator: Concentrator, now_on: str) -> None:
    few, many = fleet.commission(1, concentrator), fleet.commission(30, concentrator)
    asked = []
    for devices in (few, many):
        fleet.verified(concentrator, [device.frame(n) for device in devices for n in range(3)])
        numbered()
        with counting() as statements:
            page = pages.page(READINGS, now_on, 1_000)
        asked.append(len(statements))
        now_on = page.cursor
        assert len(page.rows) == 6 * len(devices)
    assert asked[0] == asked[1]


def test_the_feed_ends_with_what_the_head_end_holds(concentrator: Concentrator, now_on: str) -> None:
    devices: list[Device] = fleet.commission(5, concentrator)
    for n in range(6):
        fleet.verified(concentrator, [device.frame(n, 100 + n) for device in random.Random(n).sample(devices, 3)])
    stored = Reading.objects.filter(meter__in=[device.meter.pk for device in devices], register__obis_code=INTERVAL)
    told = sorted(
        (row.serial_number, int(row.captured_at.timestamp() - START_S) // HALF_HOUR_S, row.value)
        for row in readings(now_on)
        if row.obis_code == INTERVAL
    )
    assert told == sorted(
        (row.meter.serial_number, int(row.captured_at.timestamp() - START_S) // HALF_HOUR_S, Decimal(row.value))
        for row in stored.select_related("meter")
    )
    assert connection.in_atomic_block is False
