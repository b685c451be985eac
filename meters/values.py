"""The values of payloads, the places where they are stored, and the reasons to reject a payload. Pure."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple


class Value(NamedTuple):
    """One value of one register at one time: whole Unix seconds, steps of the register's resolution.

    ``interval_minutes`` is 0 except for interval registers; an event becomes a meter event, not a reading. A masked
    value (0 to 2^64 - 1) is stored apart from readings.
    """

    captured_s: int
    register_id: int
    value: int
    interval_minutes: int
    is_event: bool
    is_masked: bool = False


LAST_S = 2**38  # a Unix second after all that frames can name


class PayloadTimes(NamedTuple):
    """The times that a payload may name, in Unix seconds: from the start of retention to now plus the allowed skew.

    An interval has to be over by ``latest_s``.
    """

    earliest_s: int
    latest_s: int


class PayloadRefusal(StrEnum):
    """Why an authentic payload is rejected."""

    ALGORITHM_MISMATCH = "algorithm_mismatch"  # another content than that of the meter's scheme
    PAYLOAD_INVALID = "payload_invalid"
    UNKNOWN_PROFILE = "unknown_profile"
    IDENTITY_MISMATCH = "identity_mismatch"
    TOO_OLD = "too_old"
    UNKNOWN_REGISTER = "unknown_register"
    REGISTRY_MISMATCH = "registry_mismatch"
    IMPLAUSIBLE = "implausible"
    CLOCK_SKEW = "clock_skew"


class PayloadError(ValueError):
    """The payload of an authentic frame is rejected; ``reason`` says why. The meter is wrong, or its key was cloned.

    unknown_profile, unknown_register, registry_mismatch, implausible and clock_skew may also be faults of the head-end:
    a push profile, the catalogue, the registered interval length, the bounds or our clock. For the last three
    ``values`` has the values of the payload; for registry_mismatch only if all could be read in steps of the register.
    """

    def __init__(self, reason: PayloadRefusal, detail: str, values: "list[Value] | None" = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.values = values


# A value to be stored: the meter's id, the value, the uplink that brought it, and the number of the scheme that
# protected it (docs/frame.md section 10; None of the usual one).
NewValue = tuple[int, Value, int, int | None]


class NewSignature(NamedTuple):
    """A signature to be stored: the meter's id, when it is kept for (Unix seconds), its coupon's epoch and number, the
    uplink that brought it, and its octets (COSE_Sign1 with the pack that it signs).
    """

    meter_id: int
    captured_s: int
    epoch: int
    number: int
    uplink_id: int
    octets: bytes


# A stored value, and the id of the uplink that brought it.
Standing = tuple[int, int]
# Where a value goes: meter id, register id, Unix second; and of an event what it says, which makes it this one, of a
# masked value MASKED.
Spot = tuple[int, int, int, int | None]
MASKED = 2**64  # no event says as much


def spot(meter_id: int, value: Value) -> Spot:
    """Return the place of a value: it has room for one reading, one masked value, and each event of a second."""
    if value.is_masked:
        return meter_id, value.register_id, value.captured_s, MASKED
    return meter_id, value.register_id, value.captured_s, value.value if value.is_event else None


def iso(unix_s: int) -> str:
    """Format a Unix second in UTC (RFC 3339), or as a number if it is beyond the calendar."""
    try:
        return f"{datetime.fromtimestamp(0, UTC) + timedelta(seconds=unix_s):%Y-%m-%dT%H:%M:%SZ}"
    except OverflowError:
        return f"Unix second {unix_s}"
