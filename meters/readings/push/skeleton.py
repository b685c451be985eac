"""The skeleton of a notification: its form, with the values blanked. Pure.

A profile is bound to one skeleton, so that a firmware that moves a column is refused, and not misread. It is text, and
its SHA-256 names it (docs/dlms.md has an example):

    0f[0c] {octets(12) obis(0100010800ff) u32 unit(0,30)}

``[..]`` is the form of the date-time: 00 (none), 0c or 090c. Structures are in braces, arrays in brackets, compact
arrays in angle brackets. Elements of an array that have one shape and follow each other count as one. What stays as it
is: OBIS codes (six octets that end in ff), scaler and unit, of a pushlist the list itself.
"""

from hashlib import sha256

from keyvault.schemes.dlms.axdr import (
    ARRAY,
    BITS,
    BOOLEAN,
    COMPACT,
    DONT_CARE,
    ENUM,
    INT8,
    NULL,
    OCTETS,
    STRUCTURE,
    TEXT,
    UINT16,
    UTF8,
    Item,
)
from keyvault.schemes.dlms.notification import DataNotification, EventNotification

_NAMES = {
    NULL: "null", DONT_CARE: "any", BOOLEAN: "bool", 0x05: "i32", 0x06: "u32", 0x0D: "bcd", INT8: "i8", 0x10: "i16",
    0x11: "u8", 0x12: "u16", 0x14: "i64", 0x15: "u64", ENUM: "enum", 0x17: "f32", 0x18: "f64", 0x19: "datetime",
    0x1A: "date", 0x1B: "time", 0x1C: "di8", 0x1D: "di16", 0x1E: "di32", 0x1F: "du8", 0x20: "du16", 0x21: "du32",
}  # fmt: skip
_STRINGS = {OCTETS: "octets", TEXT: "text", UTF8: "utf8", BITS: "bits"}
_AROUND = {ARRAY: "[]", STRUCTURE: "{}", COMPACT: "<>"}
OBIS_OCTETS = 6
_PUSH_SETUP = 40


def is_obis(item: Item) -> bool:
    """Whether an item names a register: six octets that end in ff."""
    value = item.value
    return item.tag == OCTETS and isinstance(value, bytes) and len(value) == OBIS_OCTETS and value[5] == 0xFF


def scaler_and_unit(item: Item) -> tuple[int, int] | None:
    """The scaler and the DLMS unit code that an item says: a structure of int8 and enum; None of any other."""
    parts = item.value
    if item.tag == STRUCTURE and isinstance(parts, list) and [one.tag for one in parts] == [INT8, ENUM]:
        scaler, unit = parts[0].value, parts[1].value
        if isinstance(scaler, int) and isinstance(unit, int):
            return scaler, unit
    return None


def children(item: Item) -> list[Item]:
    """The items inside of one; none where it holds none."""
    return item.value if isinstance(item.value, list) else []


def is_pushlist(body: Item) -> bool:
    """Whether a body's first element is the list of what the others are: entry 0 of it is the list itself."""
    parts = children(body)
    entries = children(parts[0]) if parts else []
    if body.tag != STRUCTURE or not entries or parts[0].tag != ARRAY:
        return False
    first = children(entries[0])
    return len(first) >= 4 and first[0].tag == UINT16 and first[0].value == _PUSH_SETUP


def pushlist_leaves(body: Item) -> int:
    """How many items that hold no others the list has that a pushlist begins with."""
    return _leaves(children(body)[0])


def _leaves(item: Item) -> int:
    return sum(map(_leaves, item.value)) if isinstance(item.value, list) else 1


def skeleton_of(notification: DataNotification | EventNotification) -> str:
    """The skeleton of a notification, as text."""
    head = notification.date_time_head.hex()
    body = notification.body
    if isinstance(notification, EventNotification):
        return f"c2[{head}] {_told(body)}"
    if is_pushlist(body):
        first, *others = children(body)
        return f"0f[{head}] {{{' '.join([_verbatim(first), *map(_told, others)])}}}"
    return f"0f[{head}] {_told(body)}"


def digest(skeleton: str) -> bytes:
    """The SHA-256 (32 octets) that names a skeleton."""
    return sha256(skeleton.encode()).digest()


def _told(item: Item) -> str:
    tag, value = item
    if isinstance(value, list):
        unit = scaler_and_unit(item)
        if unit is not None:
            return f"unit({unit[0]},{unit[1]})"
        parts = list(map(_told, value))
        if tag != STRUCTURE:
            parts = [part for place, part in enumerate(parts) if not place or parts[place - 1] != part]
        around = _AROUND[tag]
        return f"{around[0]}{' '.join(parts)}{around[1]}"
    if isinstance(value, bytes) and tag in _STRINGS:
        return f"obis({value.hex()})" if is_obis(item) else f"{_STRINGS[tag]}({len(value)})"
    return _NAMES[tag]


def _verbatim(item: Item) -> str:
    """An item with its values: of the list that a pushlist begins with."""
    if isinstance(item.value, list):
        around = _AROUND[item.tag]
        return f"{around[0]}{' '.join(map(_verbatim, item.value))}{around[1]}"
    if isinstance(item.value, bytes):
        return f"{_STRINGS.get(item.tag) or _NAMES[item.tag]}={item.value.hex()}"
    return f"{_NAMES[item.tag]}={item.value}"
