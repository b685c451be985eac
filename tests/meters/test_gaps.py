from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meters.models import Meter, Place, Register
from meters.readings import gaps
from meters.readings.gaps import Gap, GapsError, gap_report
from meters.registry.lifecycle import exchange, install
from tests.factories import MeterFactory
from tests.meters.conftest import Store

pytestmark = pytest.mark.django_db
START = datetime(2026, 3, 1, tzinfo=UTC)
NOW = START + timedelta(days=30)
HALF_HOUR = timedelta(minutes=30)


def at(number: int) -> datetime:
    return START + number * HALF_HOUR


def meter_since_start(**fields: object) -> Meter:
    return MeterFactory.create(**{"commissioned_at": START, **fields})


def test_gaps_are_runs_of_missing_intervals(load_profile: Register, store: Store) -> None:
    meter = meter_since_start()
    store(meter, [at(number) for number in (1, 2, 3, 6, 9)])

    report = gap_report(meter, load_profile, at(0), at(12), NOW)

    assert report.gaps == [Gap(at(0), at(1), 1), Gap(at(4), at(6), 2), Gap(at(7), at(9), 2), Gap(at(10), at(12), 2)]
    assert (report.expected, report.missing, report.completeness) == (12, 7, 5 / 12)


def test_a_meter_without_readings_misses_everything(load_profile: Register) -> None:
    report = gap_report(meter_since_start(), load_profile, at(0), at(48), NOW)
    assert report.gaps == [Gap(at(0), at(48), 48)]
    assert report.completeness == 0


def test_only_whole_intervals_that_are_over_are_expected(load_profile: Register) -> None:
    minutes = timedelta(minutes=10)
    meter = meter_since_start(commissioned_at=at(1) + minutes, retired_at=at(9) + minutes)
    assert gap_report(meter, load_profile, at(0), at(99), NOW).gaps == [Gap(at(2), at(9), 7)]
    assert gap_report(meter, load_profile, at(0), at(99), now=at(5) + minutes).gaps == [Gap(at(2), at(5), 3)]
    assert gap_report(meter, load_profile, at(20), at(30), NOW).completeness is None


def test_other_registers_meters_and_lengths_fill_no_gap(load_profile: Register, store: Store) -> None:
    meter = meter_since_start()
    store(meter_since_start(), [at(0)])
    store(meter, [at(1)], Register.objects.get(obis_code="1-0:2.29.0"))
    meter.interval_minutes = 15
    store(meter, [at(2)])
    meter.interval_minutes = 30
    assert gap_report(meter, load_profile, at(0), at(3), NOW).missing == 3


def test_nothing_is_expected_where_a_meter_does_not_hang(load_profile: Register, store: Store) -> None:
    old, new, place = meter_since_start(), meter_since_start(), Place.objects.create(name="house 1")
    install(old, place, at(2))
    exchange(place, old, new, at(5))
    store(new, [at(6)])

    assert gap_report(old, load_profile, at(0), at(8), NOW).gaps == [Gap(at(2), at(5), 3)]
    assert gap_report(new, load_profile, at(0), at(8), NOW).gaps == [Gap(at(5), at(6), 1), Gap(at(7), at(8), 1)]


def test_what_expired_is_not_missing(load_profile: Register, settings: object) -> None:
    settings.RETENTION_DAYS = 1  # type: ignore[attr-defined]
    report = gap_report(meter_since_start(), load_profile, START, NOW, NOW)
    assert report.expected == 48


def test_a_register_without_intervals_and_too_long_a_period_are_refused(
    load_profile: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GapsError, match="is not an interval register"):
        gap_report(meter_since_start(), Register.objects.get(obis_code="1-0:1.8.0"), at(0), at(1), NOW)
    monkeypatch.setattr(gaps, "EXPECTED_MAX", 9)
    with pytest.raises(GapsError, match="10 intervals are too many"):
        gap_report(meter_since_start(), load_profile, at(0), at(10), NOW)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(present=st.sets(st.integers(0, 40)), first=st.integers(0, 40), length=st.integers(1, 20))
def test_gaps_and_readings_make_up_the_period(
    load_profile: Register, store: Store, present: set[int], first: int, length: int
) -> None:
    meter = meter_since_start()
    store(meter, [at(number) for number in sorted(present)])

    report = gap_report(meter, load_profile, at(first), at(first + length), NOW)

    missing = {first + number for number in range(length)} - present
    told = {(gap.start - START) // HALF_HOUR + k for gap in report.gaps for k in range(gap.intervals)}
    assert told == missing
    assert report.expected == length
    assert all(before.end < after.start for before, after in zip(report.gaps, report.gaps[1:], strict=False))
