"""The load profiles of a usage point as NotifyValidatedMeasureData_MarketDocument (IEC 62325-451; RSM-012). Pure.

A Series of the document is of one register and one interval length. Its interval begins before it ends, and has a point
for each position; one that is missing has no quantity, and the quality A02.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from concentrators.feed.formats.event_message import name_id, time_text
from concentrators.feed.formats.series import Series
from concentrators.feed.formats.units import base_value, value_text
from concentrators.feed.formats.xml_writer import XmlWriter
from meters.codes.qualities import Qualities

_NAMESPACE = "urn:ediel.org:measure:notifyvalidatedmeasuredata:0:1"
_TYPE, _PROCESS, _SECTOR = "E66", "E23", "23"  # validated metered data; periodic metering; electricity
PARTY_LENGTH, POINT_LENGTH, POSITIONS_MAX = 16, 35, 999_999
# Code lists of the document, as far as a head-end needs them.
SCHEMES = {"A10": "GS1", "A01": "EIC", "NDK": "Denmark", "NFI": "Finland", "NNO": "Norway", "NSE": "Sweden"}
ROLES = {
    "MDR": "metered data responsible",
    "DGL": "metered data administrator",
    "DEA": "metered data aggregator",
    "DDM": "grid access provider",
    "DDQ": "energy supplier",
    "DDZ": "metering point administrator",
    "EZ": "system operator",
}
_POINTS_AT_ONCE = 5_000
_KILO = 3


class _Energy(NamedTuple):
    """How the document names a kind of energy."""

    point_type: str
    product: str
    unit: str


# Consumption and production; reactive energy is an exchange. Units of UN/ECE: KWH, and K3 for kvarh.
_ENERGIES = {
    "1": _Energy("E17", "8716867000030", "KWH"),
    "2": _Energy("E18", "8716867000030", "KWH"),
    "3": _Energy("E20", "8716867000047", "K3"),
    "4": _Energy("E20", "8716867000047", "K3"),
}
_BASE_UNITS = {"KWH": "Wh", "K3": "varh"}


class Party(NamedTuple):
    """A market participant: its identification, the list it is from (A10: GS1, A01: EIC), and its role."""

    mrid: str
    scheme: str
    role: str


class Exchange(NamedTuple):
    """Who sends to whom, and which metering point the document is about."""

    sender: Party
    receiver: Party
    point_mrid: str
    point_scheme: str


def is_known(series: Series) -> bool:
    """Whether the document has a name for a register: an active or reactive energy of one interval."""
    return _energy(series) is not None


def document(
    exchange: Exchange, found: Sequence[Series], qualities: Qualities, now: datetime, message_id: UUID
) -> Iterator[bytes]:
    """Yield the document in parts; registers that it has no name for are left out."""
    xml = XmlWriter()
    with xml.element("cim:NotifyValidatedMeasureData_MarketDocument", xmlns_cim=_NAMESPACE):
        xml.leaf("cim:mRID", message_id)
        xml.leaf("cim:type", _TYPE)
        xml.leaf("cim:process.processType", _PROCESS)
        xml.leaf("cim:businessSector.type", _SECTOR)
        for name, party in (("sender", exchange.sender), ("receiver", exchange.receiver)):
            xml.leaf(f"cim:{name}_MarketParticipant.mRID", party.mrid, codingScheme=party.scheme)
            xml.leaf(f"cim:{name}_MarketParticipant.marketRole.type", party.role)
        xml.leaf("cim:createdDateTime", time_text(now))
        for series in found:
            energy = _energy(series)
            if energy is not None and series.points:
                yield from _series(xml, exchange, series, energy, qualities, now, message_id)
    yield xml.take()


def _energy(series: Series) -> _Energy | None:
    group = series.obis_code.partition(":")[2].partition(".")[0]
    energy = _ENERGIES.get(group)
    base = base_value(series.value(series.points[0]), series.unit)[1] if series.points else series.unit
    return energy if energy is not None and base == _BASE_UNITS[energy.unit] else None


def _series(
    xml: XmlWriter,
    exchange: Exchange,
    series: Series,
    energy: _Energy,
    qualities: Qualities,
    now: datetime,
    message_id: UUID,
) -> Iterator[bytes]:
    with xml.element("cim:Series"):
        xml.leaf("cim:mRID", name_id(f"{message_id}/{series.obis_code}/{time_text(series.start)}"))
        xml.leaf("cim:marketEvaluationPoint.mRID", exchange.point_mrid, codingScheme=exchange.point_scheme)
        xml.leaf("cim:marketEvaluationPoint.type", energy.point_type)
        xml.leaf("cim:registration_DateAndOrTime.dateTime", time_text(now))
        xml.leaf("cim:product", energy.product)
        xml.leaf("cim:quantity_Measure_Unit.name", energy.unit)
        with xml.element("cim:Period"):
            xml.leaf("cim:resolution", _resolution(series.interval_minutes))
            with xml.element("cim:timeInterval"):
                xml.leaf("cim:start", _minute(series.start))
                xml.leaf("cim:end", _minute(series.end))
            for position, point in enumerate(series.points, 1):
                with xml.element("cim:Point"):
                    xml.leaf("cim:position", position)
                    if point.steps is not None:
                        xml.leaf("cim:quantity", value_text(series.value(point), series.unit, _KILO))
                    xml.leaf("cim:quality", qualities.worst([point.fact]).nordic)
                if position % _POINTS_AT_ONCE == 0:
                    yield xml.take()
    yield xml.take()


def _resolution(minutes: int) -> str:
    """Write a length as xs:duration, in hours or a day where it is one."""
    if minutes == 1440:
        return "P1D"
    return f"PT{minutes // 60}H" if minutes % 60 == 0 else f"PT{minutes}M"


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%MZ}"
