"""The latest values of a meter: those of one that fell silent long ago are found where it was last heard."""

from datetime import timedelta

import pytest
from django.utils import timezone

from meters.models import Meter, Reading, Register
from meters.readings import last_values
from meters.readings.partitions import retention_start
from tests.factories import MeterFactory

pytestmark = pytest.mark.django_db

NOW = timezone.now().replace(microsecond=0)
HOUR = timedelta(hours=1)


def sent(meter: Meter, days_ago: int, value: int) -> None:
    register = Register.objects.get(obis_code="1-0:1.8.0")
    Reading.objects.create(
        meter=meter, register=register, captured_at=NOW - timedelta(days=days_ago), value=value, uplink_id=1
    )


@pytest.mark.parametrize(("days_ago", "heard_days_ago"), [(0, 0), (300, 300), (300, 298), (200, 0), (1, 300)])
def test_the_latest_value_is_found(days_ago: int, heard_days_ago: int) -> None:
    """Also if the meter was heard of long ago values, or if our clock was behind when it was heard."""
    meter: Meter = MeterFactory.create()
    sent(meter, 320, 1)
    sent(meter, days_ago, 2)
    heard_at = NOW - timedelta(days=heard_days_ago) + HOUR
    (found,) = last_values.last_values(meter.pk, NOW + HOUR, retention_start(NOW), heard_at)
    assert found.quantity == "2"


def test_a_silent_meter_costs_two_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meter: Meter = MeterFactory.create()
    sent(meter, 300, 1)
    looks: list[timedelta] = []
    look = last_values._last_values

    def noted(meter_id: int, start: object, end: object) -> object:
        looks.append(end - start)  # type: ignore[operator]
        return look(meter_id, start, end)  # type: ignore[arg-type]

    monkeypatch.setattr(last_values, "_last_values", noted)
    assert last_values.last_values(meter.pk, NOW + HOUR, retention_start(NOW), NOW - timedelta(days=300) + HOUR)
    assert looks == [timedelta(days=3)] * 2
