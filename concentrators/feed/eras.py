"""Eras: spans in which positions are valid. Each restore of the database begins one (``journal_replay``)."""

import secrets
from datetime import UTC, datetime

from django.conf import settings

from concentrators.feed import sequencer
from concentrators.feed.cursor import Era, State
from concentrators.models import FeedEra, FeedHead
from keyvault import journal

RECORD = "feed_era"  # in the key journal: [name, parent, position, Unix second of its beginning]


def state() -> State:
    """Return what is known of eras and positions; two queries."""
    head = FeedHead.objects.get()
    rows = FeedEra.objects.values_list("name", "parent_id", "position", "began_at")
    eras = {name: Era(parent, position, int(began_at.timestamp())) for name, parent, position, began_at in rows}
    return State(eras, head.era_id, head.position, head.first_kept)


def headers(era: str) -> dict[str, str]:
    """Return the headers that say whose positions these are: the era's, and the cell's if this is one of several."""
    return {"Feed-Era": era, **({"Feed-Cell": settings.CELL} if settings.CELL else {})}


def begin(now: datetime) -> FeedEra:
    """Begin an era at the positions of the restored backup; in the caller's transaction.

    It is written to the key journal, so that its cursors are known even after a restore of a backup from before it.
    Lots that had no position in the backup may have got another one since: they get theirs in the new era.
    """
    head = FeedHead.objects.select_for_update().get()
    era = FeedEra.objects.create(name=secrets.token_hex(6), parent_id=head.era_id, position=head.position, began_at=now)
    head.era = era
    head.save(update_fields=["era"])
    journal.append(RECORD, [era.name, era.parent_id, era.position, int(now.timestamp())])
    sequencer.number_settled(all_committed=True)
    return era


def replay(name: str, parent: str, position: int, began_s: int) -> None:
    """Enter an era that began after the backup that is restored."""
    values = {"parent_id": parent, "position": position, "began_at": datetime.fromtimestamp(began_s, UTC)}
    FeedEra.objects.get_or_create(name=name, defaults=values)
