"""Subscriptions of the feed: which consumers there are, and how far each is behind."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.utils import timezone

from ami_headend.console.figures import Figure
from ami_headend.console.formatting import NOTHING, ago, clipped, duration, label, thousands
from ami_headend.console.list_exports import ListExport
from ami_headend.console.lists import ListPage
from ami_headend.core import clock
from ami_headend.core.text import counted
from ami_headend.web.forms import KnownParametersForm
from ami_headend.web.tables import HtmlTable, columns_of, table
from concentrators.feed import sequencer, subscriptions
from concentrators.feed.subscriptions import Delivering, Standing

SEE_SUBSCRIPTIONS = "concentrators.view_feedsubscription"
_LATE = timedelta(minutes=15)  # consumers ask in turns: a row that came just now makes nobody late
_MANY_ROWS = 10_000  # a consumer that lacks more than these is not up to date, however young they are


class SubscriptionRow(NamedTuple):
    """A subscription in the export. ``lag_s`` is the age of the oldest row that its consumer lacks, in seconds."""

    name: str
    resource: str
    is_gone: bool
    rows: int
    lag_s: int
    positions: int
    moved_at: datetime
    account: str


class SubscriptionsPage(ListPage):
    """The head of the feed, and its consumers by name."""

    route = "subscriptions/"
    name = "subscriptions"
    title = "Subscriptions"
    icon = "rss_feed"
    permission_required = (SEE_SUBSCRIPTIONS,)
    template_name = "console/subscriptions/page.html"
    live_template_name = "console/subscriptions/live.html"
    form_class = KnownParametersForm

    def find(self, filters: dict[str, Any], after: list[str] | None) -> tuple[HtmlTable, Sequence[Any] | None]:
        now = timezone.now()
        self.found: list[Standing] = subscriptions.standings(now)
        return _subscriptions(self.found, now), None

    def exported(self, filters: dict[str, Any]) -> ListExport:
        found = subscriptions.standings(timezone.now())
        return ListExport(SubscriptionRow, [list(map(_row, found))], lambda most: len(found))

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        found = self.found
        behind = [one for one in found if one.lag > _LATE or one.is_gone]
        head, unnumbered = sequencer.head(), sequencer.unnumbered()
        note = f"{thousands(unnumbered.lots)} more wait for one" if unnumbered.lots else "every transaction has one"
        return {
            **context,
            "figures": [
                Figure("Last position", thousands(head.position), note, "tag"),
                Figure(
                    "Readings told",
                    thousands(head.readings),
                    f"and {thousands(head.events)} event{'s' * (head.events != 1)}",
                    "rss_feed",
                ),
                Figure(
                    "Consumers behind",
                    thousands(len(behind)),
                    f"of {thousands(len(found))}",
                    "hourglass_top",
                    "",
                    "unsure" if behind else "good" if found else "",
                ),
                _failing([one.delivery for one in found if one.delivery is not None]),
            ],
            "era": head.era_id,
            "since": unnumbered.oldest_at,
        }


def _failing(deliveries: Sequence[Delivering]) -> Figure:
    failing = [one for one in deliveries if one.is_enabled and one.attempts]
    note = f"of {thousands(len(deliveries))}" if deliveries else "none is set up"
    tone = "bad" if failing else "good" if deliveries else ""
    return Figure("Deliveries failing", thousands(len(failing)), note, "cloud_off", "", tone)


def _row(one: Standing) -> SubscriptionRow:
    standing = (one.is_gone, one.rows, one.lag_s, one.positions)
    return SubscriptionRow(one.name, one.resource.value, *standing, one.moved_at, one.account)


def _subscriptions(rows: Sequence[Standing], now: datetime) -> HtmlTable:
    columns = columns_of(
        "name", "-of", "state", "delivery", "#rows behind", "#oldest of them", "-#positions", "-last moved", "-account"
    )
    return table(
        columns,
        [
            [
                clipped(one.name),
                one.resource.value,
                _state(one),
                _delivery(one, now),
                NOTHING if one.is_gone else thousands(one.rows),
                duration(one.lag.total_seconds()) if one.rows and not one.is_gone else NOTHING,
                NOTHING if one.is_gone else thousands(one.positions),
                ago(one.moved_at, now),
                clipped(one.account),
            ]
            for one in rows
        ],
    )


def _delivery(one: Standing, now: datetime) -> str:
    """Return how it is sent, or that its consumer asks itself."""
    sent = one.delivery
    if sent is None:
        return "asks itself"
    what = f"{sent.kind}, {sent.format}"
    if not sent.is_enabled:
        return label("paused", "warning", what)
    if sent.attempts:
        return label("failing", "danger", f"{what}; {counted(sent.attempts, 'attempt')}: {sent.last_error}")
    done = f"last batch {duration(clock.age_s(sent.delivered_at, now))} ago" if sent.delivered_at else "nothing yet"
    return label(sent.kind, "success", f"{what}; {done}")


def _state(one: Standing) -> str:
    if one.is_gone:
        return label("cursor gone", "danger", "its consumer is told where to go on when it asks for rows")
    if one.lag > _LATE:
        return label("behind", "warning")
    if one.rows > _MANY_ROWS:
        return label("catching up", "info", "it lacks many rows, none of them old")
    return label("up to date", "success")
