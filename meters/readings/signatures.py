"""Signatures of meters over packs of readings: a page of them, and which readings each of them says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from ami_headend.core import keyset
from keyvault.coupons.forms import parse_reading
from meters.contents.plain import NAME_PREFIX
from meters.readings.queries import fetch
from meters.readings.senml import SenMLError, parse_pack
from meters.registry import groups

_KEY = ("captured_at", "meter_id", "epoch", "number")


class SignedValue(NamedTuple):
    """What a signature says: the value of a register, in its unit, at a time."""

    obis_code: str
    captured_at: datetime
    value: Decimal
    unit: str


class SignatureKey(NamedTuple):
    """A signature's place in the order: ``epoch`` and ``number`` are of its coupon."""

    captured_at: datetime
    meter_id: int
    epoch: int
    number: int


class SignatureRow(NamedTuple):
    """A signature of a meter (COSE_Sign1), and what it says; ``captured_at`` is the latest time of that.

    Of a pack that was refused ``captured_at`` is the time of receipt.
    """

    captured_at: datetime
    meter_id: int
    epoch: int
    number: int
    uplink: int
    octets: bytes
    says: list[SignedValue]

    @property
    def key(self) -> SignatureKey:
        return SignatureKey(*self[:4])


@dataclass(frozen=True)
class SignatureSelection:
    """Signatures whose latest time is in [start, end), after a key: of a meter, and of groups; None for all.

    ``obis_codes``: only those that say a register of these.
    """

    meter_id: int | None
    start: datetime
    end: datetime
    obis_codes: frozenset[str] | None = None
    after: SignatureKey | None = None
    group_ids: Sequence[int] | None = None


def page(selection: SignatureSelection, limit: int) -> tuple[list[SignatureRow], SignatureKey | None]:
    """Return the first signatures of a selection, oldest first, and the key of the next page; one query.

    A page may be short where few of them say a register that is asked for: only ``limit`` are looked at.
    SelectionError where the period is too long for the server to look through.
    """
    conditions, params = _where(selection)
    codes = selection.obis_codes
    rows = fetch(
        f"""SELECT captured_at, meter_id, epoch, number, uplink_id, octets FROM meters_signature
            WHERE {" AND ".join(conditions)} ORDER BY {", ".join(_KEY)} LIMIT %s""",
        [*params, limit],
    )
    found = [SignatureRow._make((*row, said(row[-1]))) for row in rows]
    shown = [row for row in found if codes is None or any(one.obis_code in codes for one in row.says)]
    return shown, found[-1].key if len(found) == limit else None


def count(selection: SignatureSelection, most: int) -> int:
    """Count the signatures of a selection, of whatever register, up to ``most``; one query. SelectionError as above."""
    conditions, params = _where(selection)
    rows = f"SELECT 1 FROM meters_signature WHERE {' AND '.join(conditions)} LIMIT %s"
    return int(fetch(f"SELECT count(*) FROM ({rows}) AS found", [*params, most])[0][0])


def _where(selection: SignatureSelection) -> tuple[list[str], list[Any]]:
    after = selection.after
    return keyset.given(
        ("captured_at >= %s", selection.start if after is None else max(selection.start, after.captured_at)),
        ("captured_at < %s", selection.end),
        ("meter_id = %s", selection.meter_id),
        groups.one_of(selection.group_ids),
        keyset.after(_KEY, after and tuple(after)),
    )


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
