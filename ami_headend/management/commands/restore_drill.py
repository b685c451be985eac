"""manage.py restore_drill: try a backup in a scratch database."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, transaction

from ami_headend.backup.drill import drill
from ami_headend.core.commands import DomainCommand, bars
from ami_headend.database_roles import as_owner
from ami_headend.health.results import CheckResult
from ami_headend.management.commands.doctor import tell
from keyvault import master_key as masterkey
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.backups import BackupError
from keyvault.journal import writing
from keyvault.master_key import FileProvider, MasterKeyError


class Command(DomainCommand):
    help = (
        "Restore a backup into a scratch database, open every key with the master key, compare every count with the"
        " manifest, verify the audit chain, replay the key journal, and drop it. Exits 1 on any finding."
    )
    examples = (
        "examples:\n"
        "  manage.py restore_drill /mnt/b/20260101T020000Z-1f2e\n"
        "  manage.py restore_drill BACKUP --master-key /mnt/safe/master.keys --json\n"
        "      with the copy of the master key that a real restore would depend on\n\n"
        "It needs a role that may create databases, and space for one more. It does not affect what runs meanwhile."
    )
    refusals = (BackupError,)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("backup", type=Path, help="a folder that manage.py backup made")
        parser.add_argument("--master-key", type=Path, metavar="FILE", help="instead of this deployment's")
        parser.add_argument(
            "--journal",
            action="append",
            type=Path,
            metavar="FOLDER",
            help="repeatable (default: KEY_JOURNAL_DIR and its mirrors)",
        )
        parser.add_argument("--without-journal", action="store_true", help="only the backup")
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")

    def handle(self, *args: Any, backup: Path, master_key: Path | None, json: bool, **options: Any) -> None:
        folders = options["journal"] or writing.folders()
        findings = self.drill(backup, master_key, [] if options["without_journal"] else folders)
        tell(self, findings, json=json)
        self.record(backup, findings)
        if not all(finding.well for finding in findings):
            sys.exit(1)

    def drill(self, backup: Path, master_key: Path | None, folders: list[Path]) -> list[CheckResult]:
        try:
            with as_owner(), ExitStack() as stack:
                if master_key is not None:
                    stack.enter_context(masterkey.using(FileProvider(master_key)))
                progress = stack.enter_context(bars())
                return drill(backup, folders, progress.step)
        except DatabaseError as error:
            raise CommandError(f"the drill ended early: {str(error).splitlines()[0]}") from None

    def record(self, backup: Path, findings: list[CheckResult]) -> None:
        """Record the drill in the audit chain of the present database, if there is one."""
        failed = [finding.name for finding in findings if not finding.well]
        result = f"failed: {', '.join(failed)}" if failed else "well"
        try:
            with transaction.atomic():
                chain.record(chain.command_actor(), "backup.drill", {"backup": backup.name}, result)
        except (DatabaseError, AuditError, MasterKeyError) as error:
            self.stderr.write(f"The drill was not recorded in the audit chain: {str(error).splitlines()[0]}")
