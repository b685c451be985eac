"""Households use what households use, and the same for the same seed."""

from statistics import fmean

import pytest

from concentrators.simulator.household import HouseholdLoad

START_S = 1_767_225_600  # a midnight
DAYS = 14


@pytest.mark.parametrize("minutes", [1, 15, 30, 60])
def test_any_stretch_is_the_same_as_the_whole(minutes: int) -> None:
    per_day = 1440 // minutes
    whole = HouseholdLoad(7, START_S).energy_wh(3, 0, 3 * per_day, minutes)
    part = HouseholdLoad(7, START_S).energy_wh(3, 5 * minutes, 2 * per_day, minutes)
    assert len(whole) == 3 * per_day
    assert part == whole[5 : 5 + 2 * per_day]


def test_seed_and_household_make_the_difference() -> None:
    def of(seed: int, household: int) -> list[int | None]:
        return HouseholdLoad(seed, START_S).energy_wh(household, 0, 48, 30)

    assert len({tuple(of(seed, household)) for seed in (1, 2) for household in (0, 1)}) == 4


def test_a_day_has_a_shape_and_a_believable_size() -> None:
    load = HouseholdLoad(1, START_S)
    days = [[value or 0 for value in load.energy_wh(n, 0, 48 * DAYS, 30)] for n in range(40)]
    by_hour = [fmean(d[day * 48 + slot] for d in days for day in range(DAYS)) for slot in range(48)]
    night, evening = fmean(by_hour[4:10]), fmean(by_hour[36:42])
    assert evening > 2 * night
    daily_kwh = sum(by_hour) / 1000
    assert 4 < daily_kwh < 40
    totals = [sum(d) for d in days]
    assert max(totals) > 2 * min(totals)
