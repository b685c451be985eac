"""Import of meters: registry, keys and assignments in one transaction, all or nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from django.db import connection, transaction

from ami_headend.core import locks
from ami_headend.core.csv_tables import BadLine, FileError
from ami_headend.core.sql import chunks
from concentrators.commands import capture_period, concentrator_titles
from concentrators.commands.capture_period import IntervalError
from concentrators.fleet import first_keys, groups, imported_groups
from concentrators.fleet.assignments import AssignmentError, assign, moved_away
from concentrators.fleet.first_keys import KeyPolicy, Progress
from concentrators.models import Assignment, Concentrator
from concentrators.totals import totals
from keyvault import master_key
from keyvault.audit import chain
from keyvault.audit.chain import Actor, AuditError
from keyvault.device_keys import inventory
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.master_key import MasterKeyError
from keyvault.schemes.table import USUAL, SchemeError
from meters.models import Meter
from meters.registry.groups import GroupError
from meters.registry.import_plan import ImportPlan, carry_out, plan_import
from meters.registry.meter_file import MeterLine, read_meter_file

REFUSALS = (
    *(FileError, MasterKeyError, AuditError, ProvisioningError, SchemeError, AssignmentError, IntervalError),
    GroupError,
)


@dataclass
class MeterImportReport:
    """What an import did or would do; if ``bad`` holds a line, nothing was changed."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    assigned: int = 0
    keyed: int = 0
    awaited: int = 0
    grouped: int = 0  # memberships of groups that are new, of meters and of their places
    schemes_unused: int = 0  # lines that name what belongs to a key, and no key is made
    bad: list[BadLine] = field(default_factory=list)


def import_meters(
    lines: Sequence[MeterLine],
    now: datetime,
    keys: KeyPolicy,
    actor: Actor,
    *,
    update: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda step, count, total: None,
) -> MeterImportReport:
    """Enrol the meters of a file, give new ones keys, and assign them to the named concentrators.

    New meters are assigned from their commissioning on, others (with ``update``) from ``now``. A changed interval
    length holds from the next common boundary of both lengths. Meters with keys keep them. MasterKeyError if random
    keys cannot be wrapped; AuditError if it cannot be recorded; AgreementKeyError if one is wanted and missing.
    """
    if keys.make and keys.fleet_key is None:
        master_key.current()
    report = MeterImportReport()
    with transaction.atomic():
        if imported_groups.are_named(lines):
            groups.lock()
        elif keys.make:
            locks.share(locks.GROUPS)  # before the record of audit, as whoever changes groups
        plan = plan_import(lines, now, update=update, done=lambda count: progress("checking", count, len(lines)))
        concentrators = {row.name: row for row in Concentrator.objects.filter(name__in={x.concentrator for x in lines})}
        moving = _check(plan, concentrators, update=update)
        standing = [(change.line, change.meter) for change in plan.changed] + plan.unchanged
        joining = imported_groups.check(plan, standing, update=update)
        key_plan = first_keys.check(plan.new, standing, keys, update=update)
        plan.bad += key_plan.bad
        late = {line.system_title for line in key_plan.late}
        changing = {meter.pk for line, meter in standing if line.system_title in late}
        changing |= {*(c.meter.pk for c in plan.changed), *moving, *(meter.pk for _, meter in joining)}
        report.new, report.changed = len(plan.new), len(changing)
        report.unchanged = len(plan.changed) + len(plan.unchanged) - report.changed
        report.assigned = sum(1 for line in plan.new if line.concentrator) + len(moving)
        report.schemes_unused = 0 if keys.make else sum(map(_names_a_kind, plan.new))
        report.bad = sorted(plan.bad)
        if report.bad or dry_run:
            transaction.set_rollback(True)
            return report
        lengths = _new_lengths(plan)
        if moving or lengths:
            totals.lock()  # as in ``assign``: before changes of meters advance the registry's generation
        added = carry_out(plan, now, done=lambda count: progress("enrolling", count, len(plan.new) + len(plan.changed)))
        if keys.make:
            report.keyed, report.awaited = first_keys.give([*plan.new, *key_plan.late], keys, actor, now, progress)
        _assign_new(plan.new, added, concentrators, now)
        assign(((meter_id, row.pk) for meter_id, row in moving.items()), now)
        report.grouped = imported_groups.put(plan.new, added, joining, actor)
        for chunk in chunks(lengths):
            capture_period.change_from_next_boundary(chunk, now)
        if report.new or report.changed:
            titles = [line.system_title for line in plan.new]
            titles += [bytes(meter.system_title) for _, meter in standing if meter.pk in changing]
            counts = {"new": report.new, "changed": report.changed, "assigned": report.assigned}
            named = [title.hex() for title in titles[: chain.NAMED_MAX]]
            chain.record(actor, "meter.import", {"devices": named, **counts})
    return report


def import_file(
    path: Path,
    keys: KeyPolicy,
    actor: Actor,
    now: datetime,
    *,
    update: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda step, count, total: None,
    lines_max: int | None = None,
    octets_max: int | None = None,
) -> MeterImportReport:
    """Import a table of meters, all its lines or none; one of REFUSALS if that fails.

    FileError if it is not a table, or has more lines or unpacked octets than allowed.
    """
    file = read_meter_file(path, lines_max, octets_max)
    report = import_meters(
        file.lines, now, keys, actor, update=update, dry_run=dry_run or bool(file.bad), progress=progress
    )
    report.bad = sorted([*file.bad, *report.bad])
    return report


def _new_lengths(plan: ImportPlan) -> list[tuple[Meter, int]]:
    """Return the meters whose interval length changes, each with the new one in minutes."""
    return [
        (change.meter, change.line.interval_minutes)
        for change in plan.changed
        if change.line.interval_minutes is not None and "interval_minutes" in change.columns
    ]


def _check(plan: ImportPlan, concentrators: dict[str, Concentrator], *, update: bool) -> dict[int, Concentrator]:
    """Report lines with an impossible concentrator; return registered meters that move, with their new ones."""
    standing = [(change.line, change.meter) for change in plan.changed] + plan.unchanged
    away = moved_away([row.pk for row in concentrators.values()])
    for line in (*plan.new, *(line for line, _ in standing)):
        if line.concentrator and line.concentrator not in concentrators:
            plan.bad.append(BadLine(line.line, f"there is no concentrator {line.concentrator}; register it first"))
        elif line.concentrator and (cell := away.get(concentrators[line.concentrator].pk)):
            reason = f"concentrator {line.concentrator} was moved to cell {cell}: import the meter there"
            plan.bad.append(BadLine(line.line, reason))
    _check_titles(plan)
    moving: dict[int, Concentrator] = {}
    for chunk in chunks(standing):
        pairs = Assignment.objects.filter(meter__in=[meter.pk for _, meter in chunk], valid_to=None)
        current = dict(pairs.values_list("meter_id", "concentrator__name"))
        for line, meter in chunk:
            row = concentrators.get(line.concentrator or "")
            if row is None or current.get(meter.pk) == row.name:
                continue
            if update:
                moving[meter.pk] = row
            else:
                reason = f"meter {meter} is registered with another concentrator"
                plan.bad.append(BadLine(line.line, reason))
    return moving


def _check_titles(plan: ImportPlan) -> None:
    """Add lines whose title is that of a concentrator: a title belongs to a meter or a concentrator, never both."""
    held = {
        bytes(row.system_title or b""): f"is that of concentrator {row}"
        for row in Concentrator.objects.exclude(system_title=None)
    }
    for lines in chunks(plan.new):
        reasons = inventory.of_concentrators([line.system_title for line in lines]) | held
        for line in lines:
            if reason := reasons.get(line.system_title):
                plan.bad.append(BadLine(line.line, f"system title {line.system_title.hex()} {reason}"))


def _names_a_kind(line: MeterLine) -> bool:
    """Whether a line asks for a key of another scheme or algorithm than usual."""
    return line.scheme not in (None, USUAL) or line.algorithm is not None


def _assign_new(
    lines: Iterable[MeterLine], added: dict[bytes, int], concentrators: dict[str, Concentrator], now: datetime
) -> None:
    """Insert plain rows: a new meter has no readings, so no totals move."""
    rows = [
        (added[line.system_title], concentrators[line.concentrator].pk, line.commissioned_at or now)
        for line in lines
        if line.concentrator
    ]
    for chunk in chunks(rows):
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO concentrators_assignment (meter_id, concentrator_id, valid_from)"
                " SELECT * FROM unnest(%s::int[], %s::int[], %s::timestamptz[])",
                [list(column) for column in zip(*chunk, strict=True)],
            )
        concentrator_titles.tell({meter_id: home for meter_id, home, _ in chunk}, now, now)
