"""Importing concentrators from a table: all lines or none, as meters are."""

from dataclasses import dataclass, field
from pathlib import Path

from django.db import transaction

from ami_headend.core import names
from ami_headend.core.names import UnreadableNameError
from ami_headend.core.tables import BadLine, OnceEach, Row, opened, rows
from concentrators.fleet import registry
from concentrators.models import Concentrator
from keyvault.audit import chain
from keyvault.audit.chain import Actor

COLUMNS = ("name",)
_NAME_MAX = 120
_NAMED_IN_AUDIT = 100


@dataclass
class ConcentratorImportReport:
    """What an import did, or would do; where ``bad`` holds a line, nothing was changed."""

    new: list[str] = field(default_factory=list)
    unchanged: int = 0
    bad: list[BadLine] = field(default_factory=list)


def import_concentrators(path: Path, actor: Actor, *, dry_run: bool = False) -> ConcentratorImportReport:
    """Register the concentrators of a table with a column `name`; those that stand stay as they are.

    FileError where the table cannot be read; MasterKeyError or AuditError where it cannot be recorded.
    """
    report = ConcentratorImportReport()
    once = OnceEach("name")
    with opened(path) as stream:
        for row in rows(stream, COLUMNS, ()):
            try:
                name = _name(row)
                once.add(name, row.line)
                report.new.append(name)
            except ValueError as error:
                report.bad.append(BadLine(row.line, str(error)))
    with transaction.atomic():
        standing = set(Concentrator.objects.values_list(names.Alike("name"), flat=True))
        report.unchanged = sum(1 for name in report.new if names.alike(name) in standing)
        report.new = [name for name in report.new if names.alike(name) not in standing]
        if report.bad or dry_run or not report.new:
            return report
        for name in report.new:
            registry.save(Concentrator(name=name))
        subject = {"concentrators": len(report.new), "named": report.new[:_NAMED_IN_AUDIT], "file": path.name}
        chain.record(actor, "concentrator.import", subject, "let in")
    return report


def _name(row: Row | BadLine) -> str:
    if isinstance(row, BadLine):
        raise ValueError(row.reason)
    try:
        name = names.check(row.cells["name"])
    except UnreadableNameError as error:
        raise ValueError(f"name {ascii(row.cells['name'])[:80]}: {error}") from None
    if not 1 <= len(name) <= _NAME_MAX:
        raise ValueError(f"name is empty, or longer than {_NAME_MAX} characters")
    return name
