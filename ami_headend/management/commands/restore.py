"""manage.py restore: restore a backup, and replay the key journal since."""

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, connection

from ami_headend.backup import databases, restoring
from ami_headend.backup.manifest import Manifest
from ami_headend.backup.programs import ProgramError
from ami_headend.backup.restoring import Step
from ami_headend.core.commands import DomainCommand, bars
from ami_headend.core.text import counted
from ami_headend.database_roles import RoleError, as_owner, working_role
from keyvault import journal
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.backups import BackupError
from keyvault.journal import replay, writing
from keyvault.journal.replay import ReplayError
from keyvault.master_key import MasterKeyError

NOT_REPLAYED = 2  # exit code: the dump is loaded, but nothing is verified until the journal is replayed
_REFUSALS = (BackupError, ProgramError, MasterKeyError, AuditError, ReplayError, RoleError)


class Command(DomainCommand):
    help = (
        "Restore a backup: load its dump, replay the key journal since, and let verification continue. Exits 0"
        " if all is done, 1 if nothing was changed, 2 if the dump is loaded but the journal is not replayed:"
        " uplinks are then accepted, but wait."
    )
    examples = (
        "examples:\n"
        "  manage.py restore /mnt/b/20260101T020000Z-1f2e\n"
        "      into the database of DATABASE_URL, which must be empty\n"
        "  manage.py restore BACKUP --journal /mnt/host-a/journal --journal /mnt/host-b/journal\n"
        "      with the key journals of every host\n"
        "  manage.py restore BACKUP --database headend2\n"
        "      into another database of the same server, made if it does not exist\n"
        "  manage.py restore BACKUP --replace\n"
        "      replaces the content of the database; asks for its name\n"
        "  manage.py restore --replay\n"
        "      only the journal: after exit code 2, or after another kind of restore\n"
        "      (point in time recovery)\n\n"
        "Stop workers and web first. Start the web once the dump is loaded, the workers once this has ended.\n"
        "Uplinks of the replaced database that the dump lacks are carried over and verified again. If a restore\n"
        "is interrupted, run the same command again: it continues. Ids continue far above those of the dump, so\n"
        "that no id assigned since comes again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("backup", nargs="?", type=Path, help="a folder that manage.py backup made")
        parser.add_argument(
            "--journal",
            action="append",
            type=Path,
            metavar="FOLDER",
            help="repeatable (default: KEY_JOURNAL_DIR and its mirrors)",
        )
        parser.add_argument("--database", metavar="NAME", help="instead of the one in DATABASE_URL")
        parser.add_argument("--replace", action="store_true", help="replace the content of the database")
        parser.add_argument("--yes-replace", metavar="NAME", help="the database's name, instead of typing it")
        parser.add_argument("--replay", action="store_true", help="only replay the journal into the present database")
        parser.add_argument(
            "--incomplete-journal",
            action="store_true",
            help="continue although a part of the journal is missing or damaged",
        )

    def handle(self, *args: Any, backup: Path | None, database: str | None, **options: Any) -> None:
        if (backup is None) != options["replay"]:
            raise CommandError("Name the backup to restore, or --replay for only the journal.")
        folders = options["journal"] or writing.folders()
        role = working_role()
        with as_owner(), ExitStack() as stack:
            try:
                if database is not None:
                    if backup is not None and not databases.exists(database):
                        databases.create(database)
                    stack.enter_context(databases.connected_to(database))
                step = stack.enter_context(bars()).step
                if backup is not None:
                    loaded = self.load(backup, folders, step, role, options)
                else:
                    loaded = None
                    if journal.is_open():
                        replay.pause()
            except _REFUSALS as error:
                raise CommandError(f"{error}. Nothing was changed.") from None
            except DatabaseError as error:
                raise CommandError(f"{str(error).splitlines()[0]}. Nothing was changed.") from None
            self.replay(folders, step, loaded, role, incomplete=options["incomplete_journal"])

    def load(
        self, backup: Path, folders: list[Path], step: Step, role: str | None, options: dict[str, Any]
    ) -> Manifest:
        found, dump = restoring.examine(backup, folders, step, incomplete=options["incomplete_journal"])
        if restoring.is_loaded(found):
            self.stderr.write(f"The dump of {found.name} is loaded already: continuing with the key journal.")
            return found
        if options["replace"]:
            restoring.check_nobody_works(role)
            _confirm(options["yes_replace"])
        restoring.load(dump, step("loading the dump", found.octets), replace=options["replace"])
        return found

    def replay(
        self, folders: list[Path], step: Step, loaded: Manifest | None, role: str | None, *, incomplete: bool
    ) -> None:
        try:
            restoring.bring_up_to_date(role)
            if loaded is not None:
                self.stderr.write(
                    f"Loaded backup {loaded.name} of {loaded.made_at}. Uplinks can be accepted from now on."
                )
            outcome = restoring.replay_journal(
                folders, chain.command_actor(), datetime.now(UTC), step, incomplete=incomplete
            )
        except (*_REFUSALS, DatabaseError) as error:
            raise CommandError(
                f"{error}\nNothing is verified until the key journal is replayed: correct this, then run manage.py "
                "restore --replay.",
                returncode=NOT_REPLAYED,
            ) from None
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(outcome.records.items()))
        self.stdout.write(
            f"Replayed {counted(outcome.records.total(), 'record')} of the key journal, up to number "
            f"{outcome.last_number}{f' ({kinds})' * bool(kinds)}. Verification continues."
        )
        for note in outcome.notes:
            self.stdout.write(f"- {note}")
        self.stdout.write("- Restart the workers, then: manage.py doctor, manage.py audit verify")


def _confirm(typed: str | None) -> None:
    name = str(connection.settings_dict["NAME"])
    if typed is None:
        try:
            typed = input(f"All content of database {name} will be gone. Type its name to continue: ").strip()
        except EOFError:
            typed = ""
    if typed != name:
        raise CommandError(f"{typed!r} is not {name}: nothing was changed.")
