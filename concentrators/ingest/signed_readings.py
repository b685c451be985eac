"""What meters sign: the readings in a signature, and lists of coupons to sign under (docs/schemes.md, signed). Pure.

``keyvault.coupons.verifying`` verifies the signatures. Coupons are spent and announced in the facts of the
batch (``Facts.coupons``), as counters are taken in its keys.
"""

from datetime import UTC, datetime
from typing import NamedTuple

from concentrators.ingest.facts import AssignedMeter, Delivery, Facts, OpenedFrame
from keyvault.coupons.forms import is_sign1
from keyvault.coupons.verifying import Brought, Coupons, ReadList
from meters.contents.signed import ENCLOSED, SIGNED
from meters.values import NewSignature, PayloadTimes, Value


class ListFrame(NamedTuple):
    """An authentic frame with a coupon list that stands, whether its counter is new, and when the list came first."""

    frame: OpenedFrame
    is_new: bool
    since: datetime


def is_signed(frame: OpenedFrame) -> bool:
    """Whether a frame brings what its meter signed."""
    _, _, _, plaintext, key = frame
    return key.content == SIGNED.name and is_sign1(plaintext)


def read(
    frame: OpenedFrame,
    meter: AssignedMeter,
    facts: Facts,
    coupons: Coupons,
    period: PayloadTimes,
    delivery: Delivery,
    spending: list[NewSignature],
) -> list[Value]:
    """The readings that a frame's signature encloses; CouponError, PayloadError.

    A signature that fits has spent its coupon, whatever it encloses: it goes to ``spending``.
    """
    _, kid, _, plaintext, _ = frame
    brought = _brought(delivery)
    payload, (coupon_kid, number), is_new = coupons.open_reading(kid, plaintext, brought)
    kept_for_s = brought.at_s
    try:
        reader = facts.readers[ENCLOSED]
        values = reader.read(payload, kid[:8], meter.interval_minutes, period, meter.lengths)
        kept_for_s = max(value.captured_s for value in values)
    finally:
        if is_new:
            epoch = int.from_bytes(coupon_kid[8:], "big")
            spending.append(NewSignature(meter.id, kept_for_s, epoch, number, brought.uplink_id, plaintext))
    return values


def read_list(frame: OpenedFrame, coupons: Coupons, delivery: Delivery) -> ReadList:
    """What a frame's coupon list announces; CouponError. Nothing stands before ``announced``."""
    return coupons.read_list(frame[1], frame[3], _brought(delivery))


def announced(frame: OpenedFrame, listed: ReadList, coupons: Coupons, *, is_new: bool) -> ListFrame | None:
    """The frame of a list that stands from now on, or did before; None where its counter brought something else."""
    since_s = listed.stands_since_s
    if since_s is None:
        if not is_new:
            return None
        coupons.announce(listed)
        since_s = listed.brought.at_s
    return ListFrame(frame, is_new, datetime.fromtimestamp(since_s, UTC))


def _brought(delivery: Delivery) -> Brought:
    return Brought(delivery.uplink_id, int(delivery.came_at.timestamp()))
