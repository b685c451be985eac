"""Restoring a backup: its dump loaded in one transaction, then the key journal replayed, then the vault opened.

Between the two the database takes uplinks and verifies nothing. Every step can be done again: a load that was
cut short has left nothing, and a replay neither; one that was whole is not loaded a second time. What stood in the
database waits aside until the end, and the uplinks in it that the dump lacks are carried over.
"""

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import connection, connections

from ami_headend.backup import databases, identifiers, manifest, programs
from ami_headend.backup.manifest import Manifest
from ami_headend.backup.programs import Program
from ami_headend.core import upgrades
from ami_headend.database_roles import grant_rights
from ami_headend.signin.models import Session
from concentrators.ingest import carried_over
from concentrators.journal_replay import AccessReplayer
from keyvault import master_key
from keyvault.audit.chain import Actor
from keyvault.journal import reading, replay
from keyvault.journal.reading import Journal
from keyvault.journal.replay import KeyReplayer, Replayer, ReplayReport
from keyvault.master_key import MasterKeys
from keyvault.master_key.backups import BackupError

Step = Callable[[str, int | None], Callable[[int], object]]  # a step and its total; gives what hears of its progress


def examine(folder: Path, folders: Sequence[Path], step: Step, *, incomplete: bool = False) -> tuple[Manifest, Path]:
    """Hold a backup and the journal against all that a restore needs of them, before anything is changed.

    Gives the manifest and the dump. Raises BackupError or MasterKeyError; ``incomplete`` lets a journal pass
    that is damaged, or does not know the backup.
    """
    master = master_key.provider().fresh()
    found = manifest.read(folder, master)
    check_release(found)
    missing = sorted(set(found.master_key_versions) - set(master.versions))
    if missing:
        raise BackupError(
            f"the backup needs master key version {', '.join(map(str, missing))}, and {master_key.provider()} does not "
            "have it: name the master key that belongs to the backup"
        )
    dump = manifest.check_dump(folder, found, step("reading the dump", found.octets))
    check_journal(read_journal(folders, master, found.journal_number, step), found.name, incomplete=incomplete)
    return found, dump


def is_loaded(found: Manifest) -> bool:
    """Whether this backup's dump stands in the database already, and waits for the key journal."""
    if not databases.has_table("public", databases.REPLAYED) or databases.is_open():
        return False
    backup = replay.restored_from()
    return backup is not None and backup.name == found.name


def load(dump: Path, progress: Callable[[int], object], *, replace: bool) -> None:
    """Load a dump into the database of this process, whole or not at all.

    What stands there is put aside, where ``replace`` says so; else BackupError. ProgramError where the dump cannot be
    loaded: then the database is as it was.
    """
    program = programs.find("pg_restore")
    if replace:
        databases.put_aside(carried_over.carry)
    elif databases.is_aside():
        raise BackupError(
            f"an earlier restore --replace was interrupted, and what stood in the database waits in its schema "
            f"{databases.ASIDE}: run that again, with --replace"
        )
    elif not databases.is_empty():
        raise BackupError(
            f"the database {connection.settings_dict['NAME']} is not empty: name an empty one (--database), or say "
            "that what stands in it is to go (--replace)"
        )
    try:
        _run(program, dump, progress)
    except BaseException:
        if replace:
            databases.put_back()
        raise


def _run(program: Program, dump: Path, progress: Callable[[int], object]) -> None:
    """pg_restore, in one transaction. ProgramError where it fails."""
    options = ("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", "--no-password")
    name = str(connection.settings_dict["NAME"])
    connections.close_all()
    with dump.open("rb") as file, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [program.path, *options, f"--dbname={name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=programs.environment(),
        )
        try:
            _feed(process, file.read, progress)
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if status != 0:
            said.seek(0)
            raise programs.failure(program, said.read())


def check_nobody_works(role: str | None) -> None:
    """Raise BackupError while web, workers or other sessions of our roles are connected: their work would be lost."""
    connected = databases.other_sessions([] if role is None else [role])
    if connected:
        raise BackupError(
            f"{connected} other sessions are connected to the database {connection.settings_dict['NAME']}: stop web, "
            "workers, beat and commands first"
        )


def bring_up_to_date(role: str | None) -> None:
    """What the loaded database lacks: migrations, partitions, rights of the role of web and workers, statistics.

    In the role that owns the tables. Ids go on first: from the rights on, others may store rows. Raises RoleError where
    ``role`` cannot be given its rights.
    """
    call_command("migrate", interactive=False, verbosity=0)
    backup = replay.restored_from()
    identifiers.move_on(datetime.now(UTC) + replay.CLOCK_MAY_LAG, None if backup is None else backup.made_at)
    if role is not None:
        grant_rights(role)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def replay_journal(
    folders: Sequence[Path],
    actor: Actor,
    now: datetime,
    step: Step = lambda name, total: lambda done: None,
    *,
    incomplete: bool = False,
) -> ReplayReport:
    """Replay the journal into the database of this process, settle the rest and open the vault.

    Raises BackupError (a damaged or foreign journal), ReplayError, MasterKeyError, AuditError: nothing is changed.
    """
    backup = replay.restored_from()
    found = read_journal(folders, master_key.provider().fresh(), 0 if backup is None else backup.journal_number, step)
    check_journal(found, None if backup is None else backup.name, incomplete=incomplete)
    subject = {"backup": None if backup is None else backup.name, "faults": len(found.faults)}
    progress = step("replaying the key journal", len(found))
    outcome = replay.bring_up(found, replayers(found), actor, now, subject, progress)
    databases.drop_aside()  # killed before this: the next restore, or replay, does it
    return outcome


def replayers(found: Journal) -> list[Replayer]:
    """What each layer does of a replay, in order."""
    return [KeyReplayer(found), AccessReplayer(), _SessionsReplayer(), _UplinksReplayer()]


def read_journal(folders: Sequence[Path], master: MasterKeys, after: int, step: Step) -> Journal:
    """The journal's records after a number, with progress by octets."""
    total = sum(path.stat().st_size for path in reading.segments(folders))
    return reading.read(folders, master, after, step("reading the key journal", total))


def check_journal(found: Journal, backup: str | None, *, incomplete: bool) -> None:
    """BackupError where the journal is damaged, or does not hold the record of the backup that is restored."""
    if incomplete:
        return
    faults = list(found.faults)
    if backup is not None and not any(_tells_of(record.kind, record.body, backup) for record in found):
        faults.append(f"it does not hold the record of backup {backup}: it is another head-end's, or a part is missing")
    if faults:
        to_do = (
            "Name the folders of all hosts (--journal). --incomplete-journal goes on without what is missing: meters "
            "whose keys it held are locked out then, and keys that it cut off are good again"
        )
        raise BackupError("\n  ".join(["the key journal is not whole:", *faults, to_do]))


def check_release(found: Manifest) -> None:
    """BackupError where a newer release has made the backup, or one that this release does not go on from."""
    known = upgrades.known()
    ours = {app for app, _ in known}
    applied = [(app, name) for app, names in found.migrations.items() for name in names if app in ours]
    strange = [f"{app}.{name}" for app, name in applied if (app, name) not in known]
    if strange:
        raise BackupError(
            f"the backup has migrations that this release does not know ({', '.join(strange[:3])}): it was made by "
            "another release. Restore it with that one"
        )
    try:
        upgrades.check(applied)
    except upgrades.HalfWayError as error:
        raise BackupError(
            f"the backup cannot be brought up to date here: {error}. Restore it with {upgrades.OLDEST}, then upgrade"
        ) from None


def _tells_of(kind: str, body: Any, backup: str) -> bool:
    return kind == "backup" and body["name"] == backup


def _feed(process: "subprocess.Popen[bytes]", read: Callable[[int], bytes], progress: Callable[[int], object]) -> None:
    """The dump into the program, which may end before it has read all."""
    assert process.stdin is not None  # noqa: S101 - PIPE was asked for
    try:
        with process.stdin as pipe:
            while chunk := read(1 << 20):
                pipe.write(chunk)
                progress(len(chunk))
    except BrokenPipeError:
        pass  # it says on stderr why


class _SessionsReplayer:
    """Everybody signs in again: whoever was signed out since the dump stays out."""

    kinds: Mapping[str, Any] = {}

    def conclude(self, now: datetime) -> list[str]:
        Session.objects.all().delete()
        return ["Accounts are as they were when the backup was made: see that nobody is active who left since"]


class _UplinksReplayer:
    """What concentrators posted into the database that was replaced: octets that were acknowledged are not lost."""

    kinds: Mapping[str, Any] = {}

    def conclude(self, now: datetime) -> list[str]:
        if not databases.has_table(databases.ASIDE, databases.UPLINKS):
            return []
        carried = carried_over.carry(databases.ASIDE, "public")
        notes = [f"{carried.uplinks} uplinks of the database that was replaced are carried over, and verified anew"]
        if carried.without_octets:
            notes.append(
                f"{carried.without_octets} uplinks are not: their octets were kept no longer (UPLINK_KEEP_DAYS)"
            )
        return notes
