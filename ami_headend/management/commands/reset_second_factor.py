"""manage.py reset_second_factor: for someone whose phone and recovery codes are gone."""

from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ami_headend.signin import lockout, secondfactor
from ami_headend.signin.models import Authenticator
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError


class Command(BaseCommand):
    help = (
        "Take the second factor of accounts away, and unlock them. Sessions that it opened end; who needs one sets up"
        " another at the next sign-in. Be sure who asks: until then the password alone signs in."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "examples:\n"
            "  manage.py reset_second_factor alice\n"
            "  manage.py reset_second_factor --all      after SECRET_KEY was changed, which makes all of them void\n\n"
            "exit status: 0 done, and audited; 1 nothing was done."
        )
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
        try:
            done = [user.get_username() for user in users if secondfactor.remove(user, chain.command_actor())]
        except (AuditError, MasterKeyError) as error:
            raise CommandError(f"not done, for it could not be audited: {error}") from None
        for user in users:
            lockout.unlock(user.get_username())
        names = ", ".join(done) or "none of them had one"
        self.stdout.write(f"Second factors taken away: {len(done)} ({names}).")
