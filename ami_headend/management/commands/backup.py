"""manage.py backup: make a backup, list backups, prune."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError

from ami_headend.backup import making, pruning
from ami_headend.backup.programs import ProgramError
from ami_headend.core.commands import DomainCommand, bars
from ami_headend.core.text import counted
from ami_headend.database_roles import as_owner
from keyvault import backups
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.backups import BackupError
from keyvault.master_key import MasterKeyError
from keyvault.models import Backup

_DAYS_MAX = 36_500


class Command(DomainCommand):
    help = (
        "Make a backup of the database, list backups, or delete expired ones. The master key is not in it: keep that"
        " and the key journal in another place. It uses the role of OWNER_DATABASE_URL. Exits 1 if nothing was made."
    )
    examples = (
        "examples:\n"
        "  manage.py backup                        into BACKUP_DIR; prints the name of the new folder\n"
        "  manage.py backup create --to /mnt/b --keep-days 400\n"
        "  manage.py backup list                   all backups, and the master key versions that they need\n"
        "  manage.py backup prune --dry-run        what would be deleted: expired backups except the newest\n"
        "  manage.py backup prune 20260101T020000Z-1f2e\n"
        "                                          this one before its time, or if it is gone already\n\n"
        "While a backup is listed, no master key version that it needs can be destroyed. A backup that was copied\n"
        "away stays listed until it is pruned here. Prune deletes only the files of a backup whose manifest the\n"
        "master key proves, in BACKUP_DIR or the folder that you name.\n\n"
        "Then: manage.py restore, and regularly manage.py restore_drill."
    )
    refusals = (BackupError, ProgramError, MasterKeyError, AuditError)

    def add_arguments(self, parser: CommandParser) -> None:
        actions: Any = parser.add_subparsers(dest="action", parser_class=CommandParser)
        create = actions.add_parser("create", help="make a backup (the default)")
        create.add_argument("--to", type=Path, metavar="FOLDER", help="where to put its folder (default: BACKUP_DIR)")
        create.add_argument("--keep-days", type=int, metavar="DAYS", help="default: BACKUP_KEEP_DAYS")
        list_ = actions.add_parser("list", help="list all backups")
        list_.add_argument("--json", action="store_true", help="for programs")
        prune = actions.add_parser("prune", help="delete expired backups")
        prune.add_argument("names", nargs="*", metavar="NAME", help="these, even before their time")
        prune.add_argument("--to", type=Path, metavar="FOLDER", help="where they were made (default: BACKUP_DIR)")
        prune.add_argument("--dry-run", action="store_true", help="only say which")

    def handle(self, *args: Any, action: str | None, **options: Any) -> None:
        acts: dict[str, Callable[..., None]] = {"create": self.create, "list": self.show, "prune": self.prune}
        try:
            with as_owner():
                acts[action or "create"](**options)
        except DatabaseError as error:
            raise CommandError(f"the database does not answer: {str(error).splitlines()[0]}") from None

    def create(self, *, to: Path | None = None, keep_days: int | None = None, **options: Any) -> None:
        days = settings.BACKUP_KEEP_DAYS if keep_days is None else keep_days
        if not 0 <= days <= _DAYS_MAX:
            raise CommandError(f"--keep-days must be a number from 0 to {_DAYS_MAX}")
        with bars() as progress:
            done = progress.step("dumping (its size is at most that of the database)", making.database_octets())
            folder, made = making.make(
                to or Path(settings.BACKUP_DIR), chain.command_actor(), datetime.now(UTC), days, done
            )
        rows = sum(made.counts.values())
        self.stderr.write(
            f"{made.octets / 1024**2:.1f} MiB, {counted(rows, 'row')}, journal up to {made.journal_number}, audit head "
            f"{made.audit_head}. It needs master key version {', '.join(map(str, made.master_key_versions))}."
        )
        self.stdout.write(str(folder))

    def show(self, *, json: bool = False, **options: Any) -> None:
        kept = list(backups.retained())
        if json:
            self.write_json([_told(one) for one in kept])
            return
        for one in kept:
            state = f"{(one.octets or 0) / 1024**2:.1f} MiB" if one.finished_at else "UNFINISHED"
            versions = ", ".join(map(str, sorted({*one.versions, one.active_version})))
            self.stdout.write(
                f"{one.name}  {state}, kept until {one.keep_until:%Y-%m-%d}, master key {versions}, {one.place}"
            )
        if not kept:
            self.stdout.write("There is no backup.")

    def prune(self, *, names: list[str], dry_run: bool, to: Path | None = None, **options: Any) -> None:
        folder = to or Path(settings.BACKUP_DIR)
        pruned = pruning.prune(chain.command_actor(), datetime.now(UTC), names, folder, dry_run=dry_run)
        for one, result in pruned:
            self.stdout.write(f"{'Would prune' if dry_run else 'Pruned'} {one.name} at {one.place}: {result}")
        if not pruned:
            self.stdout.write("Nothing to prune.")
        elif not dry_run:
            self.stdout.write("Delete their copies elsewhere too.")


def _told(one: Backup) -> dict[str, Any]:
    return {
        "name": one.name,
        "place": one.place,
        "made_at": one.made_at,
        "keep_until": one.keep_until,
        "whole": one.finished_at is not None,
        "octets": one.octets,
        "sha256": None if one.sha256 is None else bytes(one.sha256).hex(),
        "journal_number": one.journal_number,
        "master_key_versions": sorted({*one.versions, one.active_version}),
    }
