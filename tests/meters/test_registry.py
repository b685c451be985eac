from datetime import UTC, datetime, timedelta

import pytest

from meters.models import Installation, Meter, MeterStatus, Place
from meters.registry.lifecycle import exchange, install, resume, retire, suspend
from meters.registry.lookup import RegistryError, find_meter, parse_system_title
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db
START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def meter() -> Meter:
    return MeterFactory.create(commissioned_at=START)


@pytest.fixture
def place() -> Place:
    return Place.objects.create(name="house 1")


def test_a_meter_is_found_by_its_title_in_hex() -> None:
    wanted = meter()
    assert find_meter(bytes(wanted.system_title).hex().upper()) == wanted
    with pytest.raises(RegistryError, match="there is no meter with system title 00"):
        find_meter("0000000000000000")


@pytest.mark.parametrize("text", ["", "0024befffe804f", "0024befffe804ffg", "\u0660024befffe804ff1"])
def test_a_system_title_is_16_hex_digits(text: str) -> None:
    with pytest.raises(RegistryError, match="is not 16 hex digits"):
        parse_system_title(text)


def test_suspended_and_back() -> None:
    one = meter()
    suspend(one)
    assert Meter.objects.get().status == MeterStatus.SUSPENDED
    with pytest.raises(RegistryError, match="is suspended, not commissioned"):
        suspend(one)
    resume(one)
    assert Meter.objects.get().status == MeterStatus.COMMISSIONED


def test_a_retired_meter_stays_retired_and_leaves_its_place(place: Place) -> None:
    one = meter()
    install(one, place, START)
    retire(one, START + DAY)
    assert (Meter.objects.get().status, Meter.objects.get().retired_at) == (MeterStatus.RETIRED, START + DAY)
    assert Installation.objects.get().removed_at == START + DAY
    with pytest.raises(RegistryError, match="was retired at"):
        retire(one, START + 2 * DAY)
    with pytest.raises(RegistryError, match="is retired, not suspended"):
        resume(one)
    with pytest.raises(RegistryError, match="is retired"):
        install(one, place, START + 2 * DAY)


def test_a_meter_cannot_retire_before_it_was_commissioned() -> None:
    with pytest.raises(RegistryError, match="was commissioned at"):
        retire(meter(), START - DAY)


def test_an_exchange_leaves_no_instant_between(place: Place) -> None:
    old, new = meter(), meter()
    install(old, place, START)
    exchange(place, old, new, START + DAY)
    rows = Installation.objects.order_by("installed_at").values_list("meter", "installed_at", "removed_at")
    assert list(rows) == [(old.pk, START, START + DAY), (new.pk, START + DAY, None)]
    assert Meter.objects.get(pk=old.pk).status == MeterStatus.COMMISSIONED


def test_an_exchange_that_cannot_be_changes_nothing(place: Place) -> None:
    old, new, elsewhere = meter(), meter(), Place.objects.create(name="house 2")
    install(old, place, START)
    install(new, elsewhere, START)
    for case, reason in (
        ((elsewhere, old, new, START + DAY), "does not hang at house 2"),
        ((place, old, new, START + DAY), "is taken"),
        ((place, old, meter(), START), "not before"),
    ):
        with pytest.raises(RegistryError, match=reason):
            exchange(*case)
    assert not Installation.objects.exclude(removed_at=None).exists()


def test_a_place_takes_one_meter_at_a_time(place: Place) -> None:
    one, other = meter(), meter()
    install(one, place, START + DAY)
    with pytest.raises(RegistryError, match="place house 1 is taken"):
        install(other, place, START)
    retire(one, START + 2 * DAY)
    install(other, place, START + 2 * DAY)
