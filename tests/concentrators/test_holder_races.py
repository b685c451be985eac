"""Concentrators that hold keys, run as races: threads with connections of their own on one PostgreSQL."""

import threading
from collections.abc import Callable, Iterator

import pytest
from django.db import IntegrityError, connection, transaction
from pytest_django import DjangoDbBlocker

from concentrators.models import Concentrator
from tests.factories import ConcentratorFactory, MeterFactory
from tests.flows import databases

TITLE = bytes.fromhex("0024befffe00c001")


@pytest.fixture(scope="module", autouse=True)
def own_database(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """One database for all races of this module: what one race leaves behind is no hindrance to the next."""
    with django_db_blocker.unblock(), databases.copied():
        yield


@pytest.mark.parametrize("first", ["meter", "concentrator"])
def test_of_two_that_want_a_title_at_once_the_later_is_refused(first: str) -> None:
    """Each waits for the other to commit: without the lock neither would see the other's row."""
    concentrator = ConcentratorFactory.create()
    title = TITLE[:7] + bytes((concentrator.pk % 256,))
    acts: dict[str, Callable[[], object]] = {
        "meter": lambda: MeterFactory.create(system_title=title),
        "concentrator": lambda: Concentrator.objects.filter(pk=concentrator.pk).update(system_title=title),
    }
    (second,) = set(acts) - {first}
    refused = []

    def later() -> None:
        try:
            acts[second]()
        except IntegrityError:
            refused.append(second)
        finally:
            connection.close()

    thread = threading.Thread(target=later)
    with transaction.atomic():
        acts[first]()
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(30)
    assert refused == [second]
