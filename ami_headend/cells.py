"""What a new cell does once, of all parts of the head-end, when it is a restore of the cell that is split."""

from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from ami_headend.api_tokens import tokens
from concentrators.fleet import cells
from concentrators.fleet.cells import Moved
from concentrators.models import FeedDelivery
from keyvault.audit import chain
from keyvault.audit.chain import Actor


@dataclass(frozen=True)
class Kept:
    """What the new cell let in, and what of the former one it does not do in its name."""

    moved: Moved
    tokens: list[str]  # of programs, revoked
    deliveries: list[str]  # of the feed, paused


def keep(actor: Actor, of: str, now: datetime) -> Kept:
    """Let in what was released to this cell, and nothing else of the cell ``of``, before workers start.

    Tokens of programs are revoked, since each names its cell. Deliveries of the feed are paused: their notice of the
    restore would tell receivers to discard rows that the former cell goes on sending. All or nothing. CellError.
    """
    with transaction.atomic():
        moved = cells.keep(actor, of, now)
        names = [token.name for token in tokens.listed().filter(revoked_at=None)]
        for token in tokens.listed().filter(revoked_at=None):
            tokens.revoke(actor, token.pk, now)
        paused = FeedDelivery.objects.filter(is_enabled=True).select_related("subscription").order_by("pk")
        deliveries = [one.subscription.name for one in paused]
        if deliveries:
            paused.update(is_enabled=False)
            chain.record(actor, "feed_delivery.change", {"subscriptions": deliveries, "enabled": False})
    return Kept(moved, names, deliveries)
