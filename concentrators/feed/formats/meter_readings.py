"""Readings as MeterReadings of IEC 61968-9, in an EventMessage. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from concentrators.feed.formats.event_message import (
    Header,
    event_message,
    time_text,
    write_meter,
    write_names,
)
from concentrators.feed.formats.profile import NAMESPACES, Profile
from concentrators.feed.formats.units import value_text
from concentrators.feed.formats.xml_writer import XmlWriter
from concentrators.feed.rows import Change, ReadingRow
from meters.codes.qualities import Fact, Qualities
from meters.codes.reading_types import ReadingType, ReadingTypes


class Codes(NamedTuple):
    """The tables that a message takes its codes from."""

    reading_types: ReadingTypes
    qualities: Qualities


class _Typed(NamedTuple):
    """A reading, the ref of its ReadingType, and the power of ten that it is counted in."""

    row: ReadingRow
    ref: str
    multiplier: int


def message(rows: Sequence[ReadingRow], profile: Profile, codes: Codes, header: Header) -> bytes:
    """Return one message with these readings, grouped by meter and place in the order of their first readings."""
    by_meter: dict[tuple[str, str | None], list[_Typed]] = {}
    for row in rows:
        if (typed := _typed(row, profile, codes.reading_types)) is not None:
            by_meter.setdefault((row.system_title, row.usage_point), []).append(typed)
    xml = XmlWriter()
    with (
        event_message(xml, profile, header),
        xml.element("MeterReadings", xmlns=NAMESPACES[profile.year].readings),
    ):
        for (_, usage_point), readings in by_meter.items():
            with xml.element("MeterReading"):
                _write_blocks(xml, readings, profile, codes.qualities)
                with xml.element("Meter"):
                    write_meter(xml, readings[0].row, profile)
                _write_readings(xml, readings, codes.qualities)
                if usage_point is not None:
                    with xml.element("UsagePoint"):
                        write_names(xml, usage_point, "Place")
    return xml.take()


def _typed(row: ReadingRow, profile: Profile, reading_types: ReadingTypes) -> _Typed | None:
    found: ReadingType | None = reading_types.of(row.obis_code, row.interval_minutes, in_kilo=profile.energy == "kWh")
    if found is None:
        return None if profile.unmapped == "omit" else _Typed(row, row.obis_code, 0)
    return _Typed(row, found.text, found.multiplier)


def _write_blocks(xml: XmlWriter, readings: Sequence[_Typed], profile: Profile, qualities: Qualities) -> None:
    """Write the intervals, in a block for each ReadingType."""
    by_ref: dict[str, list[_Typed]] = {}
    for typed in readings:
        if typed.row.interval_minutes:
            by_ref.setdefault(typed.ref, []).append(typed)
    for ref, block in by_ref.items():
        with xml.element("IntervalBlocks"):
            for typed in block:
                at = typed.row.interval_end if profile.interval_time == "end" else typed.row.interval_start
                with xml.element("IntervalReadings"):
                    _write_value(xml, typed, time_text(at or typed.row.captured_at), qualities)
            xml.leaf("ReadingType", ref=ref)


def _write_readings(xml: XmlWriter, readings: Sequence[_Typed], qualities: Qualities) -> None:
    """Write the values that are of no interval."""
    for typed in readings:
        if not typed.row.interval_minutes:
            with xml.element("Readings"):
                _write_value(xml, typed, time_text(typed.row.captured_at), qualities)
                xml.leaf("ReadingType", ref=typed.ref)


def _write_value(xml: XmlWriter, typed: _Typed, at: str, qualities: Qualities) -> None:
    row = typed.row
    if row.received_at is not None:
        xml.leaf("reportedDateTime", time_text(row.received_at))
    xml.leaf("timeStamp", at)
    xml.leaf("value", value_text(row.value, row.unit, typed.multiplier))
    facts = {Fact(one.value) for one in row.quality}
    if row.change is Change.RELABELLED:
        facts.add(Fact.RELABELLED)
    for fact, quality in qualities.of(facts):
        with xml.element("ReadingQualities"):
            if fact is not Fact.AUTHENTIC:
                xml.leaf("comment", _comment(fact, row))
            xml.leaf("ReadingQualityType", ref=quality.cim)


def _comment(fact: Fact, row: ReadingRow) -> str:
    if fact is Fact.RELABELLED and row.former_interval_minutes is not None:
        return f"was told as an interval of {row.former_interval_minutes} minutes"
    return fact.value.replace("_", " ")
