"""A database as a head-end of a million meters has it after some years: made once in a kept folder, and used again.

The rows are made inside PostgreSQL (million.sql). The device keys are derived from one fleet key, so that
every meter's frames open, and none of the keys has to be wrapped. In proportion for other numbers of meters.
"""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.core.management import call_command
from django.db import connection
from psycopg import sql

from ami_headend.database_roles import grant_rights
from ami_headend.local import embedded
from bench.site import create_database, use_database
from keyvault.device_keys import provisioning

HIGHEST = 19_200  # the counter that every meter has got to
DAY_INTERVALS = 10  # that every meter has sent
START_AGO = timedelta(hours=8)  # from then on the meters have sent nothing: the bench does
RARE = "1-0:32.7.0"
_SQL = Path(__file__).with_suffix(".sql")


def ready(meters: int, say: Callable[[str], None]) -> str:
    """The name of the database of so many meters, made where it is not there; the release's migrations are applied."""
    name = f"million_{meters}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [name])
        found = cursor.fetchone()
        if found is not None and found[0] is None:  # a run that was stopped half way
            cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            found = None
    if found is None:
        say(f"making the database of {meters:,} meters")
        create_database(name, "template0")
    use_database(name)
    call_command("migrate", verbosity=0)
    grant_rights(embedded.WORKING_ROLE)
    if found is None:
        _fill(meters, say)
        with connection.cursor() as cursor:
            cursor.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                    sql.Identifier(name), sql.Literal(datetime.now(UTC).isoformat())
                )
            )
    return name


def _fill(meters: int, say: Callable[[str], None]) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    start = now.replace(minute=0, second=0) - START_AGO
    meters_each = min(1000, meters)
    fleet_key = provisioning.create_fleet_key(f"bench {secrets.token_hex(4)}")
    values = {
        "meters": meters,
        "meters_each": meters_each,
        "concentrators": meters // meters_each,
        "uplinks": max(500, meters // 10),
        "events": max(500, meters // 5),
        "failures": meters,
        "commands": max(100, meters // 20),
        "day_intervals": DAY_INTERVALS,
        "fleet_key": fleet_key.pk,
        "rare": RARE,
        "now": f"'{now.isoformat()}'::timestamptz",
        "start": f"'{start.isoformat()}'::timestamptz",
    }
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        cursor.execute("SET work_mem = '256MB'")
        cursor.execute("SET maintenance_work_mem = '512MB'")
        for statement in _SQL.read_text().format(**values).split(";\n"):
            if statement.strip():
                table = statement.partition("INSERT INTO ")[2].partition(" ")[0]
                say(f"filling {table}")
                cursor.execute(statement)
        say("statistics")
        cursor.execute("VACUUM (ANALYZE)")
        cursor.execute("CHECKPOINT")
