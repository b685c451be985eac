"""The load profiles of a usage point as Green Button (NAESB ESPI 4.0): an Atom feed. Pure.

Times are seconds since 1970, and the feed says that its local time is UTC: a viewer converts them. Missing intervals
are left out, as each reading says its time. Only registers with a ReadingType are in it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import NamedTuple

from concentrators.feed.formats.event_message import name_id, time_text
from concentrators.feed.formats.meter_readings import Codes
from concentrators.feed.formats.series import Point, Series
from concentrators.feed.formats.units import base_value
from concentrators.feed.formats.xml_writer import XmlWriter
from meters.codes.qualities import Qualities
from meters.codes.reading_types import ReadingType

_ATOM, _ESPI = "http://www.w3.org/2005/Atom", "http://naesb.org/espi"
_ELECTRICITY = 0  # ServiceKind
_NO_DST = "FFFFFFFF"  # DstRuleType: no daylight saving time
_NORMAL = 12  # DataQualifierKind
_MULTIPLIERS = (-12, -9, -6, -3, -2, -1, 0, 1, 2, 3, 6, 9, 12)  # UnitMultiplierKind
_MINUTE_S, _DAY_S = 60, 86_400


class UsagePoint(NamedTuple):
    """What the feed is of: a number and a title, and where it was fetched."""

    number: int
    title: str
    address: str


class _Typed(NamedTuple):
    """A series with its number in the feed, its ReadingType, and the power of ten of the numbers that are written."""

    number: int
    series: Series
    reading_type: ReadingType
    multiplier: int


def green_button(point: UsagePoint, found: Sequence[Series], codes: Codes, now: datetime) -> Iterator[bytes]:
    """Yield the feed in parts, a day of intervals or less each."""
    typed: list[_Typed] = []
    for series in found:
        reading_type = codes.reading_types.of(series.obis_code, series.interval_minutes)
        if reading_type is not None and series.points:
            typed.append(_Typed(len(typed) + 1, series, reading_type, _multiplier(series)))
    xml = XmlWriter()
    with xml.element("feed", xmlns=_ATOM):
        xml.leaf("id", f"urn:uuid:{name_id(f'green-button/{point.number}')}")
        xml.leaf("title", point.title)
        xml.leaf("updated", time_text(now))
        xml.leaf("link", rel="self", href=point.address)
        _write_point(xml, point, typed, now)
        for one in typed:
            _write_types(xml, point, one, codes.qualities, now)
            yield xml.take()
            for day in _days(one.series):
                _write_block(xml, point, one, day, codes.qualities, now)
                yield xml.take()
    yield xml.take()


def _multiplier(series: Series) -> int:
    """Return the greatest multiplier that the format has and in which all values of a series are whole."""
    power = series.scaler + int(base_value(Decimal(1), series.unit)[0].log10())
    return max(one for one in _MULTIPLIERS if one <= power)


@contextmanager
def _entry(xml: XmlWriter, path: str, title: str, now: datetime, related: Sequence[str] = ()) -> Iterator[None]:
    """Write an entry around its content; ``path`` is its address below the feed's."""
    with xml.element("entry"):
        xml.leaf("id", f"urn:uuid:{name_id(f'green-button/{path}')}")
        xml.leaf("link", rel="self", href=path)
        xml.leaf("link", rel="up", href=path.rpartition("/")[0])
        for other in related:
            xml.leaf("link", rel="related", href=other)
        xml.leaf("title", title)
        with xml.element("content", type="xml"):
            yield
        xml.leaf("published", time_text(now))
        xml.leaf("updated", time_text(now))


def _path(point: UsagePoint, typed: _Typed | None = None) -> str:
    path = f"UsagePoint/{point.number}"
    return path if typed is None else f"{path}/MeterReading/{typed.number}"


def _write_point(xml: XmlWriter, point: UsagePoint, typed: Sequence[_Typed], now: datetime) -> None:
    related = [f"LocalTimeParameters/{point.number}", *(_path(point, one) for one in typed)]
    with _entry(xml, _path(point), point.title, now, related), xml.element("UsagePoint", xmlns=_ESPI):
        with xml.element("ServiceCategory"):
            xml.leaf("kind", _ELECTRICITY)
        xml.leaf("status", 1)
    with _entry(xml, related[0], "UTC", now), xml.element("LocalTimeParameters", xmlns=_ESPI):
        xml.leaf("dstEndRule", _NO_DST)
        xml.leaf("dstOffset", 0)
        xml.leaf("dstStartRule", _NO_DST)
        xml.leaf("tzOffset", 0)


def _write_types(xml: XmlWriter, point: UsagePoint, typed: _Typed, qualities: Qualities, now: datetime) -> None:
    """Write the entries of one register before its intervals."""
    title = f"{typed.series.obis_code}, {typed.series.interval_minutes} min"
    reading_type = f"ReadingType/{point.number}-{typed.number}"
    with _entry(xml, _path(point, typed), title, now, [f"{_path(point, typed)}/IntervalBlock", reading_type]):
        xml.leaf("MeterReading", xmlns=_ESPI)
    kind = typed.reading_type
    with _entry(xml, reading_type, title, now), xml.element("ReadingType", xmlns=_ESPI):
        xml.leaf("accumulationBehaviour", kind.accumulation)
        xml.leaf("commodity", kind.commodity)
        xml.leaf("dataQualifier", _NORMAL)
        xml.leaf("defaultQuality", qualities.worst([]).espi)
        xml.leaf("flowDirection", kind.flow)
        xml.leaf("intervalLength", typed.series.interval_minutes * _MINUTE_S)
        xml.leaf("kind", kind.kind)
        if kind.phases:
            xml.leaf("phase", kind.phases)
        xml.leaf("powerOfTenMultiplier", typed.multiplier)
        xml.leaf("timeAttribute", 0)
        if kind.rate:
            xml.leaf("tou", kind.rate)
        xml.leaf("uom", kind.unit)
        xml.leaf("measuringPeriod", kind.measuring_period)


def _days(series: Series) -> Iterator[list[Point]]:
    """Yield the intervals that are there, by the day (UTC) in which they begin."""
    there = (point for point in series.points if point.steps is not None)
    for _, points in groupby(there, key=lambda point: int(point.start.timestamp()) // _DAY_S):
        yield list(points)


def _write_block(
    xml: XmlWriter, point: UsagePoint, typed: _Typed, day: Sequence[Point], qualities: Qualities, now: datetime
) -> None:
    length_s = typed.series.interval_minutes * _MINUTE_S
    start_s, end_s = (int(one.start.timestamp()) for one in (day[0], day[-1]))
    path = f"{_path(point, typed)}/IntervalBlock/{start_s}"
    with _entry(xml, path, f"{day[0].start:%Y-%m-%d}", now), xml.element("IntervalBlock", xmlns=_ESPI):
        with xml.element("interval"):
            xml.leaf("duration", end_s - start_s + length_s)
            xml.leaf("start", start_s)
        for one in day:
            with xml.element("IntervalReading"):
                quality = qualities.worst([one.fact]).espi
                if quality != qualities.worst([]).espi:
                    with xml.element("ReadingQuality"):
                        xml.leaf("quality", quality)
                with xml.element("timePeriod"):
                    xml.leaf("duration", length_s)
                    xml.leaf("start", int(one.start.timestamp()))
                value = base_value(typed.series.value(one), typed.series.unit)[0]
                xml.leaf("value", int(value.scaleb(-typed.multiplier)))
