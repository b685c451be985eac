"""Counting beside open transactions and clocks that are set: none is left out, none is counted twice, none waits."""

import os
from collections.abc import Iterator

import psycopg
import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from ami_headend.metrics import counting
from tests.concentrators import fleet
from tests.factories import ConcentratorFactory
from tests.flows import databases


@pytest.fixture
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    with django_db_blocker.unblock(), databases.copied() as name:
        yield databases.at_database(os.environ["DATABASE_URL"], name)


def counted() -> int:
    return counting.count()[0].uplinks


def test_what_is_committed_late_is_counted_all_the_same(own_database: str) -> None:
    concentrator = ConcentratorFactory.create()
    (device,) = fleet.commission(1, concentrator)
    late, other = (fleet.post(concentrator, [device.frame(n)], timezone.now()) for n in range(2))
    verdict = "UPDATE concentrators_uplink SET accepted = 1, verified_at = clock_timestamp() WHERE id = %s"
    counted()
    with psycopg.connect(own_database) as worker:
        worker.execute(verdict, [late.pk])  # its time is now; its commit comes later
        with connection.cursor() as cursor:
            cursor.execute(verdict, [other.pk])
        assert counted() == 1
        worker.commit()
    assert counted() == 2
    assert counted() == 2


def test_what_is_verified_after_the_clock_was_set_back_is_counted(own_database: str) -> None:
    concentrator = ConcentratorFactory.create()
    (device,) = fleet.commission(1, concentrator)
    for index, at in enumerate(("+ interval '1 day'", "- interval '1 hour'", "")):
        posted = fleet.post(concentrator, [device.frame(index)], timezone.now())
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE concentrators_uplink SET accepted = 1, verified_at = clock_timestamp() {at} WHERE id = %s",
                [posted.pk],
            )
        assert counted() == index + 1


def test_readers_hold_nothing_up_and_another_that_counts_is_not_waited_for(own_database: str) -> None:
    concentrator = ConcentratorFactory.create()
    (device,) = fleet.commission(1, concentrator)
    fleet.verified(concentrator, [device.frame(0)])
    with psycopg.connect(own_database) as dump:
        dump.execute("SELECT count(*) FROM concentrators_uplink")  # as pg_dump, for hours
        assert counted() == 1
        dump.execute("SELECT 1 FROM metrics_counted FOR UPDATE")
        fleet.verified(concentrator, [device.frame(1)])
        assert counted() == 1
        dump.rollback()
    assert counted() == 2
