"""Interval totals: what is summed, and how they agree with the readings."""

from datetime import timedelta

import pytest

from concentrators.models import Concentrator, IntervalTotal
from concentrators.totals import totals
from concentrators.totals.totals import Difference
from meters.models import Register
from tests.builders import senml_payload
from tests.concentrators.fleet import (
    ENERGY,
    INTERVAL,
    START,
    START_S,
    WINDOW,
    commission,
    judged,
    register_id,
)

pytestmark = pytest.mark.django_db


def rows(concentrator: Concentrator) -> list[tuple[object, ...]]:
    found = IntervalTotal.objects.filter(concentrator=concentrator).order_by("pk")
    return list(found.values_list("register_id", "interval_minutes", "interval_start", "value_sum", "meters_counted"))


def test_only_interval_registers_are_summed(concentrator: Concentrator) -> None:
    device = commission(1, concentrator)[0]
    payload = senml_payload({ENERGY: 1, INTERVAL: 20, "1-0:2.29.0": 300, "1-0:2.8.0": 4000}, START_S)
    judged(concentrator, [device.seal(payload)])
    assert rows(concentrator) == [
        (register_id(INTERVAL), 30, START, 20, 1),
        (register_id("1-0:2.29.0"), 30, START, 300, 1),
    ]


def test_interval_lengths_are_kept_apart(concentrator: Concentrator) -> None:
    devices = commission(3, concentrator)
    devices[0].meter.interval_minutes = 15
    devices[0].meter.save()
    judged(concentrator, [device.frame(0, 10 + n) for n, device in enumerate(devices)])
    assert rows(concentrator) == [
        (register_id(INTERVAL), 15, START, 10, 1),
        (register_id(INTERVAL), 30, START, 23, 2),
    ]
    assert totals.compare(*WINDOW) == []


def test_negative_and_zero_values_count(concentrator: Concentrator) -> None:
    Register.objects.update(minimum=None)
    devices = commission(3, concentrator)
    judged(concentrator, [device.frame(0, wh) for device, wh in zip(devices, (-7, 0, 7), strict=True)])
    assert rows(concentrator) == [(register_id(INTERVAL), 30, START, 0, 3)]
    assert totals.compare(*WINDOW) == []


def test_a_total_counts_to_the_assignment_whoever_posted(
    concentrator: Concentrator, other_concentrator: Concentrator
) -> None:
    device = commission(1, concentrator)[0]
    judged(other_concentrator, [device.frame(0)])
    assert len(rows(concentrator)) == 1
    assert rows(other_concentrator) == []


def test_compare_names_what_differs_and_recompute_mends_it(concentrator: Concentrator) -> None:
    devices = commission(2, concentrator)
    judged(concentrator, [device.frame(n, 100) for device in devices for n in range(4)])
    right = rows(concentrator)
    half_hour = timedelta(minutes=30)
    kept = IntervalTotal.objects.filter(concentrator=concentrator)
    kept.filter(interval_start=START).update(value_sum=1)
    kept.filter(interval_start=START + half_hour).delete()
    IntervalTotal.objects.create(
        concentrator=concentrator, register_id=register_id(INTERVAL), interval_minutes=30,
        interval_start=START - half_hour, value_sum=5, meters_counted=1,
    )  # fmt: skip
    kept.filter(interval_start=START + 3 * half_hour).update(meters_counted=3)

    key = concentrator.pk, register_id(INTERVAL), 30
    expected = [
        Difference(*key, START - half_hour, (5, 1, 0), None),
        Difference(*key, START, (1, 2, 0), (200, 2, 0)),
        Difference(*key, START + half_hour, None, (200, 2, 0)),
        Difference(*key, START + 3 * half_hour, (200, 3, 0), (200, 2, 0)),
    ]
    assert totals.compare(*WINDOW) == expected
    assert totals.compare(START, START + half_hour) == expected[1:2]  # [start, end)

    assert totals.recompute(START, START + half_hour) == expected[1:2]
    assert totals.compare(*WINDOW) == [expected[0], *expected[2:]]
    assert totals.recompute(*WINDOW) == [expected[0], *expected[2:]]
    assert totals.compare(*WINDOW) == []
    assert rows(concentrator) == right
    assert totals.recompute(*WINDOW) == []
