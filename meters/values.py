"""What payloads say, where it is stored, and why a payload is refused. Pure."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple


class Value(NamedTuple):
    """One value of one register at one time: whole Unix seconds, steps of the register's resolution.

    ``interval_minutes`` is 0 but for interval registers; an event becomes a meter event, not a reading. A masked value
    (0 to 2^64 - 1) is stored apart from readings.
    """

    captured_s: int
    register_id: int
    value: int
    interval_minutes: int
    is_event: bool
    is_masked: bool = False


LAST_S = 2**38  # a Unix second after all that frames may name


class PayloadTimes(NamedTuple):
    """Which times a payload may name, in Unix seconds: from retention's start to now plus the skew allowed.

    An interval has to be over by ``latest_s``.
    """

    earliest_s: int
    latest_s: int


class PayloadRefusal(StrEnum):
    """Why an authentic payload is refused."""

    ALGORITHM_MISMATCH = "algorithm_mismatch"  # of another content than the meter's scheme has
    PAYLOAD_INVALID = "payload_invalid"
    UNKNOWN_PROFILE = "unknown_profile"
    IDENTITY_MISMATCH = "identity_mismatch"
    TOO_OLD = "too_old"
    UNKNOWN_REGISTER = "unknown_register"
    REGISTRY_MISMATCH = "registry_mismatch"
    IMPLAUSIBLE = "implausible"
    CLOCK_SKEW = "clock_skew"


class PayloadError(ValueError):
    """An authentic frame whose payload is refused; ``reason`` says why. The meter's mistake, or a cloned key.

    But unknown_profile, unknown_register, registry_mismatch, implausible and clock_skew may be ours: a push profile,
    the catalogue, the registered interval length, the bounds or our clock. Of the last three ``values`` holds what the
    payload says; of registry_mismatch where all of it could be read in the register's steps.
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


# A value that stands already, and the id of the uplink that brought it.
Standing = tuple[int, int]
# Where a value goes: meter id, register id, Unix second; and of an event what it says, which makes it this one, of a
# masked value MASKED.
Spot = tuple[int, int, int, int | None]
MASKED = 2**64  # no event says as much


def spot(meter_id: int, value: Value) -> Spot:
    """Where a value goes: there is room for one reading, one masked value, and for each event of a second."""
    if value.is_masked:
        return meter_id, value.register_id, value.captured_s, MASKED
    return meter_id, value.register_id, value.captured_s, value.value if value.is_event else None


def iso(unix_s: int) -> str:
    """A Unix second as reasons tell it, in UTC (RFC 3339), or as a number where no calendar goes so far."""
    try:
        return f"{datetime.fromtimestamp(0, UTC) + timedelta(seconds=unix_s):%Y-%m-%dT%H:%M:%SZ}"
    except OverflowError:
        return f"Unix second {unix_s}"
