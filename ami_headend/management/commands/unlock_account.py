"""manage.py unlock_account: end the lock-out of an account after failed attempts to sign in."""

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandError, CommandParser

from ami_headend.core.commands import DomainCommand
from ami_headend.signin import lockout


class Command(DomainCommand):
    """Failures are counted by account and address under a keyed hash of the name; this deletes those of one name."""

    help = "End the lock-out of an account, from all addresses. Nothing else about the account is changed."
    examples = "example:\n  manage.py unlock_account alice"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="the account's name")

    def handle(self, *args: Any, **options: Any) -> None:
        name = options["name"]
        if "\0" in name or not User.objects.filter(username=name).exists():
            raise CommandError(f"There is no account {name!r}.")
        dropped = lockout.unlock(name)
        self.stdout.write(f"{name} may sign in again." if dropped else f"{name} was not locked out.")
