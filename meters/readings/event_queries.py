"""Meter events with what their codes mean: in pages by key, by severity, code, meter and state."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from ami_headend.core import keyset
from ami_headend.core.keyset import Condition
from ami_headend.core.sql import int_array
from keyvault.schemes.table import scheme_numbered
from meters.codes.event_codes import CodeKey, EventCodes
from meters.codes.severity import Severity
from meters.readings.obis import FRAUD_LOG, STANDARD_LOG
from meters.readings.queries import Stored, fetch
from meters.registry import groups, site_codes


class EventKey(NamedTuple):
    """The position of an event in the order."""

    captured_at: datetime
    id: int


class EventRow(NamedTuple):
    """An event for display: what was reported, and what it means.

    ``scheme`` and ``caveat`` as of a reading; ``type`` is the EndDeviceEventType.
    """

    id: int
    system_title: str
    serial_number: str
    obis_code: str
    captured_at: datetime
    received_at: datetime
    value: int
    name: str
    severity: str
    type: str
    is_acknowledged: bool
    uplink: int
    scheme: str
    caveat: str


@dataclass(frozen=True)
class EventSelection:
    """Events in [start, end); None is all. ``severity`` is the least; ``after`` the key of the last page's last row."""

    start: datetime
    end: datetime
    meter_ids: Sequence[int] | None = None
    register_ids: Sequence[int] | None = None
    after: tuple[Any, ...] | None = None
    severity: Severity | None = None
    codes: Sequence[CodeKey] | None = None
    is_open: bool | None = None
    is_newest_first: bool = False
    group_ids: Sequence[int] | None = None


def events(selection: EventSelection, limit: int) -> tuple[list[EventRow], EventKey | None]:
    """Return the first events of a selection, by time, and the key of the next page; two queries."""
    codes = site_codes.events()
    condition, params = where(selection, codes)
    order = "captured_at DESC, id DESC" if selection.is_newest_first else "captured_at, id"
    rows = fetch(
        f"""SELECT e.id, m.system_title, m.serial_number, g.obis_code, e.captured_at, e.received_at, e.value,
                   e.acknowledgement_id IS NOT NULL, e.uplink_id, e.scheme
            FROM (SELECT * FROM meters_meterevent WHERE {condition} ORDER BY {order} LIMIT %s) e
            JOIN meters_meter m ON m.id = e.meter_id JOIN meters_register g ON g.id = e.register_id
            ORDER BY {", ".join(f"e.{column}" for column in order.split(", "))}""",
        [*params, limit],
    )
    shown = []
    for id_, title, serial, code, at, received_at, value, is_acknowledged, uplink, number in rows:
        scheme, meaning = scheme_numbered(number), codes.meaning(code, value)
        shown.append(
            EventRow(
                id_,
                title.hex(),
                serial,
                code,
                at,
                received_at,
                value,
                meaning.name,
                meaning.severity.label,
                meaning.type,
                is_acknowledged,
                uplink,
                scheme.name,
                scheme.caveat,
            )
        )
    return shown, EventKey(rows[-1][4], rows[-1][0]) if len(rows) == limit else None


def count(selection: EventSelection, most: int) -> int:
    """Count the events of a selection, up to ``most``; two queries. SelectionError if that takes too long."""
    condition, params = where(selection, site_codes.events())
    statement = f"SELECT 1 FROM meters_meterevent WHERE {condition} LIMIT %s"
    return int(fetch(f"SELECT count(*) FROM ({statement}) AS found", [*params, most])[0][0])


def stored_events(selection: EventSelection, limit: int) -> tuple[list[Stored], EventKey | None]:
    """Return the first events of a selection by ids, by time, and the key of the next page; two queries."""
    condition, params = where(selection, site_codes.events())
    rows = fetch(
        f"""SELECT captured_at, meter_id, register_id, value, uplink_id, 0, scheme, id
            FROM meters_meterevent WHERE {condition} ORDER BY captured_at, id LIMIT %s""",
        [*params, limit],
    )
    return [Stored._make(row[:7]) for row in rows], EventKey(rows[-1][0], rows[-1][7]) if len(rows) == limit else None


def where(selection: EventSelection, codes: EventCodes) -> tuple[str, list[Any]]:
    """Return the WHERE clause of a selection, and its values."""
    newest = selection.is_newest_first
    conditions, params = keyset.given(
        ("captured_at >= %s", selection.start),
        ("captured_at < %s", selection.end),
        keyset.one_of("meter_id", selection.meter_ids),
        groups.one_of(selection.group_ids),
        keyset.one_of("register_id", selection.register_ids),
        coded(selection.codes),
        at_least(selection.severity, codes),
        ("(acknowledgement_id IS NULL) = %s", selection.is_open),
        keyset.after(EventKey._fields, selection.after, newest_first=newest),
    )
    return " AND ".join(conditions), params


def coded(keys: Sequence[CodeKey] | None) -> Condition:
    """The event has one of these codes in its log; None does not restrict it."""
    text = """(register_id, value) IN (SELECT r.id, k.code FROM unnest(%s::text[], %s::bigint[]) AS k(log, code)
                                       JOIN meters_register r ON r.obis_code = k.log)"""
    return text, None if keys is None else ([key.log for key in keys], int_array(key.code for key in keys))


def at_least(severity: Severity | None, codes: EventCodes) -> Condition:
    """The event has at least a severity; codes of the fraud log without an entry are critical. None: of any."""
    log = "register_id = (SELECT id FROM meters_register WHERE obis_code = %s)"
    if severity in (None, Severity.INFO):
        return "", None
    assert severity is not None  # noqa: S101
    standard = [key.code for key in codes.at_least(severity) if key.log == STANDARD_LOG]
    fraud = [key.code for key in codes.below(severity) if key.log == FRAUD_LOG]
    return (
        f"({log} AND value = ANY(%s::bigint[]) OR {log} AND NOT value = ANY(%s::bigint[]))",
        (STANDARD_LOG, int_array(standard), FRAUD_LOG, int_array(fraud)),
    )
