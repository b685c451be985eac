"""Meter events as EndDeviceEvents of IEC 61968-9, in an EventMessage. Pure."""

from collections.abc import Sequence

from concentrators.feed.formats.event_message import (
    Header,
    event_message,
    name_id,
    time_text,
    write_meter,
)
from concentrators.feed.formats.profile import NAMESPACES, Profile
from concentrators.feed.formats.xml_writer import XmlWriter
from concentrators.feed.rows import EventRow
from meters.codes.event_codes import EventCodes


def message(rows: Sequence[EventRow], profile: Profile, codes: EventCodes, header: Header) -> bytes:
    """Return one message with these events."""
    xml = XmlWriter()
    with (
        event_message(xml, profile, header),
        xml.element("EndDeviceEvents", xmlns=NAMESPACES[profile.year].events),
    ):
        for row in rows:
            _write_event(xml, row, profile, codes)
    return xml.take()


def _write_event(xml: XmlWriter, row: EventRow, profile: Profile, codes: EventCodes) -> None:
    meaning = codes.meaning(row.obis_code, row.value)
    at = time_text(row.captured_at)
    with xml.element("EndDeviceEvent"):
        # An event is its meter, log, second and code (docs/frame.md): its mRID is made of them.
        xml.leaf("mRID", name_id(f"event/{row.system_title}/{row.obis_code}/{row.value}/{at}"))
        xml.leaf("createdDateTime", at)
        xml.leaf("issuerID", profile.source)
        xml.leaf("severity", meaning.severity.label)
        with xml.element("Assets"):
            write_meter(xml, row, profile)
        details = {
            "Name": meaning.name,
            "Log": row.obis_code,
            "Code": str(row.value),
            "Protection": ", ".join(one.value.replace("_", " ") for one in row.quality),
        }
        if row.received_at is not None:
            details["ReportedDateTime"] = time_text(row.received_at)
        for name, value in details.items():
            with xml.element("EndDeviceEventDetails"):
                xml.leaf("name", name)
                xml.leaf("value", value)
        xml.leaf("EndDeviceEventType", ref=meaning.type)
