"""manage.py migrate: Django's command in the owner's role; then partitions, and the rights of the working role."""

from typing import Any

from django.core.management.base import CommandError
from django.core.management.commands import migrate
from django.db import OperationalError, ProgrammingError, connection
from django.db.migrations.exceptions import MigrationSchemaMissing
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone
from psycopg.errors import InsufficientPrivilege

from ami_headend.core import upgrades
from ami_headend.core.commands import DomainCommand
from ami_headend.core.sql import fetch_rows
from ami_headend.database_roles import RoleError, as_owner, grant_rights, working_role
from meters.readings import partitions


def _is_refusal(error: BaseException | None) -> bool:
    """Whether PostgreSQL refused a right, below the errors that Django raised from it."""
    while error is not None and not isinstance(error, InsufficientPrivilege):
        error = error.__cause__ or error.__context__
    return error is not None


def _complete(role: str | None) -> None:
    """Complete a migrated database: create the partitions of readings and grant the role its rights."""
    try:
        if fetch_rows("SELECT to_regprocedure('meters_create_month(timestamptz)')") != [(None,)]:  # migrated so far
            partitions.create_months(timezone.now())
        if role is not None:
            grant_rights(role)
    except (OperationalError, RoleError) as error:
        raise CommandError(f"Migrated, but {str(error).strip()}. Run it again.") from error


class Command(DomainCommand, migrate.Command):
    help = (
        "Bring the database up to date, in the role of OWNER_DATABASE_URL if it is set, create the partitions that"
        " readings need, and give the role of DATABASE_URL the rights that web and workers need (manage.py"
        " grant_rights)."
    )
    examples = (
        "examples:\n"
        "  OWNER_DATABASE_URL=postgres://headend_owner:...@db/headend manage.py migrate\n"
        "  manage.py migrate --plan"
    )
    requires_system_checks = ()  # Django's own command runs all of them

    def execute(self, *args: Any, **options: Any) -> str | None:
        role = working_role()
        with as_owner():
            try:
                upgrades.check(MigrationRecorder(connection).applied_migrations())
                output = super().execute(*args, **options)
            except upgrades.HalfWayError as error:
                raise CommandError(
                    f"The database {connection.settings_dict['NAME']} stays as it is: {error}. Run manage.py migrate "
                    f"of {upgrades.OLDEST} first, then this one."
                ) from None
            except (ProgrammingError, MigrationSchemaMissing) as error:
                if not _is_refusal(error):
                    raise
                raise CommandError(
                    f"{str(error).splitlines()[0]}: the role {connection.settings_dict['USER']} does not own the "
                    "tables. Set OWNER_DATABASE_URL to the role that does."
                ) from error
            if not (options["plan"] or options["check_unapplied"]):
                _complete(role)
        return output
