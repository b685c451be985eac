"""manage.py api_token: tokens by which programs use the REST API."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ami_headend.api_tokens import tokens
from ami_headend.api_tokens.models import ApiToken
from ami_headend.api_tokens.tokens import Made, TokenError
from ami_headend.core.commands import DomainCommand
from ami_headend.web.scopes import Scope
from keyvault.audit.chain import AuditError, command_actor
from keyvault.master_key import MasterKeyError
from meters.registry import groups
from meters.registry.groups import GroupError


class Command(DomainCommand):
    help = (
        "List the tokens of programs, make one, rotate or revoke it; audited. A secret is printed once, alone on"
        " stdout. Exits 1 if nothing was done. Scopes: "
        + "; ".join(f"{scope}: {scope.meaning}" for scope in Scope)
        + "."
    )
    examples = (
        "examples:\n"
        "  manage.py api_token list\n"
        "  manage.py api_token list --json\n"
        "  manage.py api_token make billing --scope readings --scope feed --days 180\n"
        "  manage.py api_token make north --scope readings --group district:North\n"
        "  manage.py api_token rotate billing --overlap-hours 48    both secrets are good for two days\n"
        "  manage.py api_token rotate billing --overlap-hours 0     the present secret is refused at once\n"
        "  manage.py api_token revoke billing"
    )
    refusals = (TokenError, GroupError, AuditError, MasterKeyError)
    nothing_done = ". Nothing was changed."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=["list", "make", "rotate", "revoke"])
        parser.add_argument("name", nargs="?", help="the token's name; not for list")
        parser.add_argument("--scope", action="append", default=[], choices=list(Scope), help="may be repeated")
        parser.add_argument(
            "--group", action="append", help="limit it to meters in this group (kind:name, or a tag); may be repeated"
        )
        parser.add_argument("--days", type=int, help="how long the secret is valid; default: API_TOKEN_DAYS_MAX")
        hours = tokens.OVERLAP // timedelta(hours=1)
        parser.add_argument(
            "--overlap-hours", type=int, default=hours, help="how long the present secret is good beside the new one"
        )
        parser.add_argument("--json", action="store_true", help="the list for programs")

    def handle(self, *args: Any, action: str, name: str | None, **options: Any) -> None:
        if (name is None) != (action == "list"):
            raise CommandError("list takes no name." if name else f"Name the token to {action}.")
        actor, now = command_actor(), timezone.now()
        days = settings.API_TOKEN_DAYS_MAX if options["days"] is None else options["days"]
        if name is None:
            self._list(as_json=options["json"])
        elif action == "make":
            limits = None if options["group"] is None else groups.find(options["group"])
            self._show(tokens.make(actor, name, options["scope"], days, now, limits))
        elif action == "rotate":
            try:
                overlap = timedelta(hours=options["overlap_hours"])
            except OverflowError:
                raise CommandError("--overlap-hours is too large") from None
            self._show(tokens.rotate(actor, _number(name), days, overlap, now))
        else:
            revoked = tokens.revoke(actor, _number(name), now)
            self.stdout.write(f"Token {revoked} is refused from now on.")

    def _list(self, *, as_json: bool) -> None:
        now, rows = timezone.now(), list(tokens.listed())
        if as_json:
            names = ("name", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at", "last_used_from")
            self.write_json(
                [
                    {"number": row.pk, "state": row.state(now), **{name: getattr(row, name) for name in names}}
                    for row in rows
                ]
            )
            return
        for row in rows:
            used = f"used {row.last_used_at:%Y-%m-%d %H:%M} UTC from {row.last_used_from}" if row.last_used_at else ""
            until = f"until {row.expires_at:%Y-%m-%d}"
            self.stdout.write(f"{row.name}  {row.state(now)} {until}, {'+'.join(row.scopes)}, {used or 'never used'}")
        if not rows:
            self.stdout.write("There is no token: manage.py api_token make NAME --scope readings")

    def _show(self, made: Made) -> None:
        token = made.token
        if token.previous_until is not None:
            self.stderr.write(f"The secret before is good until {token.previous_until:%Y-%m-%d %H:%M} UTC.")
        self.stderr.write(f"Valid until {token.expires_at:%Y-%m-%d}. It is shown once; only its digest is kept:")
        self.stdout.write(made.secret)


def _number(name: str) -> int:
    """Return the number of the token in use that has this name. CommandError if there is none."""
    token = ApiToken.objects.filter(name=name, revoked_at=None).first()
    if token is None:
        raise CommandError(f"there is no token {name!r}, or it is revoked: manage.py api_token list")
    return token.pk
