"""Readings in the octets of PostgreSQL's binary COPY (PostgreSQL documentation, COPY, "Binary Format"). Pure."""

import struct
from collections.abc import Sequence

from meters.values import NewValue

PG_EPOCH_S = 946_684_800  # PostgreSQL counts microseconds from 2000-01-01
COPY_HEAD = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
COPY_TAIL = b"\xff\xff"
# Seven fields, each with its length: the primary key first, so that rows sort like the index by their octets. The last
# is the scheme, which the usual one leaves NULL.
_USUAL = struct.Struct("!hiqiiihiqiqihi")
_OF_SCHEME = struct.Struct("!hiqiiihiqiqihih")
_NULL = -1
USUAL_OCTETS = _USUAL.size
OF_SCHEME_OCTETS = _OF_SCHEME.size
# Where the numbers of a row lie: captured_at (microseconds from 2000), meter, register, value, uplink, minutes, scheme.
FIELDS = ((6, 8), (18, 4), (26, 2), (32, 8), (44, 8), (56, 2), (62, 2))


def rows_of(values: Sequence[NewValue]) -> list[bytes]:
    """Return a row for each value, in the order of the primary key."""
    usual, of_scheme = _USUAL.pack, _OF_SCHEME.pack
    zero = PG_EPOCH_S
    # fmt: off
    rows = [
        usual(7, 8, (at_s - zero) * 1_000_000, 4, meter, 2, register, 8, steps, 8, uplink, 2, minutes, _NULL)
        if scheme is None else
        of_scheme(7, 8, (at_s - zero) * 1_000_000, 4, meter, 2, register, 8, steps, 8, uplink, 2, minutes, 2, scheme)
        for meter, (at_s, register, steps, minutes, _, _), uplink, scheme in values
    ]
    # fmt: on
    rows.sort()
    return rows


def captured_s(row: bytes) -> int:
    """Return the Unix second of a row."""
    first, octets = FIELDS[0]
    return int.from_bytes(row[first : first + octets], "big", signed=True) // 1_000_000 + PG_EPOCH_S
