"""Import of members of groups from a table: all lines or none, as for meters."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from django.db import transaction

from ami_headend.core import names
from ami_headend.core.csv_tables import BadLine, FileError, Row, opened, rows
from ami_headend.core.names import Alike, UnreadableNameError, alike
from ami_headend.core.sql import chunks
from concentrators.fleet import groups as acts
from concentrators.fleet.groups import Counts, Wanted
from concentrators.models import Concentrator
from keyvault.audit.chain import Actor
from meters.models import Meter, Place
from meters.registry import groups
from meters.registry.groups import GroupName
from meters.registry.lookup import RegistryError, parse_system_title

COLUMNS = ("group",)
MEMBERS = ("meter", "place", "concentrator")


@dataclass
class GroupImportReport:
    """What an import did or would do; if ``bad`` holds a line, nothing was changed."""

    lines: int = 0
    new_groups: list[str] = field(default_factory=list)
    changed: Counts = Counts()  # noqa: RUF009 - a tuple never changes
    bad: list[BadLine] = field(default_factory=list)


class _Line(NamedTuple):
    """A line: a group, and the meter, place or concentrator that is to be in it."""

    line: int
    group: GroupName
    what: str
    member: str


def import_members(
    path: Path, actor: Actor, *, take: bool = False, dry_run: bool = False, lines_max: int | None = None
) -> GroupImportReport:
    """Put the members of a table into groups, which are made where they are new; with ``take`` take them out.

    Columns: group (kind:name, or a tag), and one of meter (serial number or system title), place, concentrator.
    FileError if the table cannot be read; GroupError, AuditError, MasterKeyError: nothing was changed.
    """
    report = GroupImportReport()
    lines = _read(path, report, lines_max)
    with transaction.atomic():
        acts.lock()
        standing = groups.named({line.group.key: line.group for line in lines}.values())
        wanted = Wanted({}, {})
        for chunk in chunks(lines):
            _resolve(chunk, wanted, report)
        new = [name for key, name in wanted.names.items() if key not in standing]
        if take:
            report.bad += [
                BadLine(line.line, f"there is no group {line.group}")
                for line in lines
                if line.group.key not in standing
            ]
        report.bad.sort()
        if report.bad:
            return report
        if take:
            report.changed = acts.take_all(wanted, actor)
        else:
            report.new_groups = [str(name) for name in new]
            _, report.changed = acts.put_all(wanted, actor)
        if dry_run:
            transaction.set_rollback(True)
    return report


def _read(path: Path, report: GroupImportReport, lines_max: int | None) -> list[_Line]:
    found: list[_Line] = []
    with opened(path) as stream:
        for row in rows(stream, COLUMNS, MEMBERS):
            report.lines += 1
            if lines_max is not None and report.lines > lines_max:
                raise FileError(f"it has more than {lines_max:,} lines: manage.py group import takes any number")
            try:
                found.append(_line(row))
            except ValueError as error:
                report.bad.append(BadLine(row.line, str(error)))
    return found


def _line(row: Row | BadLine) -> _Line:
    if isinstance(row, BadLine):
        raise ValueError(row.reason)
    given = {what: row.cells[what] for what in MEMBERS if row.cells.get(what)}
    if len(given) != 1:
        raise ValueError(f"one of {', '.join(MEMBERS)} must be given, and only one")
    (what, written), *_ = given.items()
    try:
        member = names.check(written)
    except UnreadableNameError as error:
        raise ValueError(f"{what} {ascii(written)[:80]}: {error}") from None
    return _Line(row.line, groups.parse(row.cells["group"]), what, member)


def _resolve(chunk: Sequence[_Line], wanted: Wanted, report: GroupImportReport) -> None:
    """Add the members of lines by their ids, or what is wrong with a line; four queries at most."""
    for what, look in _LOOKS.items():
        lines = [line for line in chunk if line.what == what]
        found = look([line.member for line in lines]) if lines else {}
        for line in lines:
            if (number := found.get(line.member)) is None:
                report.bad.append(BadLine(line.line, f"there is no {what} {line.member[:80]}"))
            else:
                wanted.add(line.group, **{f"{what}s": number})


def meter_ids(written: Sequence[str]) -> dict[str, int]:
    """Return the meters of serial numbers or system titles, by what was written. Two queries."""
    serials = {alike(text) for text in written}
    by_serial = dict(
        Meter.objects.annotate(alike=Alike("serial_number")).filter(alike__in=serials).values_list("alike", "pk")
    )
    titles: dict[str, bytes] = {}
    for text in written:
        if alike(text) not in by_serial:
            with suppress(RegistryError):
                titles[text] = parse_system_title(text)
    rows = Meter.objects.filter(system_title__in=list(titles.values())).values_list("system_title", "pk")
    by_title = {bytes(title): pk for title, pk in rows} if titles else {}
    by_text = {text: by_title[title] for text, title in titles.items() if title in by_title}
    return {text: by_serial[alike(text)] for text in written if alike(text) in by_serial} | by_text


def place_ids(written: Sequence[str]) -> dict[str, int]:
    """Return the places of names, by what was written. One query."""
    return _by_name(Place, written)


def concentrator_ids(written: Sequence[str]) -> dict[str, int]:
    """Return the concentrators of names, by what was written. One query."""
    return _by_name(Concentrator, written)


def _by_name(model: type[Place] | type[Concentrator], written: Sequence[str]) -> dict[str, int]:
    rows = model.objects.annotate(alike=Alike("name")).filter(alike__in={alike(text) for text in written})
    found = dict(rows.values_list("alike", "pk"))
    return {text: found[alike(text)] for text in written if alike(text) in found}


_LOOKS: dict[str, Callable[[Sequence[str]], dict[str, int]]] = {
    "meter": meter_ids,
    "place": place_ids,
    "concentrator": concentrator_ids,
}
