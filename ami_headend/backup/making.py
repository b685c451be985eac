"""Making a backup: a dump of one state of the database with its manifest, in a folder that appears complete."""

import hashlib
import logging
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from django.db import DatabaseError, connection
from psycopg import sql

from ami_headend.backup import databases, manifest, programs, pruning
from ami_headend.backup.manifest import DUMP, MANIFEST, Manifest
from ami_headend.backup.programs import Program
from ami_headend.core.disk import sync_folder
from ami_headend.core.sql import select
from keyvault import backups
from keyvault.audit.chain import Actor, AuditError
from keyvault.backups import BackupError, DumpState
from keyvault.master_key import MasterKeyError
from keyvault.models import Backup

logger = logging.getLogger(__name__)

# A restored database must lack the mark that the journal was replayed into it, and nobody is signed in.
LEFT_OUT = ("keyvault_journal_replayed", "django_session", "signin_session")
_CHUNK_OCTETS = 1 << 20
_GRACE_S = 10


def make(
    folder: Path,
    actor: Actor,
    now: datetime,
    keep_days: int,
    progress: Callable[[int], object] = lambda octets: None,
) -> tuple[Path, Manifest]:
    """Make a backup in a new folder under ``folder``; return it and its manifest. ``progress`` gets octets written.

    BackupError, ProgramError, MasterKeyError or AuditError: there is no backup, and nothing half made.
    """
    program = programs.find("pg_dump")
    name = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{os.urandom(2).hex()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in pruning.sweep(folder):
            logger.warning("%s was left by a killed backup and was deleted", left)
        draft = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder))  # mode 0700
    except OSError as error:
        raise BackupError(
            f"cannot write to {folder}: {error.strerror}. Name another with --to, or BACKUP_DIR"
        ) from None
    with pruning.held(draft):
        made = _fill(draft, folder / name, program, actor, now, now + timedelta(days=keep_days), progress)
    return folder / name, made


def _fill(
    draft: Path,
    target: Path,
    program: Program,
    actor: Actor,
    now: datetime,
    keep_until: datetime,
    progress: Callable[[int], object],
) -> Manifest:
    """Write a backup into its draft, then rename that; if anything fails, nothing is left."""
    place = f"{socket.gethostname()}:{target.absolute()}"
    backup = None
    try:
        backup = backups.register(target.name, place[:500], keep_until, actor, now)
        with backups.snapshot() as snapshot:
            made = _dump(program, draft / DUMP, backup, snapshot, progress)
        _write(draft / MANIFEST, manifest.encode(made))
        sync_folder(draft)
        draft.rename(target)
        sync_folder(target.parent)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if backup is not None:
            _take_back(backup, actor, now)
        if isinstance(error, OSError):
            raise BackupError(f"cannot write {target}: {error.strerror}. Nothing was left of it") from None
        raise
    backups.finish(backup, bytes.fromhex(made.sha256), made.octets, actor, datetime.now(UTC))
    return made


def counts() -> dict[str, int]:
    """Count the rows of every table in a dump, as this transaction sees them."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
               AND relname <> ALL(%s) ORDER BY relname""",
            [list(LEFT_OUT)],
        )
        tables = [row[0] for row in cursor.fetchall()]
        found = {}
        for table in tables:
            cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)))
            found[table] = int(cursor.fetchone()[0])
    return found


def applied_migrations() -> dict[str, list[str]]:
    """Return the names of the applied migrations by app."""
    found: dict[str, list[str]] = {}
    for app, name in select("SELECT app, name FROM django_migrations ORDER BY app, name"):
        found.setdefault(app, []).append(name)
    return found


def database_octets() -> int:
    """Return the size of the database; its dump is smaller."""
    return int(select("SELECT pg_database_size(current_database())")[0][0])


def _dump(
    program: Program, path: Path, backup: Backup, snapshot: DumpState, progress: Callable[[int], object]
) -> Manifest:
    """Dump a snapshot and return its manifest."""
    command = [program.path, "--format=custom", f"--snapshot={snapshot.id}", "--no-password"]
    command += [f"--exclude-schema={databases.ASIDE}", *(f"--exclude-table-data={table}" for table in LEFT_OUT)]
    found, migrations = counts(), applied_migrations()
    with tempfile.TemporaryFile() as said, _private(path) as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, env=programs.environment())
        try:
            sha256, octets = _pump(process, file, progress)
            status = process.wait()
        finally:
            _end(process)
        if status != 0:
            said.seek(0)
            raise programs.failure(program, said.read())
        os.fsync(file.fileno())
    return Manifest(
        name=backup.name,
        made_at=backup.made_at.isoformat(),
        host=socket.gethostname(),
        server_version=str(connection.cursor().connection.info.parameter_status("server_version")),
        migrations=migrations,
        master_key_versions=sorted({*backup.versions, backup.active_version}),
        audit_head=str(snapshot.audit_head),
        journal_number=backup.journal_number,
        counts=found,
        octets=octets,
        sha256=sha256,
    )


def _take_back(backup: Backup, actor: Actor, now: datetime) -> None:
    try:
        backups.forget(backup, actor, now, "failed: nothing was left of it")
    except (DatabaseError, MasterKeyError, AuditError) as error:
        logger.warning("backup %s failed and is recorded as unfinished: prune it (%s)", backup, error)


def _pump(process: "subprocess.Popen[bytes]", file: IO[bytes], progress: Callable[[int], object]) -> tuple[str, int]:
    digest = hashlib.sha256()
    octets = 0
    assert process.stdout is not None  # noqa: S101 - PIPE was asked for
    while chunk := process.stdout.read(_CHUNK_OCTETS):
        file.write(chunk)
        digest.update(chunk)
        octets += len(chunk)
        progress(len(chunk))
    return digest.hexdigest(), octets


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a program that still runs, because its output cannot be stored."""
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _write(path: Path, octets: bytes) -> None:
    with _private(path) as file:
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())
