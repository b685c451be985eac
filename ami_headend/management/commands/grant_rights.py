"""manage.py grant_rights: rights of web and workers in the database."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import connection

from ami_headend import database_roles
from ami_headend.core.commands import DomainCommand
from ami_headend.database_roles import RoleError


class Command(DomainCommand):
    help = (
        "Give the role of web and workers (DATABASE_URL's) exactly the rights that it needs, and revoke all others."
        " manage.py migrate does so too; use this after a restore, for another role, and after lowering RETENTION_DAYS."
        " It uses the role of OWNER_DATABASE_URL."
    )
    examples = (
        "examples:\n"
        "  manage.py grant_rights\n"
        "  manage.py grant_rights --role headend_web\n"
        "  manage.py grant_rights --dry-run      prints the statements; changes nothing"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--role", help="a role other than DATABASE_URL's")
        parser.add_argument("--dry-run", action="store_true", help="print the statements and change nothing")

    def handle(self, *args: Any, dry_run: bool, role: str | None, **options: Any) -> None:
        role = role or database_roles.working_role()
        if role is None:
            raise CommandError(
                "DATABASE_URL and OWNER_DATABASE_URL must name two roles, or --role another one: a role that owns the "
                "tables needs no rights, and web and workers should not use it."
            )
        with database_roles.as_owner():
            statements = database_roles.statements(role)
            if dry_run:
                connection.ensure_connection()
                for statement in statements:
                    self.stdout.write(f"{statement.as_string(connection.connection)};")
                return
            try:
                database_roles.grant_rights(role)
            except RoleError as error:
                raise CommandError(f"{error}. Nothing was changed.") from error
        self.stdout.write(f"Role {role} has the rights that web and workers need, and no others here.")
