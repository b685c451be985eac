"""Batch statements on Django's own connection, without psycopg's per-value adaptation.

psycopg takes milliseconds to adapt a list of a thousand values; the text of an array costs a tenth of that. Statements
are prepared, rows come in binary form, and both take part in the current transaction.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from django.db import connection
from psycopg.sql import Composable

CHUNK = 5_000
_T = TypeVar("_T")


def int_array(values: Iterable[int]) -> str:
    """Return PostgreSQL's text of an array of integers."""
    return "{" + ",".join(map(str, values)) + "}"


def octets_array(values: Iterable[bytes]) -> str:
    """Return PostgreSQL's text of an array of bytea, in hex."""
    return "{" + ",".join(['"\\\\x' + value.hex() + '"' for value in values]) + "}"


def chunks(items: Sequence[_T], size: int = CHUNK) -> Iterator[Sequence[_T]]:
    """Split the items into parts of at most ``size``, as many as one statement takes."""
    return (items[start : start + size] for start in range(0, len(items), size))


def cursor() -> "psycopg.Cursor[Any]":
    """Return a psycopg cursor with binary results on Django's connection. Use it as a context manager."""
    connection.close_if_health_check_failed()  # once a request, as Django's own cursors do
    connection.ensure_connection()
    server_side = psycopg.Cursor(connection.connection)  # Django's own cursors put values into the SQL text
    server_side.format = psycopg.pq.Format.BINARY
    return server_side


def select(statement: str | Composable, params: Sequence[Any] | Mapping[str, Any] | None = None) -> list[Any]:
    """All rows of a statement that is planned for its values, each time: for questions of pages and of the schedule.

    Values become part of the text, by psycopg, so that types need no casts; as Django's own cursors do.
    """
    with connection.cursor() as plain:
        plain.execute(statement, params)
        rows: list[Any] = plain.fetchall()
    return rows


def fetch_rows(statement: str, *params: Any) -> list[tuple[Any, ...]]:
    """Return all rows of one prepared statement."""
    with connection.wrap_database_errors, cursor() as batch:
        return batch.execute(statement, params, prepare=True).fetchall()


def execute(statement: str, *params: Any) -> int:
    """Run one prepared statement and return the number of rows it changed."""
    with connection.wrap_database_errors, cursor() as batch:
        return batch.execute(statement, params, prepare=True).rowcount


def execute_named(statement: str, params: Mapping[str, Any]) -> int:
    """Run one prepared statement with named parameters and return the number of rows it changed."""
    with connection.wrap_database_errors, cursor() as batch:
        return batch.execute(statement, params, prepare=True).rowcount
