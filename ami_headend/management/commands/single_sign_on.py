"""manage.py single_sign_on: whose accounts belong to people at the OpenID provider, and whether it answers."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from ami_headend.signin import federated, provider
from ami_headend.signin.federated import RefusedError
from ami_headend.signin.models import FederatedIdentity
from ami_headend.signin.provider import ProviderError
from keyvault.audit.chain import AuditError, command_actor
from keyvault.master_key import MasterKeyError


class Command(DomainCommand):
    help = (
        "Check the OpenID provider; list the accounts that sign in there; link an account that is here to a subject of"
        " the provider, or unlink it, which ends its sessions. Audited. Exits 1 if nothing was done."
    )
    examples = (
        "examples:\n"
        "  manage.py single_sign_on check\n"
        "  manage.py single_sign_on list\n"
        "  manage.py single_sign_on link ann 248289761001\n"
        "  manage.py single_sign_on unlink ann"
    )
    refusals = (RefusedError, ProviderError, AuditError, MasterKeyError)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=["check", "list", "link", "unlink"])
        parser.add_argument("account", nargs="?", help="the account's name; for link and unlink")
        parser.add_argument("subject", nargs="?", help="the claim sub of that person at the provider; for link")

    def handle(self, *args: Any, action: str, account: str | None, subject: str | None, **options: Any) -> None:
        if action in ("check", "link") and not provider.is_configured():
            raise CommandError("OIDC_ISSUER is not set: there is no provider.")
        if action == "check":
            self.stdout.write(provider.check())
        elif action == "list":
            self._list()
        elif account is None or (action == "link" and subject is None):
            raise CommandError("name the account" + (" and the subject" if action == "link" else ""))
        else:
            user = User.objects.filter(username=account).first()
            if user is None:
                raise CommandError(f"there is no account {account!r}")
            if action == "link":
                federated.link(command_actor(), user, str(subject), timezone.now())
                self.stdout.write(f"{account} is {subject} at {settings.OIDC_ISSUER}.")
            elif federated.unlink(command_actor(), user):
                self.stdout.write(f"{account} signs in at no provider any more; its sessions were ended.")
            else:
                raise CommandError(f"{account} signs in at no provider")

    def _list(self) -> None:
        for one in FederatedIdentity.objects.select_related("user").order_by("user__username"):
            signed_in = f"signed in {one.signed_in_at:%Y-%m-%d %H:%M} UTC" if one.signed_in_at else "never signed in"
            self.stdout.write(f"{one.user.get_username()}  {one.subject} at {one.issuer}, {signed_in}")
