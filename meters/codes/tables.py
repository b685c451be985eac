"""The tables of codes that a site may override: what a key is, what an entry says, and the shipped entries. Pure."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from meters.codes import event_codes, qualities, reading_types
from meters.codes.qualities import Fact

Entry = Mapping[str, Any]
KEY_LENGTH = 48


class Table(StrEnum):
    EVENTS = "events"
    READING_TYPES = "reading-types"
    QUALITIES = "qualities"

    @property
    def label(self) -> str:
        """The table in words."""
        return _FORMS[self].label


class CodeError(ValueError):
    """An entry, or the key of one, that cannot be used. The caller's mistake, named in the message."""


class Shipped(NamedTuple):
    """An entry that comes with the head-end. ``is_verified``: public uses of it agree."""

    value: Entry
    is_verified: bool


class _Form(NamedTuple):
    """How one table is read: ``fields`` name what an entry says, with what each is."""

    label: str
    key: str
    fields: Mapping[str, str]
    check_key: Callable[[str], object]
    check: Callable[[Entry], Entry]
    shipped: Mapping[str, Shipped]


def _check_fact(text: str) -> Fact:
    if text not in list(Fact):
        raise ValueError(f"{text[:40]!r} is no fact about a reading; they are {', '.join(Fact)}")
    return Fact(text)


def _reading_type(value: Entry) -> Entry:
    text = value.get("reading_type")
    if not isinstance(text, str):
        raise ValueError("reading_type: 18 numbers with dots between them")
    return {"reading_type": reading_types.check_entry(text)}


_FORMS = {
    Table.EVENTS: _Form(
        "meter events",
        "log and code, such as 0-0:96.11.0/1",
        {
            "name": "what people call it",
            "severity": "info, warning or critical",
            "type": "EndDeviceEventType, four numbers with dots",
            "outage": "begins or ends; empty: says nothing of the supply",
        },
        event_codes.parse_key,
        lambda value: event_codes.written(event_codes.parse_meaning(value)),
        {
            str(key): Shipped(event_codes.written(meaning), meaning.is_verified)
            for key, meaning in event_codes.SHIPPED.items()
        },
    ),
    Table.READING_TYPES: _Form(
        "ReadingTypes of registers",
        "OBIS code; one that ends in x is for all rates",
        {"reading_type": "18 numbers with dots; mp for the measuring period, tou for the rate"},
        reading_types.check_code,
        _reading_type,
        {code: Shipped({"reading_type": text}, is_verified=True) for code, text in reading_types.SHIPPED.items()},
    ),
    Table.QUALITIES: _Form(
        "qualities of readings",
        "name of a fact",
        {
            "cim": "ReadingQualityType, three numbers with dots",
            "espi": "QualityOfReading of Green Button, a number",
            "nordic": "quality of a point: A01 to A06",
        },
        _check_fact,
        lambda value: qualities.written(qualities.parse_quality(value)),
        {fact.value: Shipped(qualities.written(one), one.is_verified) for fact, one in qualities.SHIPPED.items()},
    ),
}


def fields(table: Table) -> Mapping[str, str]:
    """Return the fields of an entry, each with what it is."""
    return _FORMS[table].fields


def key_help(table: Table) -> str:
    """Return what a key of the table is."""
    return _FORMS[table].key


def shipped(table: Table) -> Mapping[str, Shipped]:
    """Return the entries that come with the head-end, by key."""
    return _FORMS[table].shipped


def check_key(table: Table, key: str) -> str:
    """Return a key that the table may have; CodeError."""
    try:
        _FORMS[table].check_key(key)
    except ValueError as error:
        raise CodeError(str(error)) from None
    if len(key) > KEY_LENGTH:
        raise CodeError(f"a key has at most {KEY_LENGTH} characters")
    return key


def check(table: Table, value: Entry) -> Entry:
    """Return an entry with all its fields, as it is stored; CodeError."""
    form = _FORMS[table]
    if strange := sorted(str(name)[:40] for name in value if name not in form.fields):
        raise CodeError(f"an entry of {table} has no {', '.join(strange)}; it has {', '.join(form.fields)}")
    try:
        return form.check(value)
    except ValueError as error:
        raise CodeError(str(error)) from None
