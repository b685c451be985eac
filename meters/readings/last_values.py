"""The latest values of a meter, wherever they are: in the database or in the archive."""

from datetime import datetime, timedelta
from typing import NamedTuple

from meters.archive import reading as archived
from meters.models import Register
from meters.readings.queries import Stored, exact_text, fetch

_FIRST_LOOK = timedelta(days=3)


class LastValue(NamedTuple):
    """The latest value of a register; ``quantity`` is exact, in ``unit``."""

    obis_code: str
    name: str
    captured_at: datetime
    interval_minutes: int
    quantity: str
    unit: str


def last_values(
    meter_id: int, until: datetime, earliest: datetime, sent_until: datetime | None = None
) -> list[LastValue]:
    """Return the latest value before ``until`` of each register that a meter sent recently, however long ago that was.

    It looks at the last days; then back from ``sent_until``, when the meter was last heard, in steps, each four times
    as long as the one before, down to ``earliest``, until one holds a value. So a meter that fell silent long ago costs
    no more than one that sends: a day without it takes a look at each of its times. At most eight queries for three
    years, and one for a meter that sends.
    """
    end = until - _FIRST_LOOK
    if found := _last_values(meter_id, max(earliest, end), until):
        return found
    if sent_until is not None:
        end = min(end, sent_until)
    step = _FIRST_LOOK
    while end > earliest:
        start = max(earliest, end - step)
        if found := _last_values(meter_id, start, end):
            return found
        end, step = start, 4 * step
    return []


def _last_values(meter_id: int, start: datetime, end: datetime) -> list[LastValue]:
    last: dict[str, LastValue] = {}
    with archived.stretches(start, end) as stretches:
        for stretch in stretches:
            if stretch.month is None:
                found = _of_database(meter_id, stretch.start, stretch.end)
            else:
                wanted = archived.Wanted(stretch.start, stretch.end, [meter_id])
                found = _of_files([Stored._make(row) for row in stretch.month.rows(wanted, None)])
            last |= {one.obis_code: one for one in found}
    return [last[code] for code in sorted(last)]


def _of_database(meter_id: int, start: datetime, end: datetime) -> list[LastValue]:
    rows = fetch(
        """SELECT g.obis_code, g.name, r.captured_at, r.interval_minutes, r.value, g.scaler, g.unit
           FROM (SELECT DISTINCT ON (register_id) register_id, captured_at, interval_minutes, value
                 FROM meters_reading WHERE meter_id = %s AND captured_at >= %s AND captured_at < %s
                 ORDER BY register_id, captured_at DESC) AS r
           JOIN meters_register g ON g.id = r.register_id ORDER BY g.obis_code""",
        [meter_id, start, end],
    )
    return [
        LastValue(obis, name, at, minutes, exact_text(value, scaler), unit)
        for obis, name, at, minutes, value, scaler, unit in rows
    ]


def _of_files(rows: list[Stored]) -> list[LastValue]:
    last = {row.register_id: row for row in rows}
    return [
        LastValue(
            register.obis_code,
            register.name,
            last[register.pk].captured_at,
            last[register.pk].interval_minutes,
            exact_text(last[register.pk].value, register.scaler),
            register.unit,
        )
        for register in (Register.objects.filter(pk__in=last) if last else ())
    ]
