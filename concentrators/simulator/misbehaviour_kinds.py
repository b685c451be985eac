"""The misbehaviours and faults that a run can be asked for, by name and rate. No Django."""

from enum import StrEnum

from concentrators.simulator.obedience import Fault


class Misbehaviour(StrEnum):
    """What can go wrong, by its name in ``--misbehave``."""

    BIT_FLIP = "bit_flip"
    REPLAY = "replay"
    OLD_REPLAY = "old_replay"
    WRONG_KEY = "wrong_key"
    UNKNOWN_METER = "unknown_meter"
    REUSED_COUNTER = "reused_counter"
    CONFLICT = "conflict"
    CLOCK_AHEAD = "clock_ahead"
    BEFORE_RETENTION = "before_retention"
    GARBAGE = "garbage"
    REORDER = "reorder"
    LATE = "late"
    SECOND_CONCENTRATOR = "second_concentrator"
    BAD_PAYLOAD = "bad_payload"
    UNKNOWN_REGISTER = "unknown_register"
    REGISTRY_MISMATCH = "registry_mismatch"
    IMPLAUSIBLE = "implausible"
    IDENTITY = "identity"
    ALGORITHM = "algorithm"
    SUSPENDED = "suspended"
    RETIRED_KEY = "retired_key"
    OPENED_METER = "opened_meter"
    SESSION_AHEAD = "session_ahead"
    CONTEXT_REPEATED = "context_repeated"
    SMALL_ORDER = "small_order"
    WRONG_VERSION = "wrong_version"
    HOP_TAG_FORGED = "hop_tag_forged"
    HOP_TAG_MISDIRECTED = "hop_tag_misdirected"
    HOP_TAG_MISSING = "hop_tag_missing"
    HOP_TAG_WORN = "hop_tag_worn"
    HOP_REPLAY = "hop_replay"
    READING_PAST_CONCENTRATOR = "reading_past_concentrator"
    FOREIGN_REPORT = "foreign_report"
    LYING_SUM = "lying_sum"
    PLAIN_VALUE = "plain_value"
    SIGNATURE_FORGED = "signature_forged"
    COUPON_UNKNOWN = "coupon_unknown"
    COUPON_REUSED = "coupon_reused"
    COUPON_LIST_TWICE = "coupon_list_twice"
    MOVED_COLUMN = "moved_column"
    # Not rates: one meter of each scheme, or of that scheme, does it once.
    OLD_COUNTER = "old_counter"
    SESSION_FLOOD = "session_flood"
    CERTIFICATES = "certificates"
    # Of the run's mask authorities: one is away for a time; one is restored to a state before it answered.
    AUTHORITY_AWAY = "authority_away"
    AUTHORITY_RESTORED = "authority_restored"


ONCE = frozenset(
    {
        Misbehaviour.OLD_COUNTER,
        Misbehaviour.SESSION_FLOOD,
        Misbehaviour.CERTIFICATES,
        Misbehaviour.AUTHORITY_AWAY,
        Misbehaviour.AUTHORITY_RESTORED,
    }
)


# A value that conflicts with a stored one has the head-end judge again all frames that it judged together with it.
DEFAULT_RATES = dict.fromkeys(Misbehaviour, 0.002) | {
    Misbehaviour.REORDER: 0.02,
    Misbehaviour.LATE: 0.01,
    Misbehaviour.CONFLICT: 0.0001,
}


class RatesError(ValueError):
    """The text of --misbehave cannot be used: the caller's mistake."""


def parse_rates(text: str) -> dict[str, float]:
    """Rates per genuine frame from ``all``, ``all=0.001`` or ``name=rate,...``; later parts win."""
    rates: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        try:
            rate = float(number) if number else None
        except ValueError:
            raise RatesError(f"{part!r}: {number!r} is not a number") from None
        if rate is not None and not 0 <= rate <= 0.5:
            raise RatesError(f"{part!r}: a rate is 0 to 0.5 of the genuine frames")
        if name == "all":
            kinds = list(Misbehaviour)
        elif name in list(Misbehaviour):
            kinds = [Misbehaviour(name)]
        else:
            raise RatesError(f"no misbehaviour is called {name!r}; there are: all, {', '.join(Misbehaviour)}")
        rates.update({kind.value: DEFAULT_RATES[kind] if rate is None else rate for kind in kinds})
    total = sum(rates.values())
    if total > 1:
        raise RatesError(f"the rates add up to {total:g}, more than every frame")
    return {name: rate for name, rate in rates.items() if rate}


def parse_faults(text: str) -> dict[str, float]:
    """Rates per command from ``name=rate,...``; later parts win."""
    rates: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        if name not in list(Fault):
            raise RatesError(f"no fault of a command is called {name!r}; there are: {', '.join(Fault)}")
        try:
            rates[name] = float(number)
        except ValueError:
            raise RatesError(f"{part!r}: {number!r} is not a number") from None
    if not all(0 <= rate <= 1 for rate in rates.values()) or sum(rates.values()) > 1:
        raise RatesError("rates of faults are 0 to 1, and add up to 1 at most")
    return rates
