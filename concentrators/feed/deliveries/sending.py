"""Sends what deliveries have to send: parcel by parcel, each until its receiver has taken it.

A parcel goes out outside any transaction, since a transaction that writes would hold up the positions of the feed. A
lock of the database's session, which a connection that breaks releases, lets one worker at a time send for a delivery.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timedelta

from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from ami_headend.core import clock, locks
from ami_headend.core.backoff import longest, pause
from ami_headend.core.sql import fetch_rows
from ami_headend.core.text import one_line
from concentrators.feed import sequencer
from concentrators.feed.cursor import CursorError
from concentrators.feed.deliveries import folder, sftp, webhook
from concentrators.feed.deliveries.errors import DeliveryError
from concentrators.feed.deliveries.parcels import Parcel, cursor_of, next_parcel
from concentrators.feed.pages import GoneError
from concentrators.models import DeliveryKind, FeedDelivery, FeedSubscription
from keyvault.master_key import MasterKeyError

logger = logging.getLogger(__name__)

_LOCK = locks.FEED_DELIVERIES  # with the id of the delivery; held by the session, outside of transactions
_FAILED = 0  # the turn of all that failed last; no delivery has this id
_FIRST, _MOST = timedelta(seconds=15), timedelta(minutes=15)
_PUT: Mapping[str, Callable[[FeedDelivery, Parcel, datetime], None]] = {
    DeliveryKind.WEBHOOK: webhook.put,
    DeliveryKind.FOLDER: folder.put,
    DeliveryKind.SFTP: sftp.put,
}


def due(now: datetime) -> list[int]:
    """Return deliveries that may have something to send, and are not put off. Two queries.

    First those that did not fail last; then the others, which are tried one at a time, in the order in which their
    pauses ended: receivers that hang do not come again before one that has recovered.
    """
    head = sequencer.head()
    has_all = Q(subscription__era=head.era_id, subscription__position__gt=head.position)
    rows = _due(now).exclude(has_all).order_by(F("due_at").asc(nulls_first=True), "pk")
    return list(rows.values_list("pk", flat=True))


def make_due(delivery_id: int) -> None:
    """Have the next attempt made at once, after a failed one that was put off."""
    FeedDelivery.objects.filter(pk=delivery_id).update(due_at=None)


def deliver_for(delivery_id: int, seconds: float) -> bool:
    """Send what a delivery has to send, for some seconds. Return whether this caller has more to send.

    Those that failed last are tried one at a time, since each may hold its worker for FEED_EXCHANGE_S: however many
    receivers hang, the others get their turns.
    """
    end = time.monotonic() + seconds
    has_failed = FeedDelivery.objects.filter(pk=delivery_id, attempts__gt=0).exists()
    with alone(delivery_id) as ours, alone(_FAILED) if ours and has_failed else nullcontext(ours) as may:
        while may and deliver_next(delivery_id):
            if time.monotonic() > end:
                return True
    return False


def deliver_next(delivery_id: int) -> bool:
    """Send one parcel; return whether it was taken. The caller has the lock of the delivery."""
    now = timezone.now()
    delivery = _due(now).select_related("subscription").filter(pk=delivery_id).first()
    if delivery is None:
        return False
    try:
        parcel = next_parcel(delivery, now)
        if parcel is None:
            return False
        if parcel.parts is not None:
            _PUT[delivery.kind](delivery, parcel, now)
    except (DeliveryError, CursorError, GoneError, MasterKeyError) as error:
        _note_failure(delivery, str(error), timezone.now())
        return False
    except (OperationalError, InterfaceError):
        raise  # of the database, which would not take a note either
    except Exception as error:  # a fault of ours, or of a library: it, too, must not come again at every sweep
        kind = type(error).__name__
        logger.exception("%s could not be sent", delivery)
        _note_failure(delivery, f"the head-end could not send it ({kind}): the worker's log says more", timezone.now())
        return False
    _note_taken(delivery, parcel, timezone.now())
    return True


def _due(now: datetime) -> QuerySet[FeedDelivery]:
    late = Q(due_at=None) | Q(due_at__lte=now) | Q(due_at__gt=clock.latest_due(longest(_MOST), now))
    return FeedDelivery.objects.filter(late, is_enabled=True)


@transaction.atomic
def _note_taken(delivery: FeedDelivery, parcel: Parcel, now: datetime) -> None:
    """Advance the subscription, unless somebody has set its cursor meanwhile."""
    before, after = cursor_of(delivery), parcel.following
    FeedSubscription.objects.filter(
        pk=delivery.subscription_id, era=before.era, position=before.place.position, row=before.place.row
    ).update(era=after.era, position=after.place.position, row=after.place.row, moved_at=now)
    sent = parcel.parts is not None
    FeedDelivery.objects.filter(pk=delivery.pk).update(
        until_position=None, until_row=None, attempts=0, due_at=None, last_error="", delivered_at=now,
        batches=F("batches") + int(sent), rows_sent=F("rows_sent") + (parcel.rows if sent else 0),
    )  # fmt: skip


def _note_failure(delivery: FeedDelivery, why: str, now: datetime) -> None:
    attempts = delivery.attempts + 1
    FeedDelivery.objects.filter(pk=delivery.pk).update(
        attempts=attempts, due_at=now + pause(attempts, _FIRST, _MOST), last_error=one_line(why)[:250]
    )
    logger.warning("%s was not taken, attempt %d: %s", delivery, attempts, why)


@contextmanager
def alone(delivery_id: int) -> Iterator[bool]:
    """Take the lock of a delivery, and return whether no other worker has it."""
    ours = bool(fetch_rows("SELECT pg_try_advisory_lock(%s, %s)", _LOCK, delivery_id)[0][0])
    try:
        yield ours
    finally:
        if ours:
            with suppress(OperationalError, InterfaceError):  # a broken connection has released it already
                fetch_rows("SELECT pg_advisory_unlock(%s, %s)", _LOCK, delivery_id)
