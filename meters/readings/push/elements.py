"""The elements of a notification, as its kind names them: by OBIS code, by place, or in rows. Pure."""

from collections.abc import Iterator
from typing import NamedTuple

from keyvault.schemes.dlms.axdr import ARRAY, COMPACT, DELTAS, NULL, STRUCTURE, Item
from keyvault.schemes.dlms.notification import DataNotification
from meters.readings.push import p1
from meters.readings.push.skeleton import OBIS_OCTETS, children, is_obis, is_pushlist, scaler_and_unit

_CLOCK_CLASS = 8
_SCALER_UNIT = 3  # the attribute of registers
_TEXT_OF = "{}-{}:{}.{}.{}"


class Element(NamedTuple):
    """A value with its place in the body, and what the frame says of it: OBIS code, scaler and DLMS unit code."""

    place: int
    obis: str
    value: int | float | bytes | None
    unit: tuple[int, int] | None = None


# A row: its values by place; None where the row says none.
Row = list[int | float | bytes | None]


def obis_text(octets: bytes) -> str:
    """An OBIS code of 6 octets as registers name it, without value group F."""
    return _TEXT_OF.format(*octets[:5])


def elements_of(body: Item) -> list[Element]:
    """The elements of a body, each with the OBIS code that stands before it, or in the list that it begins with."""
    return list(_listed(body) if is_pushlist(body) else _tagged(body))


def _tagged(body: Item) -> Iterator[Element]:
    parts = children(body) if body.tag in (ARRAY, STRUCTURE) else [body]
    place = 0
    while place < len(parts):
        part = parts[place]
        inner = children(part)
        if part.tag == STRUCTURE and len(inner) >= 2 and is_obis(inner[0]):
            yield _element(place, inner)
            place += 1
        elif is_obis(part) and place + 1 < len(parts):
            yield _element(place, parts[place : place + 3])
            has_unit = place + 2 < len(parts) and scaler_and_unit(parts[place + 2]) is not None
            place += 3 if has_unit else 2
        else:
            yield Element(place, "", plain(part))
            place += 1


def _element(place: int, parts: list[Item]) -> Element:
    """An OBIS code, its value, and perhaps scaler and unit, which may stand in a structure with the value, too."""
    code = parts[0].value
    inner = children(parts[1])
    if parts[1].tag == STRUCTURE and len(inner) == 2 and scaler_and_unit(inner[1]) is not None:
        parts = [parts[0], *inner]
    unit = scaler_and_unit(parts[2]) if len(parts) > 2 else None
    return Element(place, obis_text(code) if isinstance(code, bytes) else "", plain(parts[1]), unit)


def _listed(body: Item) -> Iterator[Element]:
    """The elements of a pushlist: element k is what entry k of element 0 names; attribute 3 is scaler and unit."""
    first, *others = children(body)
    entries = [_entry(one) for one in children(first)[1:]]
    units = {
        obis: scaler_and_unit(part)
        for (class_id, obis, attribute), part in zip(entries, others, strict=False)
        if attribute == _SCALER_UNIT and class_id != _CLOCK_CLASS
    }
    for place, part in enumerate(others, 1):
        class_id, obis, attribute = entries[place - 1] if place <= len(entries) else (0, "", 0)
        if attribute != _SCALER_UNIT or class_id == _CLOCK_CLASS:
            yield Element(place, obis, plain(part), units.get(obis))


def _entry(item: Item) -> tuple[int, str, int]:
    """Class, OBIS code and attribute of an entry; an empty code where it is none."""
    values = [part.value for part in children(item)[:3]]
    match values:
        case [int(class_id), bytes(code), int(attribute)] if len(code) == OBIS_OCTETS:
            return class_id, obis_text(code), attribute
        case _:
            return 0, "", 0


def telegram_elements(telegram: bytes) -> list[Element]:
    """The lines of a P1 telegram as elements; a time is a date-time of 12 octets."""
    found = []
    for place, line in enumerate(p1.lines_of(telegram)):
        number = p1.number_of(line.said)
        if number is None:
            found.append(Element(place, line.obis, p1.date_time_of(line.said) or line.said.encode()))
        else:
            raw, scaler, code = number
            found.append(Element(place, line.obis, raw, (scaler, code)))
    return found


def rows_of(notification: DataNotification) -> list[Row]:
    """The rows of a notification: of its body where that is an array, else of the first array in it.

    A null says the value of the row before, a delta what is added to it; None where neither has one before.
    """
    rows: list[Row] = []
    before: Row = []
    for item in _table(notification):
        parts = children(item) if item.tag in (STRUCTURE, ARRAY) else [item]
        before = [_in_row(part, before[place] if place < len(before) else None) for place, part in enumerate(parts)]
        rows.append(before)
    return rows


def _in_row(part: Item, before: int | float | bytes | None) -> int | float | bytes | None:
    if part.tag == NULL:
        return before
    if part.tag in DELTAS:
        if isinstance(before, int) and isinstance(part.value, int):
            return before + part.value
        return None
    return plain(part)


def null_clocks(notification: DataNotification, place: int) -> list[bool]:
    """Of each row whether its clock at a place is null: then it is a period after the row before."""
    return [place < len(children(row)) and children(row)[place].tag == NULL for row in _table(notification)]


def _table(notification: DataNotification) -> list[Item]:
    body = notification.body
    if body.tag not in (ARRAY, COMPACT):
        body = next((part for part in children(body) if part.tag in (ARRAY, COMPACT)), Item(ARRAY, []))
    return children(body)


def plain(item: Item) -> int | float | bytes | None:
    """What an item says that holds no others; None of one that does."""
    return None if isinstance(item.value, list) else item.value
