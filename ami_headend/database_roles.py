"""Two roles in PostgreSQL: the owner of the tables, and the working role of web and workers, which owns nothing.

The rights of the working role are granted table by table. This module lists them all, and every ``manage.py migrate``
grants them again. Partitions need no rights of their own: readings are reached through their parent.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import DatabaseError, connection, transaction
from psycopg import sql

from ami_headend.core.sql import select
from ami_headend.core.text import counted
from keyvault import journal
from meters.readings import partitions
from meters.registry import access_record

_USUAL = "SELECT, INSERT, UPDATE, DELETE"
_UNUSUAL = {
    "django_migrations": "SELECT",
    "django_content_type": "SELECT",
    "auth_permission": "SELECT",
    "keyvault_auditrecord": "SELECT, INSERT",
    "keyvault_backup": "SELECT",
    "keyvault_journal_replayed": "SELECT",
    "concentrators_feedera": "SELECT, INSERT",
    "concentrators_feedhead": "SELECT, UPDATE",
    "keyvault_auditkey": "SELECT, INSERT, UPDATE",
    "keyvault_agreementkey": "SELECT, INSERT, UPDATE",
    "keyvault_approval": "SELECT, INSERT, UPDATE",
    "keyvault_authority": "SELECT, INSERT, UPDATE",  # UPDATE also locks its row against a revocation
    "keyvault_maskauthority": "SELECT, INSERT, UPDATE",  # withdrawn, never removed
    "keyvault_enrolment": "SELECT, INSERT",  # a certificate enrols once
    "keyvault_revokedcertificate": "SELECT, INSERT",
    "keyvault_meteridentity": "SELECT, INSERT, UPDATE (mac)",
    "keyvault_couponlist": "SELECT, INSERT",
    "keyvault_coupon": "SELECT, INSERT, UPDATE (spent_on)",
    "keyvault_coupondispute": "SELECT, INSERT",
    "keyvault_devicepublickey": "SELECT, INSERT",  # the public key of a meter never changes
    "metrics_uncounted": "SELECT, DELETE",  # a function of the owner adds rows
    "meters_householdaccess": "SELECT, INSERT",  # functions of the owner count and remove rows
    "meters_maskedreading": "SELECT, INSERT, UPDATE (interval_minutes, set_id)",  # as it comes into a set
    "meters_signature": "SELECT, INSERT",
    "meters_pushprofile": "SELECT, INSERT, UPDATE (retired_at)",  # a version never changes
    "meters_reading": "SELECT, INSERT, UPDATE (interval_minutes)",  # for a reading whose interval length is corrected
}

_OWNED_TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
      AND pg_has_role(relowner, 'USAGE')
ORDER BY relname
"""
_OWNED_PARTITIONS_AND_SEQUENCES = """
SELECT relname, relkind = 'S' FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND (relkind = 'S' OR relispartition AND relkind = 'r')
      AND pg_has_role(relowner, 'USAGE')
ORDER BY relname
"""
_OWNED_FUNCTIONS = """
SELECT oid::regprocedure::text FROM pg_proc
WHERE pronamespace = current_schema()::regnamespace AND prosecdef AND pg_has_role(proowner, 'USAGE')
ORDER BY 1
"""
_OWNED_PLACES = """
SELECT current_schema(), pg_has_role(nspowner, 'USAGE'), current_database(), pg_has_role(datdba, 'USAGE')
FROM pg_namespace, pg_database WHERE nspname = current_schema() AND datname = current_database()
"""


class RoleError(Exception):
    """Rights cannot be granted; the message says what to do."""


@contextmanager
def as_owner() -> Iterator[None]:
    """Use the owner's role on the default connection; no change if OWNER_DATABASE_URL is not set."""
    owner, place = settings.OWNER_DATABASE, connection.settings_dict
    if owner is None or all(place[key] == value for key, value in owner.items()):
        yield
        return
    before = {key: place[key] for key in owner}
    connection.close()
    place.update(owner)
    try:
        yield
    finally:
        connection.close()
        place.update(before)


def working_role() -> str | None:
    """Return the working role of web and workers; None if it is the owner's."""
    owner, role = settings.OWNER_DATABASE, connection.settings_dict["USER"]
    return None if owner is None or owner["USER"] == role else role


def grant_rights(role: str) -> None:
    """Give the role exactly the rights that web and workers need. Needs the owner's role; RoleError if it fails."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            for statement in statements(role):
                cursor.execute(statement)
            partitions.set_retention()
            access_record.set_keep_days()
            journal.bind_to_timeline(may_lag=settings.STANDBY_MAY_LAG)
    except DatabaseError as error:
        text = str(error).splitlines()[0]
        raise RoleError(
            f"role {role} cannot be given its rights: {text} (it must exist; OWNER_DATABASE_URL must name the owner)"
        ) from error


def statements(role: str) -> list[sql.Composed]:
    """Return statements that revoke every right of the role and grant those it needs. It never owns or makes
    anything.
    """
    name = sql.Identifier(role)

    def composed(text: str, *identifiers: str, rights: str = "") -> sql.Composed:
        parts = map(sql.Identifier, identifiers)
        return sql.SQL(text).format(*parts, role=name, rights=sql.SQL(rights))

    schema, owns_schema, database, owns_database = select(_OWNED_PLACES)[0]
    found = [composed("GRANT USAGE ON SCHEMA {} TO {role}", schema)]
    if owns_schema:
        found.append(composed("REVOKE CREATE ON SCHEMA {} FROM PUBLIC, {role}", schema))
    if owns_database:
        found.append(composed("REVOKE CREATE, TEMPORARY ON DATABASE {} FROM PUBLIC, {role}", database))
        found.append(composed("GRANT CONNECT ON DATABASE {} TO {role}", database))
    for (table,) in select(_OWNED_TABLES):
        found.append(composed("REVOKE ALL ON TABLE {}.{} FROM PUBLIC, {role}", schema, table))
        found.append(composed("GRANT {rights} ON TABLE {}.{} TO {role}", schema, table, rights=_rights(table)))
    for relation, is_sequence in select(_OWNED_PARTITIONS_AND_SEQUENCES):
        kind = "SEQUENCE" if is_sequence else "TABLE"
        found.append(composed(f"REVOKE ALL ON {kind} {{}}.{{}} FROM PUBLIC, {{role}}", schema, relation))
        if is_sequence:
            found.append(composed("GRANT USAGE ON SEQUENCE {}.{} TO {role}", schema, relation))
    for (function,) in select(_OWNED_FUNCTIONS):
        found.append(composed(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC, {{role}}"))
        found.append(composed(f"GRANT EXECUTE ON FUNCTION {function} TO {{role}}"))
    return found


def _rights(table: str) -> str:
    return _UNUSUAL.get(table, _USUAL)


_EXCESS = """
SELECT current_user,
       rolsuper, rolcreaterole OR rolcreatedb OR rolbypassrls OR rolreplication,
       (SELECT count(*) FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND pg_has_role(current_user, relowner, 'MEMBER')),
       has_schema_privilege(current_schema(), 'CREATE')
           OR has_database_privilege(current_database(), 'CREATE, TEMPORARY'),
       has_table_privilege('keyvault_auditrecord', 'UPDATE, DELETE, TRUNCATE, TRIGGER'),
       has_table_privilege('meters_householdaccess', 'UPDATE, DELETE, TRUNCATE, TRIGGER')
FROM pg_roles WHERE rolname = current_user
"""
_MISSING = """
SELECT relname FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
      AND NOT has_table_privilege(pg_class.oid, 'SELECT')
ORDER BY relname
"""


def excess_rights() -> list[str]:
    """Describe each right that this connection's role has and that web and workers should not have."""
    role, is_superuser, makes_roles, owned, may_create, may_change_audit, may_change_looks = select(_EXCESS)[0]
    told = {
        f"{role} is a superuser": is_superuser,
        f"{role} may make roles or databases, or bypass row security": makes_roles and not is_superuser,
        f"{role} owns {counted(owned, 'table or sequence', 'tables and sequences')}": owned,
        f"{role} may make tables": may_create,
        f"{role} may change the audit record": may_change_audit,
        f"{role} may change the record of who looked at households": may_change_looks,
    }
    return [text for text, is_so in told.items() if is_so]


def tables_out_of_reach() -> list[str]:
    """Return the tables that this connection's role may not read: they are newer than its rights."""
    return [table for (table,) in select(_MISSING)]
