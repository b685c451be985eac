"""Databases of the same server: connect to another one, make, drop or empty it, and set its content aside."""

import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import DatabaseError, OperationalError, ProgrammingError, connection, connections, transaction
from psycopg import sql
from psycopg.errors import DeadlockDetected, DependentObjectsStillExist, LockNotAvailable

from ami_headend.core.sql import select
from keyvault import journal
from keyvault.backups import BackupError

ASIDE = "before_restore"  # the schema that holds the earlier content of a database until a restore has succeeded
UPLINKS, REPLAYED = "concentrators_uplink", "keyvault_journal_replayed"
_LOCK_WAIT_S = 30
_LOCK_TRIES = 5


@contextmanager
def connected_to(name: str) -> Iterator[None]:
    """Use another database of the server as this process's default until the block ends."""
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
    """Make a new database this process's default; it is dropped at the end in any case. BackupError if none can be
    made.
    """
    name = f"{connection.settings_dict['NAME'][:40]}_drill_{secrets.token_hex(4)}"
    create(name)
    try:
        with connected_to(name):
            yield name
    finally:
        _outside("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


def create(name: str) -> None:
    """Make a new, empty database. BackupError if this role may not."""
    try:
        _outside("CREATE DATABASE {} TEMPLATE template0", name)
    except (ProgrammingError, OperationalError) as error:
        raise BackupError(
            f"the database {name} cannot be made: {str(error).splitlines()[0]}. Let the role create databases "
            "(ALTER ROLE ... CREATEDB), or name an empty one"
        ) from None


def exists(name: str) -> bool:
    """Whether the server has a database of that name."""
    with connection._nodb_cursor() as cursor:  # noqa: SLF001 - Django's own way to a server without a database
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        return cursor.fetchone() is not None


def is_empty() -> bool:
    """Whether the database holds nothing, not even content that was set aside."""
    row = select(
        """SELECT NOT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                              WHERE n.nspname IN ('public', %s))""",
        [ASIDE],
    )[0]
    return bool(row[0])


def other_sessions(roles: Collection[str]) -> int:
    """Return the number of other sessions in the database of this connection's role, or of the given roles.

    PostgreSQL shows everybody the database, role and process of other roles' sessions, but no more to an ordinary role.
    """
    row = select(
        """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
           AND (usename = current_user OR usename = ANY(%s))""",
        [list(roles)],
    )[0]
    return int(row[0])


def put_aside(keep: Callable[[str, str], object]) -> None:
    """Set the content of the database aside and leave an empty schema in its place; all at once, or BackupError.

    Waits for writers: whatever is committed by then is set aside too, and nothing more is written there. If an earlier
    restore was killed, the content that it set aside is the one to preserve: ``keep(source, target)`` saves what must
    not be lost of the other schema, and the rest of that is dropped.
    """
    for left in reversed(range(_LOCK_TRIES)):
        try:
            with transaction.atomic():
                _put_aside(keep)
            return
        except DatabaseError as error:
            told = str(error).splitlines()[0]
            if isinstance(error.__cause__, DeadlockDetected) and left:
                continue  # with somebody who held one table and wanted another, and who is done by now
            raise BackupError(
                f"the database is in use: stop web, workers, beat and commands first ({told})"
                if isinstance(error.__cause__, LockNotAvailable | DeadlockDetected)
                else f"the content of the database cannot be set aside: {told}. This needs the role that owns it"
            ) from None


def _put_aside(keep: Callable[[str, str], object]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S}s'")
        _lock_tables()
        if is_aside() and is_open():  # that restore was completed, and these are its remains
            cursor.execute(f"DROP SCHEMA {ASIDE} CASCADE")
        if not is_aside():
            cursor.execute(f"ALTER SCHEMA public RENAME TO {ASIDE}")
        elif not _drop_empty():
            _lock_tables()  # so that a load about to end has ended
            if has_table("public", UPLINKS):
                keep("public", ASIDE)
            cursor.execute("DROP SCHEMA public CASCADE")
        _make_public()


def put_back() -> bool:
    """Put back the content that was set aside, unless something was loaded in its place; return whether that
    was done.
    """
    connections.close_all()
    with transaction.atomic(), connection.cursor() as cursor:
        if not _drop_empty():
            return False
        cursor.execute(f"ALTER SCHEMA {ASIDE} RENAME TO public")
    return True


def drop_aside() -> None:
    """Drop the content that a restore set aside, if there is any left."""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA IF EXISTS {ASIDE} CASCADE")


def is_aside() -> bool:
    """Whether content is set aside, neither put back nor dropped."""
    return bool(select("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = %s)", [ASIDE])[0][0])


def is_open() -> bool:
    """Whether the database holds a head-end that is not waiting for the key journal."""
    return has_table("public", REPLAYED) and journal.is_open()


def has_table(schema: str, table: str) -> bool:
    """Whether a schema has a table of that name."""
    return bool(select("SELECT to_regclass(%s) IS NOT NULL", [f"{schema}.{table}"])[0][0])


def _drop_empty() -> bool:
    """Drop the database's schema if it is empty, after a load about to end has ended; return whether it was empty."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("DROP SCHEMA IF EXISTS public RESTRICT")
    except DatabaseError as error:
        if not isinstance(error.__cause__, DependentObjectsStillExist):
            raise
        return False
    return True


def _lock_tables() -> None:
    """Keep everybody from reading or writing our tables until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('public') AND relkind IN ('r', 'p')
               AND NOT relispartition AND pg_has_role(relowner, 'USAGE') ORDER BY relname"""
        )
        tables = [sql.Identifier("public", name) for (name,) in cursor.fetchall()]
        if tables:
            cursor.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.SQL(", ").join(tables)))


def _make_public() -> None:
    """Make the schema as a new database has it."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
        cursor.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")


def _outside(statement: str, name: str) -> None:
    with connection._nodb_cursor() as cursor:  # noqa: SLF001 - as above
        cursor.execute(sql.SQL(statement).format(sql.Identifier(name)))
