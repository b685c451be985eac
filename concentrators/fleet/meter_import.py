"""Import of meters: registry, keys and assignments in one transaction, all or nothing."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from django.db import connection, transaction

from ami_headend.core.sql import chunks
from ami_headend.core.tables import BadLine, FileError
from concentrators.commands import capture_period, concentrator_titles
from concentrators.commands.capture_period import IntervalError
from concentrators.fleet.assignments import AssignmentError, assign
from concentrators.models import Assignment, Concentrator
from concentrators.totals import totals
from keyvault import master_key
from keyvault.audit.chain import Actor, AuditError
from keyvault.device_keys import provisioning
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.master_key import MasterKeyError
from keyvault.models import DeviceKey, FleetKey, KeyState
from keyvault.schemes.table import USUAL, SchemeError, algorithm_name
from meters.models import Meter
from meters.registry.enrolment import Enrolment, enrol, plan_enrolment
from meters.registry.meter_file import MeterLine, read_meter_file

Progress = Callable[[str, int, int], None]  # the step, how many more meters are done, and of how many
REFUSALS = (FileError, MasterKeyError, AuditError, ProvisioningError, SchemeError, AssignmentError, IntervalError)


@dataclass(frozen=True)
class KeyPolicy:
    """The source of first keys for new meters: random, a fleet key, or (``make`` false) a later shipment.

    ``agreement_key`` names the one that ``sealed`` meters seal to, where there are several.
    """

    make: bool = True
    fleet_key: FleetKey | None = None
    agreement_key: str | None = None


@dataclass
class MeterImportReport:
    """What an import did or would do; if ``bad`` holds a line, nothing was changed."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    assigned: int = 0
    keyed: int = 0
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
    keys cannot be wrapped; AuditError if new keys cannot be recorded.
    """
    if keys.make and keys.fleet_key is None:
        master_key.current()
    report = MeterImportReport()
    with transaction.atomic():
        plan = plan_enrolment(lines, now, update=update, done=lambda count: progress("checking", count, len(lines)))
        concentrators = {row.name: row for row in Concentrator.objects.filter(name__in={x.concentrator for x in lines})}
        moving = _check(plan, concentrators, update=update)
        report.new, report.changed = len(plan.new), len({*(c.meter.pk for c in plan.changed), *moving})
        report.unchanged = len(plan.changed) + len(plan.unchanged) - report.changed
        report.assigned = sum(1 for line in plan.new if line.concentrator) + len(moving)
        report.schemes_unused = 0 if keys.make else sum(map(_names_a_kind, plan.new))
        report.bad = sorted(plan.bad)
        if report.bad or dry_run:
            transaction.set_rollback(True)
            return report
        lengths = [
            (change.meter, change.line.interval_minutes)
            for change in plan.changed
            if change.line.interval_minutes is not None and "interval_minutes" in change.columns
        ]
        if moving or lengths:
            totals.lock()  # as in ``assign``: before changes of meters advance the registry's generation
        added = enrol(plan, now, done=lambda count: progress("enrolling", count, len(plan.new) + len(plan.changed)))
        if keys.make:
            report.keyed = _provision(plan.new, keys, actor, progress)
        _assign_new(plan.new, added, concentrators, now)
        assign(((meter_id, row.pk) for meter_id, row in moving.items()), now)
        for chunk in chunks(lengths):
            capture_period.change_from_next_boundary(chunk, now)
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


def _check(plan: Enrolment, concentrators: dict[str, Concentrator], *, update: bool) -> dict[int, Concentrator]:
    """Report lines with an impossible concentrator or algorithm; return registered meters that move, with their new
    ones.
    """
    standing = [(change.line, change.meter) for change in plan.changed] + plan.unchanged
    for line in (*plan.new, *(line for line, _ in standing)):
        if line.concentrator and line.concentrator not in concentrators:
            plan.bad.append(BadLine(line.line, f"there is no concentrator {line.concentrator}; register it first"))
    _check_titles(plan)
    moving: dict[int, Concentrator] = {}
    for chunk in chunks(standing):
        _check_keys(plan, chunk)
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


def _check_titles(plan: Enrolment) -> None:
    """Add lines whose title is that of a concentrator: a title belongs to a meter or a concentrator, never both."""
    held = {bytes(row.system_title or b""): row for row in Concentrator.objects.exclude(system_title=None)}
    for line in plan.new:
        if owner := held.get(line.system_title):
            reason = f"system title {line.system_title.hex()} is that of concentrator {owner}"
            plan.bad.append(BadLine(line.line, reason))


def _check_keys(plan: Enrolment, chunk: Sequence[tuple[MeterLine, Meter]]) -> None:
    """Add lines whose scheme or algorithm differs from that of the meter's key: only a rotation changes these."""
    titles = [line.system_title for line, _ in chunk if line.algorithm or line.scheme]
    keys = DeviceKey.objects.filter(system_title__in=titles, epoch__gt=0, state=KeyState.ACTIVE)
    standing = {bytes(key.system_title): key for key in keys.only("system_title", "algorithm", "scheme")}
    for line, meter in chunk:
        key = standing.get(line.system_title)
        if key is None:
            continue
        if line.scheme not in (None, key.scheme):
            reason = f"the key of meter {meter} is of scheme {key.scheme}: only a new key changes that"
        elif line.algorithm not in (None, key.algorithm):
            reason = f"the key of meter {meter} is for {algorithm_name(key.algorithm)}: only a new key changes that"
        else:
            continue
        plan.bad.append(BadLine(line.line, reason))


def _names_a_kind(line: MeterLine) -> bool:
    """Whether a line asks for a key of another kind than the usual one."""
    return line.scheme not in (None, USUAL) or line.algorithm is not None


def _provision(lines: Sequence[MeterLine], keys: KeyPolicy, actor: Actor, progress: Progress) -> int:
    keyed: list[bytes] = []
    for chunk in chunks(lines):
        titles = [line.system_title for line in chunk]
        kept = set(map(bytes, DeviceKey.objects.filter(system_title__in=titles).values_list("system_title", flat=True)))
        alike: dict[tuple[str, int | None], list[bytes]] = {}
        for line in chunk:
            if line.system_title not in kept:
                alike.setdefault((line.scheme or USUAL, line.algorithm), []).append(line.system_title)
        for (scheme, algorithm), wanting in alike.items():
            provisioning.provision_devices(wanting, algorithm, keys.fleet_key, scheme, keys.agreement_key)
            keyed += wanting
        progress("making keys", len(chunk), len(lines))
    if keyed:
        provisioning.record_provisioned(actor, keyed, keys.fleet_key)
    return len(keyed)


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
