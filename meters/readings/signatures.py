"""Signatures of meters over packs of readings: a page of one meter's, and which readings each of them says."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from ami_headend.core import keyset
from keyvault.coupons.forms import parse_reading
from meters.contents.plain import NAME_PREFIX
from meters.readings.queries import fetch
from meters.readings.senml import SenMLError, parse_pack

_KEY = ("captured_at", "epoch", "number")


class SignedValue(NamedTuple):
    """What a signature says: the value of a register, in its unit, at a time."""

    obis_code: str
    captured_at: datetime
    value: Decimal
    unit: str


class SignatureKey(NamedTuple):
    """A signature's place in the order of those of its meter: ``epoch`` and ``number`` are of its coupon."""

    captured_at: datetime
    epoch: int
    number: int


class SignatureRow(NamedTuple):
    """A signature of a meter (COSE_Sign1), and what it says; ``captured_at`` is the latest time of that.

    Of a pack that was refused ``captured_at`` is the time of receipt.
    """

    captured_at: datetime
    epoch: int
    number: int
    uplink: int
    octets: bytes
    says: list[SignedValue]

    @property
    def key(self) -> SignatureKey:
        return SignatureKey(*self[:3])


class SignatureSelection(NamedTuple):
    """Signatures of a meter whose latest time is in [start, end), after a key; those that say a register, if given."""

    meter_id: int
    start: datetime
    end: datetime
    obis_codes: frozenset[str] | None = None
    after: SignatureKey | None = None


def page(selection: SignatureSelection, limit: int) -> tuple[list[SignatureRow], SignatureKey | None]:
    """Return the first signatures of a selection, oldest first, and the key of the next page; one query.

    A page may be short where few of them say a register that is asked for: only ``limit`` are looked at.
    SelectionError where the period is too long for the server to look through.
    """
    meter_id, start, end, codes, after = selection
    conditions, params = keyset.given(
        ("captured_at >= %s", start if after is None else max(start, after.captured_at)),
        ("captured_at < %s", end),
        ("meter_id = %s", meter_id),
        keyset.after(_KEY, after and tuple(after)),
    )
    rows = fetch(
        f"""SELECT captured_at, epoch, number, uplink_id, octets FROM meters_signature
            WHERE {" AND ".join(conditions)} ORDER BY captured_at, epoch, number LIMIT %s""",
        [*params, limit],
    )
    found = [SignatureRow(at, epoch, number, uplink, sign1, said(sign1)) for at, epoch, number, uplink, sign1 in rows]
    shown = [row for row in found if codes is None or any(one.obis_code in codes for one in row.says)]
    return shown, found[-1].key if len(found) == limit else None


def walk(meter_id: int, start: datetime, end: datetime, limit: int = 1000) -> Iterator[SignatureRow]:
    """All signatures of a meter whose latest time is in [start, end), a query for each page."""
    after = None
    while True:
        rows, after = page(SignatureSelection(meter_id, start, end, after=after), limit)
        yield from rows
        if after is None:
            return


def said(octets: bytes) -> list[SignedValue]:
    """What a stored signature says; nothing where it encloses no pack that can be read, which spent its coupon too."""
    signed = parse_reading(octets)
    try:
        records = parse_pack(signed.payload)
    except SenMLError:
        return []
    prefix = f"{NAME_PREFIX}{signed.kid[:8].hex()}:"
    return [
        SignedValue(
            one.name.removeprefix(prefix), datetime.fromtimestamp(one.time_s, UTC), Decimal(one.value), one.unit
        )
        for one in records
    ]
