"""Errors of the database are told by their SQLSTATE, whatever class the driver gave them."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import (
    DatabaseError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connection,
    connections,
    transaction,
)
from psycopg import errors

from ami_headend.core import database_errors
from ami_headend.core.database_errors import Trouble
from ami_headend.core.sql import execute, fetch_rows


def wrapped(sqlstate: str) -> DatabaseError:
    """As Django raises it: an error of its own, from the driver's."""
    error = DatabaseError("as Django wraps it")
    error.__cause__ = errors.lookup(sqlstate)("as the driver raises it")
    return error


@pytest.mark.parametrize(
    ("sqlstate", "trouble", "of_any_values"),
    [
        ("08006", Trouble.AWAY, True),
        ("57P01", Trouble.AWAY, True),
        ("25006", Trouble.READ_ONLY, True),
        ("0A000", Trouble.CHANGED, True),
        ("42703", Trouble.CHANGED, True),
        ("42804", Trouble.CHANGED, True),
        ("42501", Trouble.RIGHTS, True),
        ("42601", None, True),  # a statement that is wrong is a fault of ours, with whatever values
        ("55P03", Trouble.BUSY, True),
        ("57014", Trouble.BUSY, False),
        ("40P01", Trouble.BUSY, False),
        ("53100", Trouble.FULL, True),
        ("22P02", None, False),
        ("23505", None, False),
    ],
)
def test_by_sqlstate(sqlstate: str, trouble: Trouble | None, of_any_values: bool) -> None:
    for error in (wrapped(sqlstate), errors.lookup(sqlstate)("of the driver itself")):
        assert database_errors.sqlstate(error) == sqlstate
        assert database_errors.trouble_of(error) is trouble
        assert database_errors.would_come_with_any_values(error) is of_any_values


@pytest.mark.parametrize(
    "error", [OperationalError("lost"), InterfaceError("closed"), psycopg.OperationalError("lost")]
)
def test_a_lost_connection_has_no_sqlstate(error: Exception) -> None:
    assert database_errors.trouble_of(error) is Trouble.AWAY
    assert not database_errors.would_come_with_any_values(error)


@pytest.mark.parametrize("error", [None, ValueError(), IntegrityError("without a cause"), TimeoutError()])
def test_what_is_no_trouble_of_the_database(error: Exception | None) -> None:
    assert database_errors.trouble_of(error) is None


def _change_a_type_under_a_prepared_statement() -> None:
    """In a thread: with a connection of its own, and a table that goes with it."""
    execute("CREATE TEMPORARY TABLE changing (value int)")
    assert fetch_rows("SELECT value FROM changing") == []
    # As another session's would: the driver forgets what it prepared at an ALTER of its own.
    execute("DO $$ BEGIN ALTER TABLE changing ALTER value TYPE text; END $$")
    with pytest.raises(DatabaseError) as raised:
        fetch_rows("SELECT value FROM changing")
    trouble = database_errors.trouble_of(raised.value)
    assert trouble is Trouble.CHANGED
    before = connection.connection
    with transaction.atomic():
        database_errors.close_spoilt_connections(trouble)
        assert connection.connection is before  # whoever began the transaction must end it first
    database_errors.close_spoilt_connections(Trouble.BUSY)
    assert connection.connection is before
    database_errors.close_spoilt_connections(trouble)
    assert connection.connection is None


@pytest.mark.django_db
def test_a_changed_type_is_told_and_the_connection_closed() -> None:
    with ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(_change_a_type_under_a_prepared_statement).result(30)
        finally:
            thread.submit(connections.close_all).result(30)
