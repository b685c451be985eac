"""What is shown of consumers of the feed: page, metrics, alert."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from ami_headend.alerts import evaluation
from ami_headend.alerts.models import Alert, Condition, Rule
from ami_headend.console.formatting import NOTHING
from ami_headend.metrics.collector import registry
from ami_headend.signin import roles
from concentrators.models import FeedHead, FeedLot, FeedSubscription
from tests.concentrators.statements import counting
from tests.console.people import person

pytestmark = pytest.mark.django_db


def lots(*stored_at: datetime) -> None:
    """Lots of 100 readings and no event each, at the positions from 1 on."""
    for position, at in enumerate(stored_at, 1):
        FeedLot.objects.create(
            position=position, change="new", readings=100, events=0, captured_from=at, captured_to=at, stored_at=at,
            readings_before=100 * (position - 1), events_before=0,
        )  # fmt: skip
    FeedHead.objects.update(position=len(stored_at), readings=100 * len(stored_at))


def subscription(name: str, position: int, row: int = 0, era: str = "", **other: Any) -> FeedSubscription:
    values = {"resource": "readings", "moved_at": timezone.now(), "account": "token:" + name, **other}
    return FeedSubscription.objects.create(
        name=name, position=position, row=row, era=era or FeedHead.objects.get().era_id, **values
    )


@pytest.fixture
def two_hours() -> datetime:
    """Three lots, the last of them now, and consumers in every state."""
    now = timezone.now()
    lots(now - timedelta(hours=2), now - timedelta(hours=1), now)
    subscription("archive", 4)
    subscription("billing", 1, 30)
    subscription("events", 1, resource="events")
    subscription("restored", 2, era="another")
    return now


def test_the_page_says_who_is_behind(two_hours: datetime) -> None:
    answer = person(roles.AUDITOR).get(reverse("admin:subscriptions"))
    rows = [[str(cell.content) for cell in row] for row in answer.context["content"].rows]
    assert [re.sub("<.*?>", "", row[0]) for row in rows] == ["archive", "billing", "events", "restored"]
    assert [row[4:7] for row in rows] == [
        ["0", NOTHING, "0"],
        ["270", "2 h", "3"],
        ["0", NOTHING, "3"],
        [NOTHING] * 3,
    ]
    assert ["behind" in row[2] or "gone" in row[2] for row in rows] == [False, True, False, True]
    page = answer.content.decode()
    assert "every transaction has one" in page
    FeedLot.objects.create(change="new", readings=1, events=0, captured_from=two_hours, captured_to=two_hours)
    assert "The oldest transaction without a position" in person(roles.AUDITOR).get(
        reverse("admin:subscriptions")
    ).content.decode()  # fmt: skip


@pytest.mark.parametrize(
    ("minutes", "rows", "state", "figure"),
    [(1, 10_000, "up to date", "0"), (1, 10_001, "catching up", "0"), (16, 10_001, "behind", "1")],
)
def test_many_young_rows_are_not_up_to_date(minutes: int, rows: int, state: str, figure: str) -> None:
    at = timezone.now() - timedelta(minutes=minutes)
    lots(at)
    FeedLot.objects.update(readings=rows)
    FeedHead.objects.update(readings=rows)
    subscription("billing", 1)
    answer = person(roles.AUDITOR).get(reverse("admin:subscriptions"))
    (row,) = answer.context["content"].rows
    assert f"\n{state}\n" in str(row[2].content)
    assert str(answer.context["figures"][2].value) == figure


def test_without_consumers_it_says_how_one_begins() -> None:
    page = person(roles.OPERATOR).get(reverse("admin:subscriptions")).content.decode()
    assert "PUT /api/v1/feed/subscriptions/NAME" in page


def test_the_number_of_queries_does_not_depend_on_that_of_consumers(two_hours: datetime) -> None:
    client = person(roles.OPERATOR)
    client.get(reverse("admin:subscriptions"))
    asked = []
    for turn in range(2):
        with counting() as statements:
            client.get(reverse("admin:subscriptions"))
        asked.append(len(statements))
        for number in range(20):
            subscription(f"more {turn} {number}", 2)
    assert asked[0] == asked[1]


def test_metrics_say_how_far_behind_each_is(two_hours: datetime) -> None:
    values = {
        (sample.name.removeprefix("ami_headend_feed_"), sample.labels.get("subscription")): sample.value
        for family in registry().collect()
        for sample in family.samples
    }
    assert (values["positions_total", None], values["unnumbered_lots", None]) == (3, 0)
    assert (values["rows_behind", "billing"], values["rows_behind", "archive"]) == (270, 0)
    assert 7_190 < values["lag_seconds", "billing"] < 7_260
    assert [values["cursor_gone", name] for name in ("archive", "restored")] == [0, 1]


class TestAlerts:
    def evaluated(self) -> list[Alert]:
        Rule.objects.exclude(condition=Condition.FEED_LAG).update(is_enabled=False)
        Rule.objects.update(evaluated_at=None, period_minutes=90)
        evaluation.evaluate(timezone.now())
        return list(Alert.objects.filter(resolved_at=None))

    def test_a_consumer_that_lags_until_it_has_all(self, two_hours: datetime) -> None:
        (alert,) = self.evaluated()
        assert (
            alert.summary == f"1 behind: billing since {two_hours - timedelta(hours=2):%Y-%m-%d %H:%M} UTC (270 rows)"
        )
        FeedSubscription.objects.filter(name="restored").update(moved_at=two_hours - timedelta(hours=3))
        FeedSubscription.objects.filter(name="billing").update(position=3)
        (alert,) = self.evaluated()
        assert alert.summary.startswith("1 behind: restored since")
        assert alert.summary.endswith("(cursor gone)")
        FeedSubscription.objects.filter(name="restored").delete()
        assert self.evaluated() == []

    def test_positions_that_are_not_given(self, two_hours: datetime) -> None:
        FeedSubscription.objects.all().delete()
        at = two_hours - timedelta(hours=4)
        FeedLot.objects.create(change="new", readings=1, events=0, captured_from=at, captured_to=at, stored_at=at)
        (alert,) = self.evaluated()
        assert alert.summary == f"no positions are given since {at:%Y-%m-%d %H:%M} UTC"
