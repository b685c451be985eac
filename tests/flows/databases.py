"""Databases for live stacks: copies of the migrated test database, which other processes may write to."""

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import dj_database_url
from django.db import connection, connections
from psycopg import sql

from ami_headend.embedded import postgres_program

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


def at_database(url: str, name: str) -> str:
    """The same server's URL with another database."""
    place, _, query = url.partition("?")
    return f"{place.rsplit('/', 1)[0]}/{name}?{query}"


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


@contextmanager
def moved_to(url: str, own_url: str) -> Iterator[None]:
    """The template restored into the empty database at `url`, on another server, as the default of this process."""
    settings = connection.settings_dict
    before = dict(settings)
    dump = [postgres_program("pg_dump"), "--no-owner", "--dbname", at_database(own_url, f"{before['NAME']}_template")]
    script = subprocess.run(dump, check=True, capture_output=True).stdout
    restore = [postgres_program("psql"), "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", url]
    subprocess.run(restore, check=True, capture_output=True, input=script)
    connections.close_all()
    settings.update({key: value for key, value in dj_database_url.parse(url).items() if key != "ENGINE"})
    try:
        yield
    finally:
        connections.close_all()
        settings.clear()
        settings.update(before)
