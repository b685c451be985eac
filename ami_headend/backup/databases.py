"""Databases of the same server: another one as this process's own for a while, made, dropped, emptied and put back."""

import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import DatabaseError, OperationalError, ProgrammingError, connection, connections, transaction
from psycopg import sql
from psycopg.errors import DeadlockDetected, DependentObjectsStillExist, LockNotAvailable

from keyvault import journal
from keyvault.master_key.backups import BackupError

ASIDE = "before_restore"  # the schema that what stood in a database waits in until a restore has succeeded
UPLINKS, REPLAYED = "concentrators_uplink", "keyvault_journal_replayed"
_LOCK_WAIT_S = 30
_LOCK_TRIES = 5


@contextmanager
def connected_to(name: str) -> Iterator[None]:
    """Another database of the server as this process's default, until the block ends."""
    places = [place for place in (connection.settings_dict, settings.OWNER_DATABASE) if place is not None]
    before = [place["NAME"] for place in places]
    connections.close_all()
    for place in places:
        place["NAME"] = name
    try:
        yield
    finally:
        connections.close_all()
        for place, own in zip(places, before, strict=True):
            place["NAME"] = own


@contextmanager
def scratch() -> Iterator[str]:
    """A new database as this process's default, dropped in the end whatever happens. BackupError: none can be made."""
    name = f"{connection.settings_dict['NAME'][:40]}_drill_{secrets.token_hex(4)}"
    create(name)
    try:
        with connected_to(name):
            yield name
    finally:
        _outside("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


def create(name: str) -> None:
    """A new, empty database. BackupError where this role may make none."""
    try:
        _outside("CREATE DATABASE {} TEMPLATE template0", name)
    except (ProgrammingError, OperationalError) as error:
        raise BackupError(
            f"the database {name} cannot be made: {str(error).splitlines()[0]}. Let the role make databases "
            "(ALTER ROLE ... CREATEDB), or name an empty one"
        ) from None


def exists(name: str) -> bool:
    """Whether the server has a database of that name."""
    with connection._nodb_cursor() as cursor:  # noqa: SLF001 - Django's own way to a server without a database
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        return cursor.fetchone() is not None


def is_empty() -> bool:
    """Whether nothing stands in the database, nor was put aside in it."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT NOT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                  WHERE n.nspname IN ('public', %s))""",
            [ASIDE],
        )
        return bool(cursor.fetchone()[0])


def other_sessions(roles: Collection[str]) -> int:
    """How many other sessions of this connection's role, or of those, are connected to the database.

    Of another role's session PostgreSQL shows database, role and process to everybody, and no more to an ordinary role.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
               AND (usename = current_user OR usename = ANY(%s))""",
            [list(roles)],
        )
        return int(cursor.fetchone()[0])


def put_aside(keep: Callable[[str, str], object]) -> None:
    """Put what stands in the database aside, and leave an empty schema in its place. All at once, or BackupError.

    Waits for whoever writes: what is committed by then is put aside with the rest, and nothing is written there any
    more. Where an earlier restore was killed, what it put aside is what counts: ``keep(source, target)`` saves what
    must not be lost of what it left in the other schema, and the rest of that is dropped.
    """
    for left in reversed(range(_LOCK_TRIES)):
        try:
            with transaction.atomic():
                _put_aside(keep)
            return
        except DatabaseError as error:
            told = str(error).splitlines()[0]
            if isinstance(error.__cause__, DeadlockDetected) and left:
                continue  # with somebody who had one of the tables and wanted another: it is through by now
            raise BackupError(
                f"somebody works in the database: stop web, workers, beat and commands first ({told})"
                if isinstance(error.__cause__, LockNotAvailable | DeadlockDetected)
                else f"what stands in the database cannot be put aside: {told}. It takes the role that owns it"
            ) from None


def _put_aside(keep: Callable[[str, str], object]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S}s'")
        _lock_tables()
        if is_aside() and is_open():  # that restore came to its end, and only its leavings stand
            cursor.execute(f"DROP SCHEMA {ASIDE} CASCADE")
        if not is_aside():
            cursor.execute(f"ALTER SCHEMA public RENAME TO {ASIDE}")
        elif not _drop_empty():
            _lock_tables()  # a load that was ending has ended
            if has_table("public", UPLINKS):
                keep("public", ASIDE)
            cursor.execute("DROP SCHEMA public CASCADE")
        _make_public()


def put_back() -> bool:
    """Put back what was put aside, where nothing was loaded in its place; whether that is so."""
    connections.close_all()
    with transaction.atomic(), connection.cursor() as cursor:
        if not _drop_empty():
            return False
        cursor.execute(f"ALTER SCHEMA {ASIDE} RENAME TO public")
    return True


def drop_aside() -> None:
    """Drop what a restore has put aside, if anything is left of it."""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA IF EXISTS {ASIDE} CASCADE")


def is_aside() -> bool:
    """Whether something was put aside, and neither put back nor dropped."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = %s)", [ASIDE])
        return bool(cursor.fetchone()[0])


def is_open() -> bool:
    """Whether a head-end stands in the database that does not wait for the key journal."""
    return has_table("public", REPLAYED) and journal.is_open()


def has_table(schema: str, table: str) -> bool:
    """Whether there is a table of that name in a schema."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [f"{schema}.{table}"])
        return bool(cursor.fetchone()[0])


def _drop_empty() -> bool:
    """Drop the schema of the database where nothing is in it, once a load that is ending has ended; whether it was."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("DROP SCHEMA IF EXISTS public RESTRICT")
    except DatabaseError as error:
        if not isinstance(error.__cause__, DependentObjectsStillExist):
            raise
        return False
    return True


def _lock_tables() -> None:
    """Nobody reads or writes our tables until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('public') AND relkind IN ('r', 'p')
               AND NOT relispartition AND pg_has_role(relowner, 'USAGE') ORDER BY relname"""
        )
        tables = [sql.Identifier("public", name) for (name,) in cursor.fetchall()]
        if tables:
            cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.SQL(", ").join(tables)))


def _make_public() -> None:
    """The schema as a new database has it."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
        cursor.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")


def _outside(statement: str, name: str) -> None:
    with connection._nodb_cursor() as cursor:  # noqa: SLF001 - as above
        cursor.execute(sql.SQL(statement).format(sql.Identifier(name)))
