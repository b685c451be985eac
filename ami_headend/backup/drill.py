"""A trial restore: into a scratch database, with every key opened and everything compared with the manifest."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from django.db import DatabaseError, transaction

from ami_headend.backup import databases, making, manifest, restoring
from ami_headend.backup.manifest import Manifest
from ami_headend.backup.programs import ProgramError
from ami_headend.backup.restoring import Step
from ami_headend.core.text import counted
from ami_headend.health.results import CheckResult
from keyvault import master_key
from keyvault.audit import chain
from keyvault.audit.chain import AuditError, Head
from keyvault.backups import BackupError
from keyvault.journal import replay
from keyvault.journal.replay import ReplayError
from keyvault.master_key import MasterKeyError, census
from keyvault.models import AuditRecord

_NAMED = 5


def drill(folder: Path, folders: Sequence[Path], step: Step) -> list[CheckResult]:
    """Return every finding of a drill; the scratch database is dropped by then. BackupError if none could be made.

    ``masterkey.using`` may set another master key.
    """
    findings = []
    try:
        found = manifest.read(folder, master_key.provider().fresh())
        findings.append(
            CheckResult("manifest", True, f"backup {found.name} of {found.made_at}, proven by the master key")
        )
        dump = manifest.check_dump(folder, found, step("reading the dump", found.octets))
        findings.append(CheckResult("dump", True, f"{found.octets} octets, SHA-256 {found.sha256}"))
        restoring.check_release(found)
    except (BackupError, MasterKeyError) as error:
        return [
            *findings,
            CheckResult("manifest" if not findings else "dump", False, str(error), "Drill another backup."),
        ]
    known = _acts_at_present(found.head)
    with databases.scratch():
        try:
            restoring.load(dump, step("loading the dump", found.octets), replace=False)
        except ProgramError as error:
            return [
                *findings,
                CheckResult("load", False, str(error), "Drill another backup, and see the server's log."),
            ]
        findings.append(CheckResult("load", True, "into a scratch database, in one transaction"))
        findings += _examine(found, folders, known, step)
    return findings


def _acts_at_present(of_backup: Head) -> int:
    """Return how many acts the audit chain of the present database has; 0 if there is none, or not the backup's."""
    try:
        with transaction.atomic():
            is_same = AuditRecord.objects.filter(number=of_backup.number, mac=of_backup.mac).exists()
            return chain.head().number if is_same else 0
    except DatabaseError:
        return 0


def _examine(found: Manifest, folders: Sequence[Path], known: int, step: Step) -> Iterable[CheckResult]:
    yield _counts(found)
    restoring.bring_up_to_date(None)
    yield _keys(step)
    yield _audit(found)
    if folders:
        yield _journal(found, folders, known, step)


def _counts(found: Manifest) -> CheckResult:
    counts = making.counts()
    tables = sorted(set(counts) | set(found.counts))
    others = [table for table in tables if counts.get(table) != found.counts.get(table)]
    if others:
        named = ", ".join(
            f"{table} {counts.get(table)} instead of {found.counts.get(table)}" for table in others[:_NAMED]
        )
        return CheckResult(
            "counts",
            False,
            f"{counted(len(others), 'table differs', 'tables differ')}: {named}",
            "Do not rely on this backup.",
        )
    rows, held = counted(sum(counts.values()), "row"), counted(len(counts), "table")
    return CheckResult("counts", True, f"{rows} in {held}, as the manifest says")


def _keys(step: Step) -> CheckResult:
    total = sum(count.secrets for count in census.census())
    to_do = "Name the master key that belongs to the backup (--master-key), or restore those rows from another backup."
    try:
        verified = census.verify(step("opening every key", total))
    except MasterKeyError as error:
        return CheckResult("keys", False, str(error), to_do)
    if verified.faults:
        named = "; ".join(verified.faults[:_NAMED])
        return CheckResult("keys", False, f"{len(verified.faults)} of {total} do not open: {named}", to_do)
    return CheckResult("keys", True, f"all {verified.opened} open")


def _audit(found: Manifest) -> CheckResult:
    try:
        head = chain.verify(found.head)
    except (AuditError, MasterKeyError) as error:
        return CheckResult(
            "audit chain", False, str(error), "Somebody changed it before the backup, or inside the backup."
        )
    return CheckResult(
        "audit chain", True, f"{counted(head.number, 'record')}, none changed; its head is the exported one"
    )


def _journal(found: Manifest, folders: Sequence[Path], known: int, step: Step) -> CheckResult:
    """Replay the journal into the scratch database; it should have the acts that are ``known`` to the present one."""
    to_do = "Name the journals of all hosts, or their mirrors (--journal); see manage.py journal verify."
    try:
        journal = restoring.read_journal(folders, master_key.provider().fresh(), found.journal_number, step)
        restoring.check_journal(journal, found.name, incomplete=False)
        with transaction.atomic():
            progress = step("replaying the key journal", len(journal))
            outcome = replay.apply(journal, restoring.replayers(journal), datetime.now(UTC), progress)
            verified = census.verify()
            head = chain.verify()
    except (BackupError, ReplayError, AuditError, MasterKeyError) as error:
        return CheckResult("key journal", False, str(error), to_do)
    if verified.faults:
        return CheckResult("key journal", False, f"keys do not open: {'; '.join(verified.faults[:_NAMED])}", to_do)
    if outcome.unchained:
        acts = counted(outcome.unchained, "act")
        said = f"{acts} cannot be put back, for those before them are missing: a journal was not read"
        return CheckResult("key journal", False, said, to_do)
    if known > head.number:
        acts = counted(known - head.number, "act")
        return CheckResult(
            "key journal", False, f"the present database knows {acts} more: a journal was not read", to_do
        )
    replayed = counted(len(journal), "record since the backup replays", "records since the backup replay")
    return CheckResult(
        "key journal",
        True,
        f"{replayed}: {counted(verified.opened, 'key opens', 'keys open')}, {counted(head.number, 'audit record')}",
    )
