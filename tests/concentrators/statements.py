"""Counting of every statement that reaches PostgreSQL, through Django's cursors and past them alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import psycopg


class Statements(list[str]):
    """The statements since the last ``take``."""

    def take(self) -> list[str]:
        taken = list(self)
        self.clear()
        return taken


@contextmanager
def counting() -> Iterator[Statements]:
    """Notes what psycopg executes, COPY too, as one line each."""
    statements = Statements()

    def noting(original: Any) -> Any:
        def call(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
            statements.append(" ".join(str(query).split())[:100])
            return original(self, query, *args, **kwargs)

        return call

    with (
        patch.object(psycopg.Cursor, "execute", noting(psycopg.Cursor.execute)),
        patch.object(psycopg.Cursor, "executemany", noting(psycopg.Cursor.executemany)),
        patch.object(psycopg.Cursor, "copy", noting(psycopg.Cursor.copy)),
    ):
        yield statements
