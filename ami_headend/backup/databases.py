"""Databases of the same server: another one as this process's own for a while, made, dropped, emptied and put back."""

import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import DatabaseError, OperationalError, ProgrammingError, connection, connections, transaction
from psycopg import sql

from ami_headend import embedded
from keyvault.backups import BackupError

ASIDE = "before_restore"  # the schema that what stood in a database waits in until a restore has succeeded


@contextmanager
def served() -> Iterator[None]:
    """The embedded database runs for the block, where it is ours and nobody runs it. EmbeddedError: it cannot."""
    if not settings.IS_EMBEDDED or embedded.running(settings.VAR_DIR):
        yield
        return
    with embedded.services(settings.VAR_DIR):
        try:
            yield
        finally:
            connections.close_all()


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
    """How many other sessions of this connection's role, or of those, are connected to the database."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
               AND backend_type = 'client backend' AND (usename = current_user OR usename = ANY(%s))""",
            [list(roles)],
        )
        return int(cursor.fetchone()[0])


@contextmanager
def emptied() -> Iterator[None]:
    """What stands in the database is put aside for the block, dropped when it succeeds, and put back when it fails.

    Where an earlier one was killed, what it put aside is what counts, and what it left is dropped.
    """
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            if not _is_aside():
                cursor.execute(f"ALTER SCHEMA public RENAME TO {ASIDE}")
            else:
                cursor.execute("DROP SCHEMA IF EXISTS public CASCADE")
            _make_public()
    except DatabaseError as error:
        raise BackupError(
            f"what stands in the database cannot be put aside: {str(error).splitlines()[0]}. It takes the role that "
            "owns the database"
        ) from None
    try:
        yield
    except BaseException:
        connections.close_all()
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("DROP SCHEMA public CASCADE")
            cursor.execute(f"ALTER SCHEMA {ASIDE} RENAME TO public")
        raise
    drop_aside()


def drop_aside() -> None:
    """Drop what a restore has put aside, if anything is left of it."""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP SCHEMA IF EXISTS {ASIDE} CASCADE")


def _is_aside() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = %s)", [ASIDE])
        return bool(cursor.fetchone()[0])


def _make_public() -> None:
    """The schema as a new database has it."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA public AUTHORIZATION pg_database_owner")
        cursor.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")


def _outside(statement: str, name: str) -> None:
    with connection._nodb_cursor() as cursor:  # noqa: SLF001 - as above
        cursor.execute(sql.SQL(statement).format(sql.Identifier(name)))
