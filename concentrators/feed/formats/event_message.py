"""The EventMessage of IEC 61968-100 around a payload: header with a MessageID that never changes. Pure."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID, uuid5

from concentrators.feed.formats.profile import NAMESPACES, Profile
from concentrators.feed.formats.xml_writer import XmlWriter
from concentrators.feed.rows import Change, Told

_NAMESPACE = UUID("8d3c1c5e-5d0b-5a53-9d0f-6b6e2f0a4a61")  # of the names that MessageIDs and mRIDs are made from
METER_READINGS, END_DEVICE_EVENTS = "MeterReadings", "EndDeviceEvents"
_VERBS = {Change.NEW: "created"}  # what was told before is "changed"


class Header(NamedTuple):
    """What the header of a message says. ``feed_position`` is empty outside of the feed."""

    noun: str
    message_id: UUID
    created_at: datetime
    verb: str = "created"
    feed_position: str = ""


def feed_header(era: str, noun: str, rows: Sequence[Told]) -> Header:
    """Return the header of a message with rows of the feed, which are of one change.

    The MessageID is made from the era and the positions, and the time is that of the last row's verification: all
    octets of a message are the same again at every attempt.
    """
    first, last = rows[0], rows[-1]
    name = f"{era}/{noun}/{first.position}.{first.row}-{last.position}.{last.row}"
    verb = _VERBS.get(first.change, "changed")
    return Header(noun, name_id(name), last.verified_at, verb, f"{era}/{last.position}")


def name_id(name: str) -> UUID:
    """Return an identifier that is always the same for a name."""
    return uuid5(_NAMESPACE, name)


@contextmanager
def event_message(xml: XmlWriter, profile: Profile, header: Header) -> Iterator[None]:
    """Write an EventMessage around the payload that is written inside the block."""
    with xml.element("EventMessage", xmlns=NAMESPACES[profile.year].message):
        with xml.element("Header"):
            xml.leaf("Verb", header.verb)
            xml.leaf("Noun", header.noun)
            xml.leaf("Revision", profile.revision)
            if profile.context:
                xml.leaf("Context", profile.context)
            xml.leaf("Timestamp", time_text(header.created_at))
            xml.leaf("Source", profile.source)
            xml.leaf("MessageID", header.message_id)
            if header.feed_position:
                with xml.element("Property"):
                    xml.leaf("Name", "FeedPosition")
                    xml.leaf("Value", header.feed_position)
        with xml.element("Payload"):
            yield


def write_names(xml: XmlWriter, name: str, kind: str) -> None:
    """Write a Names element: a name, and what kind of name it is."""
    with xml.element("Names"):
        xml.leaf("name", name)
        with xml.element("NameType"):
            xml.leaf("name", kind)


def write_meter(xml: XmlWriter, row: Told, profile: Profile) -> None:
    """Write by which names a consumer knows a meter: the system title as mRID or among its Names."""
    if profile.meter == "mrid":
        xml.leaf("mRID", row.system_title)
    write_names(xml, row.serial_number, "SerialNumber")
    if profile.meter == "names":
        write_names(xml, row.system_title, "SystemTitle")


def time_text(at: datetime) -> str:
    """Write a time in UTC, as xs:dateTime in whole seconds."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
