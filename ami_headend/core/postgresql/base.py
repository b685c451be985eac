"""Django's backend for PostgreSQL, with an error where a commit did not reach the synchronous standby.

With synchronous replication PostgreSQL commits on its own disk, then waits for the standby, then answers. If that wait
is cancelled (``pg_cancel_backend``, not ``statement_timeout``), the answer is an ordinary one with a WARNING before it
(its source, syncrep.c). Whoever takes it for a commit acknowledges what a promoted standby never had.
"""

from typing import Any

import psycopg
from django.db.backends.postgresql import base

# The function of PostgreSQL that waits. Its warning has no SQLSTATE of its own, and its text depends on the language.
WAITING = "SyncRepWaitForLSN"


class NotReplicatedError(psycopg.OperationalError):
    """A commit is on the primary's disk, and was not confirmed by the standby: it may be lost with the primary.

    It has no SQLSTATE, so it counts as a connection that broke during a commit: what was done is not known.
    """


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection whose commits, and statements that commit themselves, raise ``NotReplicatedError``."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> "psycopg.Connection[Any]":
        connection: psycopg.Connection[Any] = super().get_new_connection(conn_params)
        wait, cancelled = connection.wait, False

        def hear(notice: psycopg.errors.Diagnostic) -> None:
            nonlocal cancelled
            cancelled |= notice.source_function == WAITING

        def confirmed(*args: Any, **kwargs: Any) -> Any:
            nonlocal cancelled
            outcome = wait(*args, **kwargs)  # every statement and every commit comes by here
            if cancelled:
                cancelled = False
                raise NotReplicatedError("the synchronous standby did not confirm a commit in time")
            return outcome

        connection.add_notice_handler(hear)
        connection.wait = confirmed  # type: ignore[method-assign]
        return connection
