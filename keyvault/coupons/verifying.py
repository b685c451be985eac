"""Verifies signed payloads and coupon lists against the announced coupons, and marks coupons as spent. Pure.

The state belongs to one batch, as its counters do: ``keyvault.coupons.store`` reads it before, the frames of the batch
change it, and the store writes it back by compare-and-set.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from keyvault.coupons import chameleon
from keyvault.coupons.chameleon import PointError
from keyvault.coupons.forms import Coupon, CouponList, FormError, SignedReading, is_signed_by, parse_list, parse_reading
from keyvault.refusals import CouponRefusal

CouponName = tuple[bytes, int]  # kid (10 octets) and number


class CouponError(ValueError):
    """An authentic payload that is refused; ``reason`` says why. What it says is in no ``values``."""

    values = None

    def __init__(self, reason: CouponRefusal, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class StandingList(NamedTuple):
    """A list that stands: the SHA-256 of its octets, Y (32 octets), and when it was received (Unix seconds)."""

    digest: bytes
    public: bytes
    received_s: int


@dataclass(slots=True)
class StandingCoupon:
    """A coupon that was announced. ``spent_on`` is the SHA-256 of the Sign1 that spent it; empty: nothing yet.

    ``id`` is None of one that this batch announced.
    """

    id: int | None
    points: Coupon
    announced: StandingList
    spent_on: bytes = b""


class Identity(NamedTuple):
    """The Ed25519 key (32 octets) that an authority certified a meter's lists to be signed with, by the row's id."""

    id: int
    public: bytes
    is_revoked: bool = False


class Brought(NamedTuple):
    """What brought a payload: the uplink by its id, and when it came (Unix seconds)."""

    uplink_id: int
    at_s: int


class OpenedReading(NamedTuple):
    """What a signature encloses, the coupon that it spent, and whether it did so just now."""

    payload: bytes
    coupon: CouponName
    is_new: bool


class Dispute(NamedTuple):
    """Proof of two signatures where one may be: under one coupon, or two announcements of one.

    ``second`` are the octets that were refused (COSE_Sign1).
    """

    name: CouponName
    is_list: bool
    second: bytes
    brought: Brought


class ReadList(NamedTuple):
    """A coupon list that may stand; ``stands_since_s`` is when it was received before (Unix seconds), if it was."""

    announced: CouponList
    octets: bytes
    identity_id: int
    brought: Brought
    stands_since_s: int | None


@dataclass
class Coupons:
    """The coupons that a batch names, as they stand, the identities of meters that announce some, by title.

    ``by_point`` says which coupon a point stands for, of those that the batch announces; ``cut_off`` holds the kids of
    compromised keys. ``spent``, ``announced`` and ``disputes`` are what is to be stored.
    """

    standing: dict[CouponName, StandingCoupon] = field(default_factory=dict)
    by_point: dict[bytes, CouponName] = field(default_factory=dict)
    identities: Mapping[bytes, Collection[Identity]] = field(default_factory=dict)
    cut_off: Collection[bytes] = frozenset()
    spent: list[StandingCoupon] = field(default_factory=list)
    announced: list[ReadList] = field(default_factory=list)
    disputes: list[Dispute] = field(default_factory=list)

    def open_reading(self, kid: bytes, octets: bytes, brought: Brought) -> OpenedReading:
        """The payload that a frame's Sign1 signs, whose coupon is spent from now on; CouponError.

        ``kid`` is that of the frame. The same octets again are no second use, and are not verified again.
        """
        signed = parsed_reading(kid, octets)
        name = signed.kid, signed.number
        coupon = self.standing.get(name)
        if coupon is None:
            raise CouponError(CouponRefusal.COUPON_UNKNOWN, f"no list announced {_said(name)}")
        digest = sha256(octets).digest()
        if coupon.spent_on == digest:
            return OpenedReading(signed.payload, name, is_new=False)
        if signed.kid in self.cut_off:
            detail = f"the key of the epoch of {_said(name)} is compromised"
            raise CouponError(CouponRefusal.SIGNATURE_INVALID, detail)
        if not _fits(signed, coupon):
            detail = f"the signature under {_said(name)} does not fit: forged, damaged, or another coupon's"
            raise CouponError(CouponRefusal.SIGNATURE_INVALID, detail)
        if coupon.spent_on:
            self.disputes.append(Dispute(name, is_list=False, second=octets, brought=brought))
            raise CouponError(CouponRefusal.COUPON_REUSED, f"another signature was made under {_said(name)} before")
        coupon.spent_on = digest
        self.spent.append(coupon)
        return OpenedReading(signed.payload, name, is_new=True)

    def read_list(self, kid: bytes, octets: bytes, brought: Brought) -> ReadList:
        """What a frame's coupon list announces, which changes nothing yet (``announce``); CouponError.

        Lists of a meter whose identity nobody registered wait as ``coupon_unknown``.
        """
        announced = parsed_list(kid, octets)
        names = names_of(announced)
        digest = sha256(octets).digest()
        before = self.standing.get(names[0])
        if before is not None and before.announced.digest == digest:
            return ReadList(announced, octets, 0, brought, before.announced.received_s)
        identities = self.identities.get(kid[:8], ())
        if not identities:
            detail = f"no identity of {kid[:8].hex()} is registered (manage.py meter_identity register)"
            raise CouponError(CouponRefusal.COUPON_UNKNOWN, detail)
        if announced.kid in self.cut_off:
            detail = f"the key of epoch {_epoch(announced.kid)} is compromised: it gets no coupons"
            raise CouponError(CouponRefusal.SIGNATURE_INVALID, detail)
        identity = next((one for one in identities if is_signed_by(announced, one.public)), None)
        if identity is None or identity.is_revoked:
            why = "does not fit" if identity is None else "is of an identity whose certificate was revoked"
            raise CouponError(CouponRefusal.SIGNATURE_INVALID, f"the signature of the coupon list {why}")
        self._check_new(announced, names, octets, brought)
        return ReadList(announced, octets, identity.id, brought, None)

    def announce(self, listed: ReadList) -> None:
        """The coupons of a list stand from now on."""
        announced = StandingList(sha256(listed.octets).digest(), listed.announced.public, listed.brought.at_s)
        for name, points in zip(names_of(listed.announced), listed.announced.coupons, strict=True):
            self.standing[name] = StandingCoupon(None, points, announced)
            self.by_point.update(dict.fromkeys(points, name))
        self.announced.append(listed)

    def _check_new(self, announced: CouponList, names: list[CouponName], octets: bytes, brought: Brought) -> None:
        """CouponError where a coupon or a point of a list stands already, or its points are none."""
        own = [point for coupon in announced.coupons for point in coupon]
        for name, points in zip(names, announced.coupons, strict=True):
            taken = name if name in self.standing else next(filter(None, map(self.by_point.get, points)), None)
            if taken is not None:
                whose = ""
                if taken[0][:8] == announced.kid[:8]:
                    self.disputes.append(Dispute(taken, is_list=True, second=octets, brought=brought))
                else:  # that meter announced nothing twice: this one took its point
                    whose = f" of meter {taken[0][:8].hex()}"
                raise CouponError(CouponRefusal.COUPON_REUSED, f"another list announced {_said(taken)}{whose} before")
        if len(set(own)) < len(own):
            raise CouponError(CouponRefusal.SIGNATURE_INVALID, "a point stands twice in the coupon list")
        try:
            for point in (announced.public, *own):
                chameleon.check_point(point)
        except PointError as error:
            detail = f"a point of the coupon list is refused: {error}"
            raise CouponError(CouponRefusal.SIGNATURE_INVALID, detail) from None


def parsed_reading(kid: bytes, octets: bytes) -> SignedReading:
    """A Sign1 that a frame under a kid may bring, taken apart; CouponError. Its coupon may be of an earlier epoch."""
    try:
        signed = parse_reading(octets)
    except FormError as error:
        raise CouponError(CouponRefusal.PAYLOAD_INVALID, f"no signed payload: {error}") from None
    _check_kid(signed.kid, kid)
    return signed


def parsed_list(kid: bytes, octets: bytes) -> CouponList:
    """A coupon list that a frame under a kid may bring, taken apart; CouponError. It may be of an earlier epoch."""
    try:
        announced = parse_list(octets)
    except FormError as error:
        raise CouponError(CouponRefusal.PAYLOAD_INVALID, f"no coupon list: {error}") from None
    _check_kid(announced.kid, kid)
    return announced


def names_of(announced: CouponList) -> list[CouponName]:
    """The names of the coupons of a list, in its order."""
    return [(announced.kid, announced.first + place) for place in range(len(announced.coupons))]


def _check_kid(inner: bytes, kid: bytes) -> None:
    if inner[:8] != kid[:8]:
        detail = f"it is signed for {inner[:8].hex()}, and the frame is of {kid[:8].hex()}"
        raise CouponError(CouponRefusal.IDENTITY_MISMATCH, detail)
    if not bytes(2) < inner[8:] <= kid[8:10]:
        detail = f"it names epoch {_epoch(inner)}, and the frame is of epoch {_epoch(kid)}"
        raise CouponError(CouponRefusal.PAYLOAD_INVALID, detail)


def _fits(signed: SignedReading, coupon: StandingCoupon) -> bool:
    point, commitment = coupon.points
    hashed = chameleon.hash_of(signed.to_sign, point, coupon.announced.public)
    return chameleon.fits(hashed, signed.response, point, coupon.announced.public, commitment)


def _epoch(kid: bytes) -> int:
    return int.from_bytes(kid[8:10], "big")


def _said(name: CouponName) -> str:
    return f"coupon {name[1]} of epoch {_epoch(name[0])}"
