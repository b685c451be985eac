"""Concentrators that hold keys, run as races: threads with connections of their own on one PostgreSQL."""

import threading
from collections.abc import Callable, Iterator

import pytest
from django.db import IntegrityError, connection, transaction
from pytest_django import DjangoDbBlocker

from concentrators.fleet import groups, hop_key_sets
from concentrators.fleet.assignments import assign
from concentrators.fleet.groups import Members
from concentrators.models import Assignment, Concentrator
from keyvault.audit.chain import Actor
from keyvault.device_keys import key_rows, provisioning
from keyvault.device_keys.provisioning import NewKey
from keyvault.models import DeviceKey, DownlinkCounter, KeyState
from meters.registry.groups import parse
from tests.concentrators.fleet import NOW
from tests.concentrators.ingest.test_races import at_once
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


def test_of_requests_at_once_one_seals_and_all_get_its_octets() -> None:
    concentrator = ConcentratorFactory.create(system_title=b"\2" * 8)
    provisioning.provision_stored([NewKey(b"\2" * 8, 1, None, 10, "concentrator")])
    meter = MeterFactory.create(system_title=b"\3" * 8)
    Assignment.objects.create(meter=meter, concentrator=concentrator, valid_from=NOW)
    provisioning.provision_stored([NewKey(b"\3" * 8, 1)])
    given = at_once(*[lambda: hop_key_sets.sealed(concentrator.pk, NOW)] * 4)
    assert len(set(given)) == 1
    assert DownlinkCounter.objects.get(key__system_title=b"\2" * 8).last == 256 * int(NOW.timestamp())


def test_a_key_that_goes_meanwhile_is_in_no_later_answer() -> None:
    """Whatever of the two comes first: what is given after both is without it."""
    concentrator = ConcentratorFactory.create(system_title=b"\4" * 8)
    provisioning.provision_stored([NewKey(b"\4" * 8, 1, None, 10, "concentrator")])
    meter = MeterFactory.create(system_title=b"\5" * 8)
    Assignment.objects.create(meter=meter, concentrator=concentrator, valid_from=NOW)
    provisioning.provision_stored([NewKey(b"\5" * 8, 1)])
    before = hop_key_sets.sealed(concentrator.pk, NOW)
    key = DeviceKey.objects.get(system_title=b"\5" * 8)
    at_once(
        lambda: hop_key_sets.sealed(concentrator.pk, NOW),
        lambda: key_rows.set_key_state([key.pk], KeyState.COMPROMISED),
    )
    after = hop_key_sets.sealed(concentrator.pk, NOW)
    assert len(after) < len(before)


@pytest.mark.parametrize("first", ["assignment", "group"])
def test_a_meter_is_not_missed_that_is_assigned_beside_a_change_of_its_group(first: str) -> None:
    """Each waits for the other's commit: else neither would see what the other did."""
    concentrator, meter = ConcentratorFactory.create(), MeterFactory.create()
    actor = Actor("ann", "test")
    group = groups.make(parse(f"district:{first}"), actor)
    acts: dict[str, Callable[[], object]] = {
        "assignment": lambda: assign([(meter.pk, concentrator.pk)], NOW),
        "group": lambda: groups.put(group, Members(concentrators=[concentrator.pk]), actor),
    }
    (second,) = set(acts) - {first}

    def later() -> None:
        acts[second]()
        connection.close()

    thread = threading.Thread(target=later)
    with transaction.atomic():
        acts[first]()
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(30)
    assert groups.size(group).meters == 1
