"""What the demo makes up: days that stay, districts, a consumer that keeps up and one that does not."""

from datetime import timedelta

import pytest
from django.utils import timezone

from ami_headend.local import demo_scenes
from concentrators.feed import subscriptions
from concentrators.models import FeedLot, ReadDay, ReadDeadline
from concentrators.totals import read_success
from concentrators.totals.read_deadlines import DayStatus
from meters.group_models import FleetGroup
from tests.concentrators.feed.numbering import numbered
from tests.factories import ConcentratorFactory

pytestmark = pytest.mark.django_db


def test_a_month_of_deadlines_is_made_up_once_and_stays() -> None:
    now = timezone.now()
    assert not demo_scenes.set_up(now)  # the simulator has registered nothing yet
    ConcentratorFactory.create_batch(3)
    read_success.count_due(now)
    assert demo_scenes.set_up(now)
    assert not demo_scenes.set_up(now)
    days = read_success.history(ReadDeadline.objects.get(), read_success.newest_days(now)[0].day, 28)
    assert len(days) == 28
    assert {DayStatus.MET, DayStatus.MISSED} == set(read_success.statuses(days).values())
    before = list(ReadDay.objects.filter(basis=None).values_list("day", "in_time"))
    read_success.count_due(now + timedelta(days=1))
    assert list(ReadDay.objects.filter(basis=None).values_list("day", "in_time")) == before
    assert sorted(map(str, FleetGroup.objects.all())) == ["district:North", "district:South"]


def test_one_consumer_keeps_up_and_one_falls_behind() -> None:
    now = timezone.now()
    FeedLot.objects.create(change="new", readings=50, events=0, captured_from=now, captured_to=now)
    numbered()
    for _ in range(2):
        demo_scenes.consume(now)
    behind, ahead = subscriptions.standings(now)
    assert (behind.name, behind.rows) == ("demo-analytics", 30)
    assert (ahead.name, ahead.rows) == ("demo-billing", 0)
