"""Import of many meters: plans what the lines of a file change in the registry, and carries it out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection

from ami_headend.core.csv_tables import BadLine
from ami_headend.core.names import Alike, alike
from ami_headend.core.sql import chunks
from meters.models import Installation, Meter, MeterStatus, Place
from meters.registry.meter_file import OF_PLACE, MeterLine

_OF_METER = ("name", "interval_minutes", "mask_group", "status", "commissioned_at")


@dataclass
class MeterChange:
    """A registered meter, and the line that changes it; ``place`` is set if it moves there.

    ``of_place`` has the columns in which the line changes the place.
    """

    line: MeterLine
    meter: Meter
    columns: list[str]
    place: str | None = None
    of_place: list[str] = field(default_factory=list)


@dataclass
class ImportPlan:
    """The effect of a file: lines of new meters, of meters to change, and of unchanged meters; bad lines."""

    new: list[MeterLine] = field(default_factory=list)
    changed: list[MeterChange] = field(default_factory=list)
    unchanged: list[tuple[MeterLine, Meter]] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)


def plan_import(
    lines: Sequence[MeterLine], now: datetime, *, update: bool, done: Callable[[int], None] = lambda count: None
) -> ImportPlan:
    """Compare lines with the registry, with a fixed number of queries per chunk; ``done`` gets the size of each chunk.

    A registered meter must be the same in the file, unless ``update`` is given; serial numbers never change.
    """
    plan = ImportPlan()
    for chunk in chunks(lines):
        _plan_chunk(plan, chunk, now, update=update)
        done(len(chunk))
    return plan


def _plan_chunk(plan: ImportPlan, chunk: Sequence[MeterLine], now: datetime, *, update: bool) -> None:
    meters = {
        bytes(meter.system_title): meter
        for meter in Meter.objects.filter(system_title__in=[line.system_title for line in chunk])
    }
    serials = dict(
        Meter.objects.annotate(alike=Alike("serial_number"))
        .filter(alike__in=[alike(line.serial_number) for line in chunk])
        .values_list("alike", "system_title")
    )
    places = _standing_places(chunk)
    chunk = [_at_standing_place(line, places) for line in chunk]
    named = {line.place for line in chunk if line.place}
    at_place: dict[str, list[Installation]] = {}
    for row in Installation.objects.filter(place__name__in=named).select_related("place", "meter"):
        at_place.setdefault(row.place.name, []).append(row)
    standing = {
        row.meter_id: row
        for row in Installation.objects.filter(meter__in=[meter.pk for meter in meters.values()], removed_at=None)
        .select_related("place")
        .order_by()
    }
    for line in chunk:
        meter = meters.get(line.system_title)
        owner = serials.get(alike(line.serial_number))
        of_place = _other_columns(line, places.get(alike(line.place or "")), OF_PLACE)
        if meter is not None and alike(meter.serial_number) != alike(line.serial_number):
            reason = f"system title {line.system_title.hex()} is registered with serial number {meter.serial_number}"
        elif owner is not None and bytes(owner) != line.system_title:
            reason = f"serial number {line.serial_number} is registered with system title {bytes(owner).hex()}"
        elif meter is None:
            reason = _taken(line.place, at_place, line.commissioned_at or now)
            if of_place and alike(line.place or "") in places and not update:
                reason = reason or _otherwise(f"place {line.place}", of_place)
            if not reason:
                plan.new.append(line)
        else:
            reason = _plan_standing(
                plan, line, meter, standing.get(meter.pk), at_place, now, update=update, of_place=of_place
            )
        if reason:
            plan.bad.append(BadLine(line.line, reason))


def _standing_places(chunk: Sequence[MeterLine]) -> dict[str, Place]:
    """Return the existing places that lines name, by the form in which similar names are equal."""
    wanted = {alike(line.place) for line in chunk if line.place}
    return {alike(place.name): place for place in Place.objects.alias(alike=Alike("name")).filter(alike__in=wanted)}


def _at_standing_place(line: MeterLine, places: dict[str, Place]) -> MeterLine:
    """Return the line with the stored name of its place, if the name in the file only looks alike."""
    place = places.get(alike(line.place)) if line.place else None
    return line if place is None or place.name == line.place else line._replace(place=place.name)


def _plan_standing(
    plan: ImportPlan,
    line: MeterLine,
    meter: Meter,
    installation: Installation | None,
    at_place: dict[str, list[Installation]],
    now: datetime,
    *,
    update: bool,
    of_place: list[str],
) -> str:
    """Add the line of a registered meter to the plan; return what is wrong with it, if anything."""
    if meter.status in (MeterStatus.RETIRED, MeterStatus.MOVED):
        what = "is retired" if meter.status == MeterStatus.RETIRED else "was moved to another cell"
        return f"meter {meter.serial_number} {what}"
    columns = _other_columns(line, meter, _OF_METER)
    moves = line.place is not None and (installation is None or installation.place.name != line.place)
    if not columns and not moves and not of_place:
        plan.unchanged.append((line, meter))
        return ""
    if not update:
        return _otherwise(f"meter {meter.serial_number}", columns + ["place"] * moves + of_place)
    if "commissioned_at" in columns:
        return f"meter {meter.serial_number} was commissioned at {meter.commissioned_at}, which --update leaves"
    if moves and installation is not None and installation.installed_at >= now:
        return f"meter {meter.serial_number} hangs at {installation.place} only from {installation.installed_at} on"
    if moves and (reason := _taken(line.place, at_place, now)):
        return reason
    plan.changed.append(MeterChange(line, meter, columns, line.place if moves else None, of_place))
    return ""


def _other_columns(line: MeterLine, row: Meter | Place | None, columns: Sequence[str]) -> list[str]:
    """Return the columns of the line that differ from the row, if there is one."""
    return [column for column in columns if getattr(line, column) not in (None, row and getattr(row, column))]


def _otherwise(what: str, columns: Sequence[str]) -> str:
    return f"{what} is registered with another {', '.join(columns)}"


def _taken(place: str | None, at_place: dict[str, list[Installation]], at: datetime) -> str:
    for row in at_place.get(place or "", []):
        if row.removed_at is None or row.removed_at > at:
            return f"place {place} has meter {row.meter} from {row.installed_at} on; take it down first (exchange)"
    return ""


def carry_out(plan: ImportPlan, now: datetime, done: Callable[[int], None] = lambda count: None) -> dict[bytes, int]:
    """Carry out a plan, in the caller's transaction; return the ids of new meters by system title.

    The caller changes interval lengths of registered meters, because totals move with them.
    """
    added: dict[bytes, int] = {}
    for lines in chunks(plan.new):
        added |= _add(lines, now)
        _install([(added[line.system_title], line.place, line.commissioned_at or now) for line in lines if line.place])
        _describe(lines)
        done(len(lines))
    for changes in chunks(plan.changed):
        _change(changes, now)
        done(len(changes))
    return added


def _add(lines: Sequence[MeterLine], now: datetime) -> dict[bytes, int]:
    rows = [
        (
            line.system_title,
            line.serial_number,
            line.name or "",
            str(line.status or MeterStatus.COMMISSIONED),
            line.interval_minutes or Meter._meta.get_field("interval_minutes").default,
            line.mask_group or "",
            line.commissioned_at or now,
        )
        for line in lines
    ]
    found = _execute(
        """INSERT INTO meters_meter
               (system_title, serial_number, name, status, interval_minutes, mask_group, commissioned_at, created_at)
           SELECT *, now() FROM unnest(
               %s::bytea[], %s::text[], %s::text[], %s::text[], %s::int[], %s::text[], %s::timestamptz[])
           RETURNING system_title, id""",
        rows,
    )
    return {bytes(title): meter_id for title, meter_id in found}


def _install(rows: list[tuple[int, str, datetime]]) -> None:
    """Install meters (by id) at places (by name, new ones are made) from a time on."""
    Place.objects.bulk_create((Place(name=name) for name in sorted({row[1] for row in rows})), ignore_conflicts=True)
    _execute(
        """INSERT INTO meters_installation (meter_id, place_id, installed_at)
           SELECT n.meter_id, p.id, n.at FROM unnest(%s::int[], %s::text[], %s::timestamptz[]) AS n(meter_id, name, at)
           JOIN meters_place p USING (name) RETURNING id""",
        rows,
    )


def _change(changes: Sequence[MeterChange], now: datetime) -> None:
    for change in changes:
        for column in set(change.columns) - {"interval_minutes"}:
            setattr(change.meter, column, getattr(change.line, column))
    _execute(
        """UPDATE meters_meter SET name = n.name, mask_group = n.mask_group, status = n.status
           FROM unnest(%s::int[], %s::text[], %s::text[], %s::text[]) AS n(id, name, mask_group, status)
           WHERE meters_meter.id = n.id RETURNING n.id""",
        [(meter.pk, meter.name, meter.mask_group, str(meter.status)) for meter in (c.meter for c in changes)],
    )
    moving = [(change.meter.pk, change.place, now) for change in changes if change.place]
    Installation.objects.filter(meter__in=[row[0] for row in moving], removed_at=None).update(removed_at=now)
    _install(moving)
    _describe([change.line for change in changes if change.of_place])


def _describe(lines: Sequence[MeterLine]) -> None:
    """Update places by the columns of the lines; missing columns stay."""
    _execute(
        """UPDATE meters_place p SET address = coalesce(n.address, p.address),
               customer_reference = coalesce(n.customer_reference, p.customer_reference),
               latitude = coalesce(n.latitude, p.latitude), longitude = coalesce(n.longitude, p.longitude)
           FROM unnest(%s::text[], %s::text[], %s::text[], %s::numeric[], %s::numeric[])
                AS n(name, address, customer_reference, latitude, longitude)
           WHERE p.name = n.name RETURNING p.id""",
        [
            (line.place, *(getattr(line, column) for column in OF_PLACE))
            for line in lines
            if line.place and any(getattr(line, column) is not None for column in OF_PLACE)
        ],
    )


def _execute(statement: str, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Run one statement over the columns of many rows, as arrays: the ORM takes ten times as long."""
    if not rows:
        return []
    with connection.cursor() as cursor:
        cursor.execute(statement, [list(column) for column in zip(*rows, strict=True)])
        found: list[tuple[Any, ...]] = cursor.fetchall()
    return found
