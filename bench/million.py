"""A database like that of a million meters after some years, made once in a kept folder and used again.

PostgreSQL makes the rows itself (million.sql). Device keys are derived from one fleet key, so every meter's frames open
and no key has to be wrapped. Other numbers of meters scale in proportion.
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
from bench.site import TEMPLATE, create_database, use_database
from keyvault.device_keys import provisioning

HIGHEST = 19_200  # the present counter of every meter
DAY_INTERVALS = 10  # intervals that every meter has sent
START_AGO = timedelta(hours=8)  # meters have sent nothing since then: the benchmark does
RARE = "1-0:32.7.0"
_SQL = Path(__file__).with_suffix(".sql")


def ready(meters: int, say: Callable[[str], None], kind: str = "million", day_intervals: int = DAY_INTERVALS) -> str:
    """Return the name of the database with this many meters; make it if needed, or apply migrations to a kept one.

    All meters have sent ``day_intervals`` intervals.
    """
    name = f"{kind}_{meters}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [name])
        found = cursor.fetchone()
        if found is not None and found[0] is None:  # left by an interrupted run
            cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            found = None
    if found is None:
        say(f"making the database of {meters:,} meters")
        create_database(name, TEMPLATE)
    use_database(name)
    if found is not None:
        call_command("migrate", verbosity=0)
        grant_rights(embedded.WORKING_ROLE)
    else:
        fill(meters, say, day_intervals)
        with connection.cursor() as cursor:
            say("statistics")
            cursor.execute("VACUUM (ANALYZE)")
            cursor.execute("CHECKPOINT")
            cursor.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                    sql.Identifier(name), sql.Literal(datetime.now(UTC).isoformat())
                )
            )
    return name


def fill(meters: int, say: Callable[[str], None], day_intervals: int) -> None:
    """Make the rows in the current database, which has none of them."""
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
        "day_intervals": day_intervals,
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
