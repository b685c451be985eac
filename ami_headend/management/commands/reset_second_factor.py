"""manage.py reset_second_factor: for somebody who has lost phone and recovery codes."""

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandError, CommandParser

from ami_headend.core.commands import DomainCommand
from ami_headend.signin import lockout, secondfactor
from ami_headend.signin.models import Authenticator
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError


class Command(DomainCommand):
    help = (
        "Remove the second factor of accounts, and unlock them. Sessions opened with it end; accounts that need one set"
        " up another at the next sign-in. Be sure who asks: until then the password alone is enough."
    )
    examples = (
        "examples:\n"
        "  manage.py reset_second_factor alice\n"
        "  manage.py reset_second_factor --all      after a change of SECRET_KEY, which voids all of them\n\n"
        "exit status: 0 done, and audited; 1 nothing was done."
    )
    refusals = (AuditError, MasterKeyError)
    nothing_done = ". Nothing was done."

    def add_arguments(self, parser: CommandParser) -> None:
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("account", nargs="?", help="the name of the account")
        which.add_argument("--all", action="store_true", help="every account that has a second factor")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["all"]:
            users = list(User.objects.filter(pk__in=Authenticator.objects.values("user")).order_by("username"))
        else:
            users = list(User.objects.filter(username=options["account"]))
            if not users:
                raise CommandError(f"there is no account {options['account']!r}")
        done = [user.get_username() for user in users if secondfactor.remove(user, chain.command_actor())]
        for user in users:
            lockout.unlock(user.get_username())
        names = ", ".join(done) or "none of them had one"
        self.stdout.write(f"Second factors removed: {len(done)} ({names}).")
