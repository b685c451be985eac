"""What a ciphered push holds: a data notification, an event notification, or a P1 telegram. Pure."""

import re
from typing import NamedTuple

from keyvault.cose.structures import MalformedError
from keyvault.schemes.dlms.axdr import Item, decode
from keyvault.schemes.dlms.crc import crc_arc

DATA, EVENT, TELEGRAM = 0x0F, 0xC2, 0x2F  # a telegram begins with a slash
DATE_TIME_OCTETS = 12
_TELEGRAM = re.compile(rb"/[^!/]{5,}![0-9A-F]{4}\r?\n?", re.DOTALL)


class DataNotification(NamedTuple):
    """0F: long invoke id and priority, date-time (12 octets, or none) with the form of its head, and the data."""

    invoke_id: int
    date_time_head: bytes
    date_time: bytes
    body: Item


class EventNotification(NamedTuple):
    """C2: an attribute of an object (class, OBIS code of 6 octets) with its value, and when (12 octets, or none)."""

    date_time_head: bytes
    date_time: bytes
    class_id: int
    obis: bytes
    attribute: int
    body: Item


def parse_data_notification(octets: bytes) -> DataNotification:
    """0F long-invoke-id(4) date-time DATA; MalformedError."""
    if octets[:1] != b"\x0f" or len(octets) < 6:
        raise MalformedError("no data notification", 0)
    head, at = _date_time_head(octets, 5, {b"\x00", b"\x0c", b"\x09\x0c"})
    date_time = octets[at : at + DATE_TIME_OCTETS] if head != b"\x00" else b""
    return DataNotification(int.from_bytes(octets[1:5], "big"), head, date_time, decode(octets, at + len(date_time)))


def parse_event_notification(octets: bytes) -> EventNotification:
    """C2 time class(2) OBIS(6) attribute(1) DATA; MalformedError."""
    if octets[:1] != b"\xc2":
        raise MalformedError("no event notification", 0)
    head, at = _date_time_head(octets, 1, {b"\x00", b"\x01\x0c", b"\x09\x0c"})
    date_time = octets[at : at + DATE_TIME_OCTETS] if head != b"\x00" else b""
    at += len(date_time)
    if len(octets) < at + 10:
        raise MalformedError("the octets end before the value", len(octets))
    class_id, obis, attribute = int.from_bytes(octets[at : at + 2], "big"), octets[at + 2 : at + 8], octets[at + 8]
    return EventNotification(head, date_time, class_id, obis, attribute, decode(octets, at + 9))


def _date_time_head(octets: bytes, at: int, heads: set[bytes]) -> tuple[bytes, int]:
    for head in heads:
        if octets.startswith(head, at):
            end = at + len(head)
            if head != b"\x00" and end + DATE_TIME_OCTETS > len(octets):
                break
            return head, end
    raise MalformedError("the date-time is absent (00), or has 12 octets", at)


def is_whole_telegram(octets: bytes) -> bool:
    """Whether octets are one P1 telegram, whose checksum fits."""
    if _TELEGRAM.fullmatch(octets) is None:
        return False
    end = octets.rindex(b"!") + 1
    return crc_arc(octets[:end]) == int(octets[end : end + 4], 16)


def is_whole(octets: bytes) -> bool:
    """Whether octets are one notification, to the last of them: what a wrong key gives hardly ever is."""
    first = octets[:1]
    try:
        if first == b"\x0f":
            parse_data_notification(octets)
        elif first == b"\xc2":
            parse_event_notification(octets)
        else:
            return first == b"/" and is_whole_telegram(octets)
    except MalformedError:
        return False
    return True
