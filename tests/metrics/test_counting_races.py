"""Counting beside transactions that are open: none is left out, none is counted twice, nobody is waited for."""

import os
from collections.abc import Iterator

import psycopg
import pytest
from django.db import connection
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from ami_headend.metrics import counting
from ami_headend.metrics.models import Counted
from tests.concentrators import fleet
from tests.factories import ConcentratorFactory
from tests.flows import databases


@pytest.fixture
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    with django_db_blocker.unblock(), databases.copied() as name:
        yield databases.at_database(os.environ["DATABASE_URL"], name)


def test_what_is_committed_late_is_counted_all_the_same(own_database: str) -> None:
    concentrator = ConcentratorFactory.create()
    (device,) = fleet.commission(1, concentrator)
    late, other = (fleet.post(concentrator, [device.frame(n)], timezone.now()) for n in range(2))
    verdict = "UPDATE concentrators_uplink SET accepted = 1, verified_at = clock_timestamp() WHERE id = %s"
    counting.count()
    with psycopg.connect(own_database) as worker:
        worker.execute(verdict, [late.pk])  # its time is now; its commit comes later
        with connection.cursor() as cursor:
            cursor.execute(verdict, [other.pk])
        counting.count()
        assert Counted.objects.get().uplinks == 0  # not past the transaction that is open
        worker.commit()
    assert counting.count().uplinks == 2
    assert counting.count().uplinks == 2


def test_readers_hold_nothing_up_and_another_that_counts_is_not_waited_for(own_database: str) -> None:
    concentrator = ConcentratorFactory.create()
    (device,) = fleet.commission(1, concentrator)
    fleet.verified(concentrator, [device.frame(0)])
    with psycopg.connect(own_database) as dump:
        dump.execute("SELECT count(*) FROM concentrators_uplink")  # as pg_dump, for hours
        assert counting.count().uplinks == 1
        dump.execute("SELECT 1 FROM metrics_counted FOR UPDATE")
        fleet.verified(concentrator, [device.frame(1)])
        assert counting.count().uplinks == 1
        dump.rollback()
    assert counting.count().uplinks == 2
