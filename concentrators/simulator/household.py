"""A plausible household: its energy in each interval, the same for the same seed. No Django."""

import math
import random
from functools import lru_cache

_DAY_MINUTES = 1440
_WEEKDAY_OF_EPOCH = 3  # 1 January 1970 was a Thursday


class HouseholdLoad:
    """Energy of simulated households: base load, morning and evening peaks, weekends, appliances, noise.

    Every household has its own scale and hours. A value depends only on the seed, the household and the
    interval, so that any stretch can be computed again.
    """

    def __init__(self, seed: int, start_s: int) -> None:
        self._seed = seed
        self._start_minute = start_s // 60
        self._profile = lru_cache(maxsize=None)(self._make_profile)
        self._day = lru_cache(maxsize=100_000)(self._make_day)

    def energy_wh(self, household: int, first_minute: int, count: int, interval_minutes: int) -> list[int | None]:
        """Return the Wh of ``count`` intervals from ``first_minute`` after the start."""
        per_day = _DAY_MINUTES // interval_minutes
        position = (self._start_minute + first_minute) // interval_minutes
        values: list[int | None] = []
        while len(values) < count:
            day, offset = divmod(position + len(values), per_day)
            values += self._day(household, day, interval_minutes)[offset : offset + count - len(values)]
        return values

    @staticmethod
    def has_intervals_of(interval_minutes: int) -> bool:
        return interval_minutes > 0 and _DAY_MINUTES % interval_minutes == 0

    def _make_profile(self, household: int, interval_minutes: int, weekend: bool) -> list[float]:
        """Return the expected Wh of each interval of a day."""
        rng = random.Random(f"{self._seed}/household/{household}")
        scale = rng.lognormvariate(0.0, 0.45)
        base_w = scale * rng.uniform(80, 220)
        morning, evening = rng.gauss(7.2, 0.8), rng.gauss(19.0, 1.0)
        morning_w, evening_w = scale * rng.uniform(200, 700), scale * rng.uniform(500, 1500)
        daytime_w = scale * rng.uniform(50, 500)
        if weekend:
            morning, daytime_w = morning + 1.5, daytime_w * 1.7
        profile = []
        for minute in range(0, _DAY_MINUTES, interval_minutes):
            hour = (minute + interval_minutes / 2) / 60
            power_w = base_w + _peak(hour, morning, 1.0) * morning_w + _peak(hour, evening, 2.0) * evening_w
            power_w += _peak(hour, 13.0, 3.0) * daytime_w
            profile.append(power_w * interval_minutes / 60)
        return profile

    def _make_day(self, household: int, day: int, interval_minutes: int) -> list[int]:
        weekend = (day + _WEEKDAY_OF_EPOCH) % 7 >= 5
        draw = random.Random(f"{self._seed}/{household}/{day}").random
        level = 0.8 + 0.4 * draw()
        appliance_wh = 2000 * interval_minutes / 60
        chance = 0.002 * interval_minutes
        return [
            int(expected * level * (0.5 + draw()) + (appliance_wh * draw() if draw() < chance else 0))
            for expected in self._profile(household, interval_minutes, weekend)
        ]


def _peak(hour: float, centre: float, width: float) -> float:
    distance = min(abs(hour - centre), 24 - abs(hour - centre))
    return math.exp(-0.5 * (distance / width) ** 2)
