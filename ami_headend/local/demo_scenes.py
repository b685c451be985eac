"""What the demo shows beside meters and rotations: groups, a month of deadlines, and two consumers of the feed.

The simulator begins yesterday, so the days before are made up here, as if a former system had counted them; from then
on all is counted. One consumer keeps up with the feed, the other one falls behind.
"""

import random
from collections.abc import Sequence
from datetime import datetime

from concentrators.feed import pages, subscriptions
from concentrators.feed.rows import Resource
from concentrators.fleet import groups
from concentrators.fleet.groups import Members
from concentrators.models import Concentrator, ReadDay, ReadDeadline
from concentrators.totals import read_deadlines, read_success
from concentrators.totals.read_success import Success
from keyvault.audit.chain import Actor
from meters.group_models import FleetGroup
from meters.registry.groups import GroupName

ACTOR = Actor("demo", "manage.py demo")
_DAYS = 28
_INTERVALS = 10_000  # that were expected of a concentrator on a day
_BAD_DAY, _BAD_SHARE = 6, 0.4  # days ago on which the last concentrator was cut off, and what it delivered
_DISTRICTS = "North", "South"
_CONSUMERS = {"demo-billing": 1_000_000, "demo-analytics": 10}  # rows that each takes at a time


def set_up(now: datetime) -> bool:
    """Make the groups and the days before, once the simulator has registered its fleet; return whether it did."""
    fleet = list(Concentrator.objects.order_by("pk"))
    if not fleet or ReadDay.objects.filter(basis=None).exists():
        return False
    if not FleetGroup.objects.exists():
        for number, name in enumerate(_DISTRICTS):
            group = groups.make(GroupName("district", name), ACTOR, "of the demo")
            mine = [one.pk for place, one in enumerate(fleet) if place * len(_DISTRICTS) // len(fleet) == number]
            groups.put(group, Members(concentrators=mine), ACTOR)
    for deadline in ReadDeadline.objects.filter(is_active=True):
        deadline.zone = "Etc/UTC"
        read_success.save(ACTOR, deadline)
        for age, day in enumerate(read_deadlines.due_days(deadline.terms, now, _DAYS)):
            read_success.take_over(deadline, day, _made_up(fleet, age), now)
    return True


def consume(now: datetime) -> None:
    """Let each consumer take its next rows, and say so."""
    standing = {one.name: one for one in subscriptions.standings(now)}
    for name, rows in _CONSUMERS.items():
        known = standing.get(name)
        if known is not None and known.is_gone:
            continue
        planned = pages.plan(Resource.READINGS, None if known is None else str(known.cursor), rows)
        if known is None or planned.rows:
            subscriptions.keep(name, str(planned.cursor), ACTOR, now)


def _made_up(fleet: Sequence[Concentrator], age: int) -> dict[int, Success]:
    """Return numbers of a day some days ago: mostly good, at times too late, and once with a concentrator cut off."""
    counted = {}
    for place, one in enumerate(fleet):
        chance = random.Random(1_000 * age + place)  # noqa: S311 - makes up numbers, hides nothing
        share = chance.choices((0.995, 0.965, 0.9), (10, 2, 1))[0] + chance.uniform(-0.004, 0.004)
        if age == _BAD_DAY and place == len(fleet) - 1:
            share = _BAD_SHARE
        in_time = int(_INTERVALS * share)
        counted[one.pk] = Success(_INTERVALS, in_time, int((_INTERVALS - in_time) * chance.uniform(0.4, 1)))
    return counted
