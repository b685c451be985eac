"""Restoring a backup: load its dump in one transaction, replay the key journal, then open the vault.

Between the last two, the database takes uplinks and verifies none. Every step can be repeated: an interrupted load or
replay leaves nothing, and a completed load is not repeated. The earlier content of the database is set aside until the
end, and its uplinks that the dump lacks are carried over. The command ``restore`` has the order of the steps.
"""

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import connection, connections, transaction

from ami_headend.api_tokens.journal_replay import TokenReplayer
from ami_headend.backup import databases, identifiers, manifest, programs
from ami_headend.backup.manifest import Manifest
from ami_headend.backup.programs import Program
from ami_headend.core import upgrades
from ami_headend.core.text import counted
from ami_headend.database_roles import grant_rights
from ami_headend.signin.models import Session
from concentrators.feed import eras
from concentrators.ingest import uplinks_across_restore
from concentrators.journal_replay import AccessReplayer
from keyvault import master_key
from keyvault.audit.chain import Actor
from keyvault.backups import BackupError
from keyvault.journal import reading, replay
from keyvault.journal.reading import Journal
from keyvault.journal.replay import KeyReplayer, Replayer, ReplayReport
from keyvault.master_key import MasterKeys

Step = Callable[
    [str, int | None], Callable[[int], object]
]  # a step and its total; returns a function that takes its progress


def examine(folder: Path, folders: Sequence[Path], step: Step, *, incomplete: bool = False) -> tuple[Manifest, Path]:
    """Check a backup and the journal for everything that a restore needs, before anything is changed.

    Return the manifest and the dump. BackupError or MasterKeyError if something is missing; ``incomplete`` accepts a
    journal that is damaged or does not know the backup.
    """
    master = master_key.provider().fresh()
    found = manifest.read(folder, master)
    check_release(found)
    missing = sorted(set(found.master_key_versions) - set(master.versions))
    if missing:
        raise BackupError(
            f"the backup needs master key version {', '.join(map(str, missing))}, which {master_key.provider()} lacks: "
            "name the master key that belongs to the backup"
        )
    dump = manifest.check_dump(folder, found, step("reading the dump", found.octets))
    check_journal(read_journal(folders, master, found.journal_number, step), found.name, incomplete=incomplete)
    return found, dump


def is_loaded(found: Manifest) -> bool:
    """Whether this backup's dump is loaded already and waits for the key journal."""
    if not databases.has_table("public", databases.REPLAYED) or databases.is_open():
        return False
    backup = replay.restored_from()
    return backup is not None and backup.name == found.name


def load(dump: Path, progress: Callable[[int], object], *, replace: bool) -> None:
    """Load a dump into the database of this process, completely or not at all.

    With ``replace``, earlier content is set aside; without it, any content is a BackupError. ProgramError if the dump
    cannot be loaded: the database is unchanged then.
    """
    program = programs.find("pg_restore")
    if replace:
        databases.put_aside(uplinks_across_restore.carry)
    elif databases.is_aside():
        raise BackupError(
            f"an earlier restore --replace was interrupted, and the earlier content of the database is in its schema "
            f"{databases.ASIDE}: run that restore again, with --replace"
        )
    elif not databases.is_empty():
        raise BackupError(
            f"the database {connection.settings_dict['NAME']} is not empty: name an empty one (--database), or confirm "
            "that its content may go (--replace)"
        )
    try:
        _run(program, dump, progress)
    except BaseException:
        if replace:
            databases.put_back()
        raise


def _run(program: Program, dump: Path, progress: Callable[[int], object]) -> None:
    """Run pg_restore in one transaction. ProgramError if it fails."""
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
            f"{counted(connected, 'other session is', 'other sessions are')} connected to the database "
            f"{connection.settings_dict['NAME']}: stop web, workers, beat and commands first"
        )


def bring_up_to_date(role: str | None) -> None:
    """Bring the loaded database up to date: migrations, partitions, rights of the working role, statistics.

    Needs the role that owns the tables. Ids move on first, because others may store rows once the rights are granted.
    RoleError if ``role`` cannot be given its rights.
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
    """Replay the journal into the database of this process, settle the rest, open the vault, and begin an era of the
    feed.

    BackupError (a damaged or foreign journal), ReplayError, MasterKeyError or AuditError: nothing is changed.
    """
    backup = replay.restored_from()
    found = read_journal(folders, master_key.provider().fresh(), 0 if backup is None else backup.journal_number, step)
    check_journal(found, None if backup is None else backup.name, incomplete=incomplete)
    subject = {"backup": None if backup is None else backup.name, "faults": len(found.faults)}
    progress = step("replaying the key journal", len(found))
    with transaction.atomic():
        outcome = replay.bring_up(found, replayers(found), actor, now, subject, progress)
        era = eras.begin(now)
    outcome.notes.append(f"The feed begins era {era.name}: consumers are told where to go on when they come")
    databases.drop_aside()  # if this process is killed before, the next restore or replay does it
    return outcome


def replayers(found: Journal) -> list[Replayer]:
    """Return the replayers of all layers, in order."""
    return [KeyReplayer(found), AccessReplayer(), TokenReplayer(), _SessionsReplayer(), _UplinksReplayer()]


def read_journal(folders: Sequence[Path], master: MasterKeys, after: int, step: Step) -> Journal:
    """Read the journal's records after a number, with progress by octets."""
    total = sum(path.stat().st_size for path in reading.segments(folders))
    return reading.read(folders, master, after, step("reading the key journal", total))


def check_journal(found: Journal, backup: str | None, *, incomplete: bool) -> None:
    """BackupError if the journal is damaged, or lacks the record of the backup that is restored."""
    if incomplete:
        return
    faults = list(found.faults)
    if backup is not None and not any(_tells_of(record.kind, record.body, backup) for record in found):
        faults.append(f"it lacks the record of backup {backup}: it belongs to another head-end, or a part is missing")
    if faults:
        to_do = (
            "Name the folders of all hosts (--journal). --incomplete-journal continues without the missing part: "
            "meters whose keys it held are then locked out, and keys that it cut off are valid again"
        )
        raise BackupError("\n  ".join(["the key journal is not complete:", *faults, to_do]))


def check_release(found: Manifest) -> None:
    """BackupError if a newer release made the backup, or one too old for this release."""
    known = upgrades.known()
    ours = {app for app, _ in known}
    applied = [(app, name) for app, names in found.migrations.items() for name in names if app in ours]
    strange = [f"{app}.{name}" for app, name in applied if (app, name) not in known]
    if strange:
        raise BackupError(
            f"the backup has migrations that this release does not know ({', '.join(strange[:3])}): another release "
            "made it. Restore it with that one"
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
    """Feed the dump to the program, which may end before it has read everything."""
    assert process.stdin is not None  # noqa: S101 - PIPE was asked for
    try:
        with process.stdin as pipe:
            while chunk := read(1 << 20):
                pipe.write(chunk)
                progress(len(chunk))
    except BrokenPipeError:
        pass  # the program reports the reason on stderr


class _SessionsReplayer:
    """Ends all sessions, so that everybody signed out since the dump stays out."""

    kinds: Mapping[str, Any] = {}

    def conclude(self, now: datetime) -> list[str]:
        Session.objects.all().delete()
        return ["Accounts are as this database has them: check that nobody is active who has left meanwhile"]


class _UplinksReplayer:
    """Carries over uplinks of the replaced database, so that no acknowledged octets are lost."""

    kinds: Mapping[str, Any] = {}

    def conclude(self, now: datetime) -> list[str]:
        if not databases.has_table(databases.ASIDE, databases.UPLINKS):
            return []
        carried = uplinks_across_restore.carry(databases.ASIDE, "public")
        were = counted(carried.uplinks, "uplink of the replaced database is", "uplinks of the replaced database are")
        notes = [f"{were} carried over and will be verified again"]
        if carried.without_octets:
            others = counted(carried.without_octets, "uplink is", "uplinks are")
            notes.append(f"{others} not: the octets had been deleted (UPLINK_KEEP_DAYS)")
        return notes
