"""The forms of DLMS notifications that wait for a push profile, counted from stored failures."""

from datetime import datetime
from typing import NamedTuple

from ami_headend.core.sql import fetch_rows
from concentrators.failures.kinds import FailureKind
from concentrators.failures.queries import FailureSelection, newest
from meters.contents.push import NO_PROFILE

LOOKED_AT = 20_000  # frames, the newest first
_LISTED = 200
_REASON = NO_PROFILE.format(form="([0-9a-f]{16})", manufacturer="([0-9a-f]{6})", skeleton="")


class WaitingForm(NamedTuple):
    """Stored frames of one form and manufacturer (first 3 octets of titles) that no profile reads.

    ``form`` is the beginning of the skeleton's SHA-256 (8 octets). ``failure_id`` is the newest of them.
    """

    form: bytes
    manufacturer: bytes
    frames: int
    meters: int
    first_at: datetime
    last_at: datetime
    failure_id: int


def waiting_forms() -> list[WaitingForm]:
    """Return the forms with the newest frames, of the newest LOOKED_AT that wait; one query."""
    found, params = newest(FailureSelection(kinds=[FailureKind.UNKNOWN_PROFILE]), LOOKED_AT)
    rows = fetch_rows(
        f"""SELECT said[1], said[2], count(*), count(DISTINCT meter_id), min(received_at), max(received_at),
                   (array_agg(id ORDER BY received_at DESC, id DESC))[1]
            FROM (SELECT f.id, f.meter_id, f.received_at, regexp_match(f.detail, %s) AS said
                  FROM ({found}) AS page JOIN concentrators_integrityfailure f ON f.id = page.id) AS waiting
            WHERE said IS NOT NULL GROUP BY said[1], said[2] ORDER BY 6 DESC, 7 DESC LIMIT {_LISTED}""",
        _REASON,
        *params,
    )
    return [WaitingForm(bytes.fromhex(form), bytes.fromhex(maker), *others) for form, maker, *others in rows]
