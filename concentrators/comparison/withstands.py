"""What each scheme withstands, for readings: one home for these facts. tests/concentrators/comparison holds them. Pure.

Keys are stored or derived ones; ``agreed`` ones are lost with the agreement key in every scheme, and those of ``dlms``
are stored. Events are plain in every scheme: of what is signed or masked, readings alone are told of.
"""

from collections.abc import Mapping
from enum import Flag
from types import MappingProxyType

from concentrators.comparison.subjects import SHARED


class Power(Flag):
    """What an attacker can do with readings."""

    NOTHING = 0
    READS = 1
    FORGES = 2
    READS_AND_FORGES = 3

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS = {
    Power.NOTHING: "nothing",
    Power.READS: "reads",
    Power.FORGES: "forges",
    Power.READS_AND_FORGES: "reads, forges",
}
_NO, _R, _F, _RF = Power.NOTHING, Power.READS, Power.FORGES, Power.READS_AND_FORGES

# The attackers, each with its title in tables and a sentence.
THREATS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "meter_before": ("opened meter, before", "has a meter's secrets, and recorded what it sent before"),
        "meter_after": ("opened meter, after", "has a meter's secrets, and speaks for that meter from then on"),
        "other_meters": ("opened meter, others", "has a meter's secrets, and turns to other meters"),
        "concentrator": ("opened concentrator", "has a concentrator with its keys"),
        "rekeyed": (
            "the same, later re-keyed",
            "had its keys, and turns to what comes after it and its meters were given new ones",
        ),
        "database_stored": (
            "leaked database, stored",
            "has a copy of the database, without the master key: what was accepted stands in it",
        ),
        "database_frames": (
            "leaked database, frames",
            "has the same copy, and hears and may change everything on the way from then on",
        ),
        "master_key": ("master key", "has the master key and the database"),
        "fleet_key": ("fleet key", "has the fleet key that the device keys are derived from"),
        "agreement_key": ("agreement key", "has the head-end's agreement key alone"),
        "eavesdropper": ("eavesdropper", "hears and may change everything on the way, and has no key"),
        "replay": ("replay", "sends again what a meter sent before"),
    }
)
PROOF, PRIVACY = "proof to third parties", "private from the head-end"

_CCM = {
    "meter_before": _R,
    "meter_after": _RF,
    "other_meters": _NO,
    "concentrator": _NO,
    "rekeyed": _NO,
    "database_stored": _R,
    "database_frames": _NO,
    "master_key": _RF,
    "fleet_key": _RF,
    "agreement_key": _NO,
    "eavesdropper": _NO,
    "replay": _NO,
}
_IN_CLEAR = {name: power | _R for name, power in _CCM.items() if name not in ("replay", "other_meters")}
_ENVELOPES: dict[str, dict[str, Power]] = {
    "ccm": _CCM,
    "session": _CCM,
    "mac": _CCM | _IN_CLEAR | {"other_meters": _R},
    "hop": _CCM | {"concentrator": _RF},
    "hop tag": _CCM,
    "sealed": _CCM | {"meter_before": _NO, "fleet_key": _F},
    "dlms": _CCM | {"fleet_key": _NO},
    "dlms in clear": _CCM | _IN_CLEAR | {"other_meters": _R, "fleet_key": _R},
    # A stream cipher without a tag: who flips a bit of the ciphertext flips that of the reading.
    "dlms without tag": _CCM
    | dict.fromkeys(("fleet_key", "agreement_key", "concentrator", "rekeyed", "eavesdropper", "other_meters"), _F)
    | {"database_frames": _F},
}
_SIGNED, _MASKED = ("signed", "Ed25519"), "masked"
# Whoever has the meter itself signs with it, and takes off its masks.
_OF_THE_METER = ("meter_before", "meter_after")


def withstands(name: str, envelope: str, content: str) -> dict[str, Power]:
    """What each attacker can do with the readings of a scheme."""
    found = dict(_ENVELOPES[envelope])
    if name == SHARED:
        found["other_meters"] = _RF
    for threat, power in found.items():
        if threat not in _OF_THE_METER:
            if content in _SIGNED:
                found[threat] = power & ~_F
            elif content == _MASKED:
                found[threat] = power & ~_R
    return found


def is_proof(content: str) -> bool:
    """Whether a reading proves to third parties that its meter measured it, without trust in the head-end."""
    return content in _SIGNED


def is_private(content: str) -> bool:
    """Whether the head-end learns no single reading."""
    return content == _MASKED
