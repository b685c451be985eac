"""Import of concentrators from a table: all lines or none, as for meters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from django.db import transaction

from ami_headend.core import names
from ami_headend.core.csv_tables import BadLine, OnceEach, Row, opened, rows
from ami_headend.core.names import UnreadableNameError
from concentrators.fleet import concentrator_keys, groups, registry
from concentrators.models import Concentrator
from keyvault.audit import chain
from keyvault.audit.chain import Actor
from meters.group_models import TAG
from meters.registry.groups import GroupName, parse_all
from meters.registry.lookup import parse_system_title

COLUMNS = ("name",)
OPTIONAL = ("system_title", "groups", "tags")
_NAME_MAX = 120


@dataclass
class ConcentratorImportReport:
    """What an import did or would do; if ``bad`` holds a line, nothing was changed."""

    new: list[str] = field(default_factory=list)
    titled: int = 0  # existing ones that get a system title
    grouped: int = 0  # memberships of groups that are new; not counted by a dry run
    unchanged: int = 0
    bad: list[BadLine] = field(default_factory=list)


class _Line(NamedTuple):
    """A line of the table: the name, the system title (8 octets), if any, and the groups and tags."""

    line: int
    name: str
    title: bytes | None
    groups: Sequence[GroupName]


def import_concentrators(path: Path, actor: Actor, *, dry_run: bool = False) -> ConcentratorImportReport:
    """Register the concentrators of a table with columns `name` and, for those that hold keys, `system_title`.

    Existing ones stay unchanged, except that one without a title may get one, and that they are put into what `groups`
    and `tags` name (several with | between them). FileError if the table cannot be read; GroupError while an import of
    meters holds groups; MasterKeyError or AuditError if the import cannot be recorded.
    """
    report = ConcentratorImportReport()
    lines: list[_Line] = []
    names_once, titles_once = OnceEach("name"), OnceEach("system_title")
    with opened(path) as stream:
        for row in rows(stream, COLUMNS, OPTIONAL):
            try:
                line = _line(row)
                names_once.add(line.name, line.line)
                if line.title is not None:
                    titles_once.add(line.title, line.line)
                lines.append(line)
            except ValueError as error:
                report.bad.append(BadLine(row.line, str(error)))
    with transaction.atomic():
        if any(line.groups for line in lines):
            groups.lock()
        standing = {names.alike(one.name): one for one in Concentrator.objects.all()}
        wanted = [one for line in lines if (one := _wanted(line, standing.get(names.alike(line.name)), report))]
        report.bad += _taken(wanted, standing.values())
        report.bad.sort()
        if report.bad or dry_run:
            return report
        for _, concentrator in wanted:
            registry.save(concentrator, ["system_title"])
            standing[names.alike(concentrator.name)] = concentrator
        report.grouped = _put(lines, standing, actor)
        if not wanted:
            return report
        named = [concentrator.name for _, concentrator in wanted[: chain.NAMED_MAX]]
        subject = {"concentrators": len(wanted), "named": named, "file": path.name}
        chain.record(actor, "concentrator.import", subject, "registered")
    return report


def _wanted(
    line: _Line, standing: Concentrator | None, report: ConcentratorImportReport
) -> tuple[_Line, Concentrator] | None:
    """Return the row to save for a line, and count the line in the report; None if nothing changes."""
    if standing is None:
        report.new.append(line.name)
        return line, Concentrator(name=line.name, system_title=line.title)
    before = None if standing.system_title is None else bytes(standing.system_title)
    if line.title is None or before == line.title:
        report.unchanged += 1
        return None
    if before is not None:
        report.bad.append(BadLine(line.line, f"concentrator {standing} has system title {before.hex()}"))
        return None
    report.titled += 1
    standing.system_title = line.title
    return line, standing


def _put(lines: Sequence[_Line], registered: Mapping[str, Concentrator], actor: Actor) -> int:
    """Put concentrators into the groups of their lines, which are made where they are new; how many memberships."""
    wanted = groups.Wanted({}, {})
    for line in lines:
        for name in line.groups:
            wanted.add(name, concentrators=registered[names.alike(line.name)].pk)
    return sum(groups.put_all(wanted, actor)[1]) if wanted.names else 0


def _taken(wanted: Sequence[tuple[_Line, Concentrator]], standing: Iterable[Concentrator]) -> list[BadLine]:
    """Return the lines whose title belongs to a meter or to another concentrator."""
    reasons = concentrator_keys.taken([line.title for line, _ in wanted if line.title is not None])
    given = {id(concentrator) for _, concentrator in wanted}
    for one in standing:
        if one.system_title is not None and id(one) not in given:
            reasons[bytes(one.system_title)] = f"is that of concentrator {one}"
    return [
        BadLine(line.line, f"system title {line.title.hex()} {reasons[line.title]}")
        for line, _ in wanted
        if line.title is not None and line.title in reasons
    ]


def _line(row: Row | BadLine) -> _Line:
    if isinstance(row, BadLine):
        raise ValueError(row.reason)
    try:
        name = names.check(row.cells["name"])
    except UnreadableNameError as error:
        raise ValueError(f"name {ascii(row.cells['name'])[:80]}: {error}") from None
    if not 1 <= len(name) <= _NAME_MAX:
        raise ValueError(f"name is empty, or longer than {_NAME_MAX} characters")
    title = row.cells.get("system_title", "")
    named = [*parse_all(row.cells.get("groups", "")), *parse_all(row.cells.get("tags", ""), TAG)]
    return _Line(row.line, name, parse_system_title(title) if title else None, named)
