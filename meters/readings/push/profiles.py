"""Reads notifications by their profile: values of registers with their times. Pure.

``meters/contents/push.py`` finds the profile of a notification, and the rows of its registers.
"""

import re
from typing import NamedTuple

from keyvault.cose.structures import MalformedError
from keyvault.schemes.dlms.notification import (
    DATA,
    EVENT,
    TELEGRAM,
    DataNotification,
    EventNotification,
    is_whole_telegram,
    parse_data_notification,
    parse_event_notification,
)
from meters.readings.push import p1
from meters.readings.push.clocks import OCTETS, ClockError, unix_second
from meters.readings.push.definition import ROWS, UNITS, Column, Definition, Kind, Role
from meters.readings.push.elements import (
    Element,
    Row,
    elements_of,
    null_clocks,
    obis_text,
    plain,
    rows_of,
    telegram_elements,
)
from meters.readings.push.skeleton import children, is_pushlist, skeleton_of

_COMPACT = re.compile(r"<|\bd[iu]\d")  # in a skeleton: a compact array, or deltas


class ContentError(ValueError):
    """A notification whose content is refused, by the profile of its form."""


class OtherMeterError(ContentError):
    """A notification that names another meter than the one that sealed it."""


class PushValue(NamedTuple):
    """A value: ``raw`` x 10^``scaler`` in one of ``units``, at a Unix second."""

    obis: str
    raw: int
    scaler: int
    units: tuple[str, ...]
    at_s: int


class Notification(NamedTuple):
    """A parsed notification: its skeleton and exactly one of ``data``, ``event`` and ``telegram``."""

    skeleton: str
    data: DataNotification | None = None
    event: EventNotification | None = None
    telegram: bytes = b""


def parse_notification(plaintext: bytes) -> Notification:
    """Parse a decrypted notification; ContentError if it is none."""
    first = plaintext[0] if plaintext else -1
    try:
        if first == DATA:
            data = parse_data_notification(plaintext)
            return Notification(skeleton_of(data), data)
        if first == EVENT:
            event = parse_event_notification(plaintext)
            return Notification(skeleton_of(event), None, event)
    except MalformedError as error:
        raise ContentError(f"the data are no A-XDR: {error}") from None
    if first == TELEGRAM and is_whole_telegram(plaintext):
        return Notification(p1.skeleton_of(plaintext), telegram=plaintext)
    raise ContentError("neither a data or event notification, nor a P1 telegram whose checksum fits")


def read(
    notification: Notification, definition: Definition, system_title: bytes, serial_number: str | None = None
) -> list[PushValue]:
    """Return the values of a notification by its profile, all or none; ContentError names what is wrong.

    ``serial_number`` is the meter's in the registry; None: it is not compared.
    """
    if definition.kind in ROWS:
        if notification.data is None:
            raise ContentError(f"no data notification, as kind {definition.kind} needs one")
        return _read_rows(notification, notification.data, definition)
    if (definition.kind is Kind.P1) != bool(notification.telegram):
        raise ContentError(f"another kind of notification than kind {definition.kind} is of")
    elements = elements_by(notification, definition.kind)
    for element in elements:
        _check_identity(element, _column(element, definition), system_title, serial_number)
    at_s = _clock(notification, elements, definition)
    return [
        value
        for element in elements
        if (value := _value(element, _column(element, definition), definition, at_s)) is not None
    ]


def elements_in(notification: Notification) -> list[Element]:
    """The elements of a notification, each with the OBIS code that it names them by, where it does."""
    if notification.data is not None:
        return elements_of(notification.data.body)
    if notification.event is not None:
        return [Element(0, obis_text(notification.event.obis), plain(notification.event.body))]
    return telegram_elements(notification.telegram)


def elements_by(notification: Notification, kind: Kind) -> list[Element]:
    """The elements of a notification that the columns of a kind name; of rows those of the first one."""
    if notification.data is None or kind not in (Kind.POSITIONAL, *ROWS):
        return elements_in(notification)
    if kind is Kind.POSITIONAL:
        return [Element(place, "", plain(part)) for place, part in enumerate(children(notification.data.body))]
    rows = rows_of(notification.data)
    return [Element(place, "", value) for place, value in enumerate(rows[0])] if rows else []


def kinds_of(notification: Notification) -> list[Kind]:
    """The kinds that a notification may be of, the likeliest first."""
    if notification.telegram:
        return [Kind.P1]
    if notification.data is None:
        return [Kind.OBIS]
    if is_pushlist(notification.data.body):
        return [Kind.PUSHLIST, Kind.OBIS, Kind.POSITIONAL]
    named = any(one.obis and isinstance(one.value, int | float) for one in elements_in(notification))
    plain_kinds = [Kind.OBIS, Kind.POSITIONAL] if named else [Kind.POSITIONAL, Kind.OBIS]
    if not any(rows_of(notification.data)):
        return plain_kinds
    rows = [Kind.COMPACT if _COMPACT.search(notification.skeleton) else Kind.PROFILE_BUFFER]
    return plain_kinds + rows if named else rows + plain_kinds


def _column(element: Element, definition: Definition) -> Column | None:
    column = definition.by_place.get(element.place)
    if column is None and element.obis:
        column = definition.by_obis.get(element.obis) or Column(Role.VALUE, element.obis)
    return column


def _value(element: Element, column: Column | None, definition: Definition, at_s: int) -> PushValue | None:
    """Return the value of an element; None if the profile ignores it."""
    place, obis, value, unit = element
    if column is None:
        if isinstance(value, int) and definition.kind is Kind.POSITIONAL:
            raise ContentError(f"the profile does not say what element {place} is")
        return None
    if column.role is not Role.VALUE or value is None or isinstance(value, bytes):
        return None
    return _scaled(column, value, unit, definition, at_s, f"{obis or f'element {place}'}")


def _scaled(
    column: Column, value: float, unit: tuple[int, int] | None, definition: Definition, at_s: int, where: str
) -> PushValue:
    if isinstance(value, float):
        raise ContentError(f"{where} is a floating-point number, which no register counts")
    if unit is not None:
        scaler, units = unit[0], UNITS.get(unit[1], ())
        if not units:
            raise ContentError(f"{where} is in the unit {unit[1]}, which no register counts")
    elif column.scaler is not None:
        scaler, units = column.scaler, (column.unit,)
    else:
        raise ContentError(f"neither the frame nor the profile says scaler and unit of {where}")
    return PushValue(column.obis, value * definition.factor(units[0]), scaler, units, at_s)


def _check_identity(element: Element, column: Column | None, system_title: bytes, serial_number: str | None) -> None:
    """Check an element that names the meter; OtherMeterError if it names another one."""
    if column is not None and column.role is Role.SYSTEM_TITLE:
        _check_title(element.value, system_title)
    elif column is not None and column.role is Role.DEVICE_ID and serial_number is not None:
        named = element.value
        said = named.decode("ascii", "replace").strip(" \0") if isinstance(named, bytes) else str(named)
        if said != serial_number:
            raise OtherMeterError(f"it names the meter of serial number {said[:40]!r}, not {serial_number!r}")


def _check_title(value: int | float | bytes | None, system_title: bytes) -> None:
    """Check that a value is the meter's title, as 8 octets or in hexadecimal; OtherMeterError if not."""
    named = value if isinstance(value, bytes) else b""
    if named != system_title and named.lower() != system_title.hex().encode():
        raise OtherMeterError(f"it names the meter {named[:40].hex()}, not {system_title.hex()}")


def _clock(notification: Notification, elements: list[Element], definition: Definition) -> int:
    """Return the time of a notification (Unix seconds)."""
    wanted = definition.clock_from
    octets: object = None
    if wanted == "apdu":
        dated = notification.data or notification.event
        octets = dated.date_time if dated is not None else b""
    else:
        octets = next((one.value for one in elements if wanted in (one.place, one.obis)), None)
    return _second(octets, definition)


def _second(octets: object, definition: Definition) -> int:
    if not isinstance(octets, bytes) or len(octets) != OCTETS:
        raise ContentError(f"no date-time stands at {definition.clock_from}, where the profile says")
    try:
        return unix_second(octets, definition.clock)
    except ClockError as error:
        raise ContentError(str(error)) from None


def _read_rows(notification: Notification, data: DataNotification, definition: Definition) -> list[PushValue]:
    rows = rows_of(data)
    clock_place = next((place for place, one in definition.by_place.items() if one.role is Role.CLOCK), None)
    times = _row_times(notification, data, rows, clock_place, definition)
    values = []
    for number, (row, at_s) in enumerate(zip(rows, times, strict=True)):
        for place, value in enumerate(row):
            column = definition.by_place.get(place)
            where = f"column {place} of row {number}"
            if column is None:
                raise ContentError(f"the profile does not say what {where} is")
            if column.role is Role.VALUE:
                if not isinstance(value, (int, float)):
                    raise ContentError(f"{where} is no number")
                values.append(_scaled(column, value, None, definition, at_s, where))
    return values


def _row_times(
    notification: Notification, data: DataNotification, rows: list[Row], clock_place: int | None, definition: Definition
) -> list[int]:
    """Return the time of each row (Unix seconds): of its clock, or a period after the row before."""
    if clock_place is None:
        first_s = _clock(notification, elements_of(data.body), definition)
        return [first_s + number * definition.period_s for number in range(len(rows))]
    times: list[int] = []
    for row, is_null in zip(rows, null_clocks(data, clock_place), strict=True):
        if is_null and times:
            if not definition.period_s:
                raise ContentError("a row has no time, and the profile says no period_s")
            times.append(times[-1] + definition.period_s)
        else:
            times.append(_second(row[clock_place] if clock_place < len(row) else None, definition))
    return times
