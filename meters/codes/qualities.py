"""Codes for the quality of a reading, from facts about it. Pure.

``cim`` is a ReadingQualityType (IEC 61968-9: system.category.index; system 1 is the end device, 2 the metering system).
``espi`` is a QualityOfReading of Green Button, ``nordic`` the quality of a point in the Nordic documents (A02 not
available, A03 estimated, A04 as provided, A05 incomplete). The codes are those seen at TPC, Elering, NetStream and
Energyworx; where ``is_verified`` is false they are our own choice.
"""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

_CIM = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,6}", re.ASCII)
_NORDIC = ("A01", "A02", "A03", "A04", "A05", "A06")


class Fact(StrEnum):
    """What is known about a reading. The first in this order that holds is the quality where only one may be said."""

    MISSING = "missing"
    FAILED = "failed"  # a check of validation
    UNAUTHENTICATED = "unauthenticated"
    UNKNOWN_PROTECTION = "unknown_protection"
    ESTIMATED = "estimated"
    EDITED = "edited"
    RELABELLED = "relabelled"  # told before with another interval length, which was wrong
    PARTIAL = "partial_interval"
    SKIPPED = "skipped_interval"
    POWER_FAILURE = "power_failure"
    CLOCK_SET_FORWARD = "clock_set_forward"
    CLOCK_SET_BACK = "clock_set_back"
    CLOCK_CHANGED = "clock_changed"
    TRUSTED_AT_CONCENTRATOR = "trusted_at_concentrator"
    CARRIED_IN_CLEAR = "carried_in_clear"
    PASSED = "passed"  # all checks of validation
    SIGNED = "signed"
    AUTHENTIC = "authentic"


class Quality(NamedTuple):
    """The codes of one fact."""

    cim: str
    espi: int
    nordic: str
    is_verified: bool = True


SHIPPED: Mapping[Fact, Quality] = {
    Fact.AUTHENTIC: Quality("1.0.0", 14, "A04"),
    Fact.PASSED: Quality("2.0.1", 17, "A04"),
    Fact.FAILED: Quality("2.6.0", 10, "A04"),
    Fact.SIGNED: Quality("1.0.0", 14, "A04"),
    Fact.CARRIED_IN_CLEAR: Quality("1.0.0", 14, "A04"),
    Fact.TRUSTED_AT_CONCENTRATOR: Quality("1.0.0", 14, "A04", is_verified=False),
    Fact.UNAUTHENTICATED: Quality("2.10.0", 10, "A04", is_verified=False),
    Fact.UNKNOWN_PROTECTION: Quality("2.10.0", 10, "A04", is_verified=False),
    Fact.MISSING: Quality("2.5.259", 10, "A02"),
    Fact.ESTIMATED: Quality("2.8.0", 8, "A03"),
    Fact.EDITED: Quality("2.7.0", 7, "A04"),
    Fact.RELABELLED: Quality("2.7.0", 7, "A04", is_verified=False),
    Fact.PARTIAL: Quality("1.4.2", 13, "A05"),
    Fact.SKIPPED: Quality("1.4.4", 10, "A05"),
    Fact.POWER_FAILURE: Quality("1.2.32", 14, "A04"),
    Fact.CLOCK_CHANGED: Quality("1.4.9", 13, "A04"),
    Fact.CLOCK_SET_FORWARD: Quality("1.4.64", 13, "A04"),
    Fact.CLOCK_SET_BACK: Quality("1.4.128", 13, "A04"),
}
_ORDER = {fact: place for place, fact in enumerate(Fact)}


class Qualities:
    """The codes of facts: the shipped ones, and those of the site instead."""

    def __init__(self, of_site: Mapping[Fact, Quality] | None = None) -> None:
        self.entries = {**SHIPPED, **(of_site or {})}

    def of(self, facts: Iterable[Fact]) -> list[tuple[Fact, Quality]]:
        """Return the codes of facts, the worst first."""
        return [(fact, self.entries[fact]) for fact in sorted(set(facts), key=_ORDER.__getitem__)]

    def worst(self, facts: Iterable[Fact]) -> Quality:
        """Return the codes of the first fact in the order of ``Fact``, for formats that say one; AUTHENTIC if none."""
        return self.entries[min(facts, key=_ORDER.__getitem__, default=Fact.AUTHENTIC)]


def of_caveat(caveat: str) -> Fact:
    """Return the fact that a caveat of a scheme says (``keyvault/schemes/table.py``); AUTHENTIC for none."""
    if not caveat:
        return Fact.AUTHENTIC
    said = caveat.removeprefix("events ").replace(" the ", " ").replace(" ", "_")
    return Fact(said) if said in list(Fact) else Fact.UNKNOWN_PROTECTION


def parse_quality(value: Mapping[str, object]) -> Quality:
    """Return the codes that an entry says; ValueError with what is wrong."""
    cim, espi, nordic = value.get("cim"), value.get("espi"), value.get("nordic")
    if not isinstance(cim, str) or not _CIM.fullmatch(cim):
        raise ValueError("cim: a ReadingQualityType of three numbers with dots, such as 2.6.0")
    if not isinstance(espi, int) or isinstance(espi, bool) or not 0 <= espi <= 255:
        raise ValueError("espi: a QualityOfReading, a whole number from 0 to 255")
    if nordic not in _NORDIC:
        raise ValueError(f"nordic: one of {', '.join(_NORDIC)}")
    return Quality(cim, espi, str(nordic))


def written(quality: Quality) -> dict[str, object]:
    """Return codes as an entry, as ``parse_quality`` reads it."""
    return {"cim": quality.cim, "espi": quality.espi, "nordic": quality.nordic}
