"""Meters that are out together: the alert about their concentrator stands for them, so none of them raises its own."""

from datetime import datetime

from ami_headend.alerts.models import Condition, Rule
from concentrators.fleet import outages
from meters.registry import site_codes


def meters(now: datetime, since: datetime | None = None) -> set[int]:
    """Return the meters that are out, or went out since a time, with as many others as a rule for outages counts.

    Without such a rule nobody would hear of them, so there are none. A query, and two for each rule.
    """
    found: set[int] = set()
    for least, group in Rule.objects.filter(condition=Condition.OUTAGE, is_enabled=True).values_list(
        "threshold", "group"
    ):
        mine = None if group is None else [group]
        for of_one in outages.together(site_codes.events(), now, since, mine).values():
            if len(of_one) >= (least or 0):
                found.update(of_one)
    return found
