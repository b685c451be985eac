"""Databases for live stacks: copies of the migrated test database, which other processes may write to."""

import fcntl
import functools
import itertools
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from django.conf import settings as django_settings
from django.db import connection, connections
from django.test import override_settings
from psycopg import sql

from ami_headend.database_roles import grant_rights
from ami_headend.local.embedded import postgres_program

WORKING_ROLE = (
    f"ami_headend_test_{os.getpid()}"  # of live stacks' processes; copies of the test database keep its rights
)
_MIGRATED = "ami_headend_test_migrated"
_PASSWORD = secrets.token_hex()
_numbers = itertools.count(1)
# Files are copied as such, which costs less than through the log, as PostgreSQL does where it is not told.
_COPY = "CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY"


def _run(statement: str, *names: str) -> None:
    with connection._nodb_cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def made_once(lock: Path, migrated: Callable[[], Any]) -> Any:
    """The test database: ``migrated`` in the first process that takes the lock, and a copy of that one in the others.

    Gives what Django tears down.
    """
    with lock.open("a+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        file.seek(0)
        first = file.read()
        if not first:
            created = migrated()
            connections.close_all()
            _run(_COPY, _MIGRATED, str(connection.settings_dict["NAME"]))
            file.write(_MIGRATED)
            return created
    before = str(connection.settings_dict["NAME"])
    creation: Any = connection.creation
    name = creation._get_test_db_name()
    _run(_COPY, name, first)
    connections.close_all()
    django_settings.DATABASES["default"]["NAME"] = connection.settings_dict["NAME"] = name
    return [(connection, before, True)]


def make_template() -> str:
    """Copies the test database as it stands after migrations; gives the copy's name."""
    source = str(connection.settings_dict["NAME"])
    template = f"{source}_template"
    connections.close_all()
    drop(template)
    _run(_COPY, template, source)
    return template


def make_working_role() -> str:
    """Makes the role that live stacks act in, with its rights in the test database, as migrate gives them."""
    _run(f"CREATE ROLE {{}} LOGIN PASSWORD '{_PASSWORD}'", WORKING_ROLE)
    grant_rights(WORKING_ROLE)
    return WORKING_ROLE


def bound_sessions(name: str, **limits: str) -> None:
    """Gives sessions of the working role in a database limits, which a pooler does not pass on (docs/scaling.md)."""
    for setting, limit in limits.items():
        _run(f"ALTER ROLE {{}} IN DATABASE {{}} SET {setting} = '{limit}'", WORKING_ROLE, name)


def drop_role(role: str) -> None:
    _run("DROP ROLE {}", role)


def drop(name: str) -> None:
    _run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


def at_database(url: str, name: str) -> str:
    """The same server's URL with another database."""
    place, _, query = url.partition("?")
    return f"{place.rsplit('/', 1)[0]}/{name}?{query}"


def as_working_role(url: str) -> str:
    """The same database in the role of web and workers, which owns nothing."""
    return in_role(url, WORKING_ROLE, _PASSWORD)


def in_role(url: str, role: str, password: str) -> str:
    """The same database in another role."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{role}:{password}@{place}").geturl()


@contextmanager
def copied() -> Iterator[str]:
    """A fresh copy as the default database of this process, in every thread, until the block ends."""
    settings = connection.settings_dict
    before = str(settings["NAME"])
    name = f"{before}_live_{next(_numbers)}"
    connections.close_all()
    drop(name)
    _run(_COPY, name, f"{before}_template")
    _run("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC", name)  # rights to a database are not copied with it
    settings["NAME"] = name
    try:
        with _journal_of(name):
            yield name
    finally:
        connections.close_all()
        settings["NAME"] = before
        drop(name)


@contextmanager
def _journal_of(name: str) -> Iterator[None]:
    """A key journal of that database's own, where the test has named none."""
    usual = Path(os.environ["AMI_VAR_DIR"]) / "journal"
    if Path(django_settings.KEY_JOURNAL_DIR) != usual:
        yield
        return
    with override_settings(KEY_JOURNAL_DIR=usual / name):
        yield


@functools.cache
def _dump(url: str) -> bytes:
    """What makes a database like that one, which stays as it is for the whole run."""
    command = [postgres_program("pg_dump"), "--no-owner", "--no-privileges", "--dbname", url]
    return subprocess.run(command, check=True, capture_output=True).stdout


@contextmanager
def moved_to(url: str, own_url: str) -> Iterator[None]:
    """The template restored into the empty database at `url`, on another server, as the default of this process."""
    script = _dump(at_database(own_url, f"{connection.settings_dict['NAME']}_template"))
    restore = [postgres_program("psql"), "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", url]
    subprocess.run(restore, check=True, capture_output=True, input=script)
    with default_at(url):
        yield


@contextmanager
def default_at(url: str) -> Iterator[None]:
    """The database at `url`, in the role that it names, as the default of this process, until the block ends."""
    settings = connection.settings_dict
    before = dict(settings)
    connections.close_all()
    settings.update({key: value for key, value in dj_database_url.parse(url).items() if key != "ENGINE"})
    try:
        yield
    finally:
        connections.close_all()
        settings.clear()
        settings.update(before)
