"""Copies uplinks from the database before a restore into the restored one, so that no acknowledged uplink is lost.

They are copied as they were posted, and verified again: the restored database lacks their results.
"""

from typing import NamedTuple

from django.db import connection
from psycopg import sql

# Everything that reception writes (concentrators/ingest/reception.py); `due_at` is now, so that the sweep takes them.
_COLUMNS = """concentrator_id, received_at, sha256, body, octets, frames, due_at,
              accepted, duplicate, rejected, failures, waiting, attempts, last_error"""
_VALUES = "u.concentrator_id, u.received_at, u.sha256, u.body, u.octets, u.frames, now(), 0, 0, 0, '{{}}', 0, 0, ''"
_NOT_THERE = """NOT EXISTS (SELECT 1 FROM {target}.concentrators_uplink t WHERE t.id = u.id
                            AND t.concentrator_id = u.concentrator_id AND t.sha256 = u.sha256)"""

_CONCENTRATORS = """
INSERT INTO {target}.concentrators_concentrator (id, name, is_active, created_at)
SELECT c.id, CASE WHEN EXISTS (SELECT 1 FROM {target}.concentrators_concentrator n WHERE n.name = c.name)
             THEN left(c.name, 100) || ' (' || c.id || ')' ELSE c.name END, false, c.created_at
FROM {source}.concentrators_concentrator c
WHERE NOT EXISTS (SELECT 1 FROM {target}.concentrators_concentrator k WHERE k.id = c.id)
  AND EXISTS (SELECT 1 FROM {source}.concentrators_uplink u WHERE u.concentrator_id = c.id AND u.body IS NOT NULL)
"""
_UPLINKS = f"""
INSERT INTO {{target}}.concentrators_uplink (id, {_COLUMNS})
SELECT CASE WHEN EXISTS (SELECT 1 FROM {{target}}.concentrators_uplink o WHERE o.id = u.id)
       THEN nextval(%(sequence)s::regclass) ELSE u.id END, {_VALUES}
FROM {{source}}.concentrators_uplink u WHERE u.body IS NOT NULL AND {_NOT_THERE}
ON CONFLICT (concentrator_id, sha256) WHERE body IS NOT NULL DO NOTHING
"""
_WITHOUT_OCTETS = f"""
SELECT count(*) FROM {{source}}.concentrators_uplink u WHERE u.body IS NULL AND {_NOT_THERE}
"""


class Carried(NamedTuple):
    """The numbers of uplinks that were copied, and that were not, because their octets are deleted."""

    uplinks: int
    without_octets: int


def carry(source: str, target: str) -> Carried:
    """Copy the uplinks that schema ``source`` has and ``target`` lacks, unverified, under their ids.

    A concentrator that ``target`` lacks is copied, too, and stays inactive. Runs in the caller's transaction.
    """
    names = {"source": sql.Identifier(source), "target": sql.Identifier(target)}
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(_CONCENTRATORS).format(**names))
        cursor.execute("SELECT pg_get_serial_sequence(%s, 'id')", [f"{target}.concentrators_uplink"])
        sequence = cursor.fetchone()[0]
        _move_past(sequence, names)
        cursor.execute(sql.SQL(_UPLINKS).format(**names), {"sequence": sequence})
        carried = cursor.rowcount
        cursor.execute(sql.SQL(_WITHOUT_OCTETS).format(**names))
        return Carried(carried, cursor.fetchone()[0])


def _move_past(sequence: str, names: dict[str, sql.Identifier]) -> None:
    """Continue the ids above those of both schemas."""
    with connection.cursor() as cursor:
        cursor.execute(
            sql.SQL(
                """SELECT setval(%s::regclass, greatest(nextval(%s::regclass),
                       (SELECT max(id) FROM {source}.concentrators_uplink),
                       (SELECT max(id) FROM {target}.concentrators_uplink)))"""
            ).format(**names),
            [sequence, sequence],
        )
