from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.conf import settings
from django.db import OperationalError, connection
from django.utils import timezone
from pytest_django import Settings

from meters import tasks
from meters.models import MeterEvent, Register
from meters.readings import partitions
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db


def test_every_time_that_may_be_stored_has_a_partition() -> None:
    now = timezone.now()
    partitions.maintain(now)

    covered = partitions.covered(now)
    assert covered is not None
    start, end = covered
    assert start <= partitions.retention_start(now)
    assert end >= now + timedelta(days=89)
    assert partitions.maintain(now) == ([], [])


def test_months_are_dropped_a_day_after_they_expired_whole(settings: Settings) -> None:
    settings.RETENTION_DAYS = 62
    now = datetime(2030, 6, 30, 15, 30, tzinfo=UTC)  # retention starts on 29 April at 15:30
    created = partitions.maintain(now).created
    assert created == ["2030_04", "2030_05", "2030_06", "2030_07", "2030_08", "2030_09", "2030_10"]

    still_needed = datetime(2030, 7, 2, 23, 59, tzinfo=UTC)  # April is over in the retention, but not for a day
    assert partitions.maintain(still_needed) == (["2030_11"], [])
    assert partitions.maintain(datetime(2030, 7, 3, tzinfo=UTC)) == ([], ["2030_04"])


def test_partitions_begin_at_midnight_utc_whatever_the_time_zone_of_the_session() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL TimeZone = 'Asia/Kolkata'")
    now = datetime(2040, 1, 31, 23, 59, tzinfo=UTC)
    partitions.maintain(now)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL TimeZone = 'UTC'")  # as Django takes for granted where it reads times

    covered = partitions.covered(now)
    assert covered is not None
    assert covered[0] == partitions.month_start(partitions.retention_start(now))
    assert covered[1] == datetime(2040, 6, 1, tzinfo=UTC)


def test_a_gap_in_the_partitions_ends_what_is_covered() -> None:
    now = timezone.now()
    month = partitions.name_of(partitions.month_start(now) - timedelta(days=1))
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE meters_reading_{month}")

    covered = partitions.covered(now)
    assert covered is not None
    assert covered[0] == partitions.month_start(now)
    assert partitions.maintain(now).created == [month]


def test_maintenance_gives_up_soon_where_the_table_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "100ms")
    database = connection.get_connection_params()
    wanted = {name: database[name] for name in ("host", "port", "user", "password", "dbname") if database.get(name)}
    with psycopg.connect(**wanted) as other:
        other.execute("LOCK TABLE meters_reading IN ACCESS SHARE MODE")
        with pytest.raises(OperationalError, match="lock timeout"):
            partitions.maintain(timezone.now() + timedelta(days=62))


def test_the_task_deletes_expired_events_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "_EVENT_BATCH", 2)
    now = timezone.now()
    meter, register = MeterFactory.create(), Register.objects.get(obis_code="0-0:96.11.1")
    days = [0, 1, settings.RETENTION_DAYS - 1, *range(settings.RETENTION_DAYS + 1, settings.RETENTION_DAYS + 6)]
    MeterEvent.objects.bulk_create(
        MeterEvent(
            meter=meter,
            register=register,
            captured_at=now - timedelta(days=age),
            value=1,
            uplink_id=1,
            received_at=now,
        )
        for age in days
    )

    tasks.maintain_partitions()

    kept = MeterEvent.objects.order_by("-captured_at").values_list("captured_at", flat=True)
    assert [(now - at).days for at in kept] == days[:3]
