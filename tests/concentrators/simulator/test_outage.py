"""An outage: meters of the last concentrator say so, fall silent, and come back one by one."""

from itertools import pairwise

from concentrators.simulator.household import HouseholdLoad
from concentrators.simulator.plan import Plan
from meters.readings.obis import STANDARD_LOG

START_S = 1_767_225_600  # 2026-01-01, midnight
AT_S = START_S + 7_200


def test_the_meters_of_one_concentrator_are_out() -> None:
    plan = Plan("0a0b0c0d", 5, list("abcdefg"), 2, [1, 5, 15], START_S, None, outage_at_s=AT_S)
    load = HouseholdLoad(plan.seed, START_S)
    assert {number for number in plan.numbers if plan.out_of(number)} == {1, 3, 5}
    assert Plan.from_fact(plan.as_fact()).outage_at_s == AT_S
    for number, lasts_s in ((1, 1_800), (3, 3_600), (5, 5_400)):
        intervals = list(plan.intervals(load, number, 300))
        assert not [one for one in intervals if one.end_s > AT_S and one.start_s < AT_S + lasts_s]
        steps = {b.register_wh - a.register_wh - a.energy_wh for a, b in pairwise(intervals)}
        assert steps == {0}  # it stood still meanwhile
        told = [event for one in intervals if (event := plan.event_in(number, one)) is not None and event.code < 3]
        assert told == [(AT_S, STANDARD_LOG, 1), (AT_S + lasts_s, STANDARD_LOG, 2)]
        assert plan.is_out(number, AT_S)
        assert not plan.is_out(number, AT_S + lasts_s)
    assert len(list(plan.intervals(load, 0, 300))) == 300
