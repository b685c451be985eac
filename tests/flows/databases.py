"""Databases for live stacks: copies of the migrated test database, which other processes may write to."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, connections
from psycopg import sql

_numbers = itertools.count(1)


def _run(statement: str, *names: str) -> None:
    with connection._nodb_cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def make_template() -> str:
    """Copies the test database as it stands after migrations; gives the copy's name."""
    source = str(connection.settings_dict["NAME"])
    template = f"{source}_template"
    connections.close_all()
    drop(template)
    _run("CREATE DATABASE {} TEMPLATE {}", template, source)
    return template


def drop(name: str) -> None:
    _run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


@contextmanager
def copied() -> Iterator[str]:
    """A fresh copy as the default database of this process, in every thread, until the block ends."""
    settings = connection.settings_dict
    before = str(settings["NAME"])
    name = f"{before}_live_{next(_numbers)}"
    connections.close_all()
    drop(name)
    _run("CREATE DATABASE {} TEMPLATE {}", name, f"{before}_template")
    settings["NAME"] = name
    try:
        yield name
    finally:
        connections.close_all()
        settings["NAME"] = before
        drop(name)
