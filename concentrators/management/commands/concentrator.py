"""manage.py concentrator: register concentrators, and their tokens."""

from argparse import RawDescriptionHelpFormatter
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from concentrators import access
from concentrators.models import Concentrator, ConcentratorToken
from keyvault.audit import AuditError, command_actor
from keyvault.masterkey import MasterKeyError

_DAYS_MAX = 36_500


class Command(BaseCommand):
    help = "Register a concentrator, give it a bearer token (shown once), list or revoke its tokens."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "examples:\n"
            "  manage.py concentrator add DCU-17\n"
            "  manage.py concentrator token DCU-17 --label spring --days 365\n"
            "  manage.py concentrator tokens DCU-17\n"
            "  manage.py concentrator revoke DCU-17 --token 4"
        )
        parser.add_argument("action", choices=["add", "token", "tokens", "revoke"])
        parser.add_argument("name", help="the concentrator's name")
        parser.add_argument("--label", default="", help="what a token is for")
        parser.add_argument("--days", type=int, help="days until a new token expires; without it, it does not")
        parser.add_argument("--token", type=int, help="number of the token to revoke, as `tokens` lists it")

    def handle(self, *args: Any, action: str, name: str, **options: Any) -> None:
        try:
            self.act(action, name, options)
        except (MasterKeyError, AuditError) as error:
            raise CommandError(str(error)) from None

    def act(self, action: str, name: str, options: dict[str, Any]) -> None:
        if action == "add":
            _add(name)
            self.stdout.write(f"Registered {name}. Next: manage.py concentrator token {name}")
            return
        concentrator = Concentrator.objects.filter(name=name).first()
        if concentrator is None:
            raise CommandError(f"there is no concentrator {name}: manage.py concentrator add {name}")
        if action == "token":
            self._issue(concentrator, options["label"], options["days"])
        elif action == "tokens":
            self._list(concentrator)
        else:
            self._revoke(concentrator, options["token"])

    def _issue(self, concentrator: Concentrator, label: str, days: int | None) -> None:
        if days is not None and not 1 <= days <= _DAYS_MAX:
            raise CommandError(f"--days takes a number from 1 to {_DAYS_MAX}")
        _check(ConcentratorToken(concentrator=concentrator, label=label), "label")
        expires_at = None if days is None else timezone.now() + timedelta(days=days)
        token = access.issue_token(command_actor(), concentrator, label, expires_at)
        self.stderr.write("This token is shown once; only its digest is kept:")
        self.stdout.write(token)

    def _list(self, concentrator: Concentrator) -> None:
        now = timezone.now()
        for token in concentrator.tokens.order_by("pk"):
            state = "revoked" if token.revoked_at else "expired" if _is_past(token, now) else "valid"
            used = f"last used {token.last_used_at:%Y-%m-%d %H:%M} UTC" if token.last_used_at else "never used"
            self.stdout.write(f"{token.pk}  {state}  {token.label or '(no label)'}  {used}")

    def _revoke(self, concentrator: Concentrator, pk: int | None) -> None:
        token = None if pk is None else concentrator.tokens.filter(pk=pk).first()
        if token is None:
            raise CommandError(f"{concentrator} has no token {pk}: manage.py concentrator tokens {concentrator}")
        access.revoke_token(command_actor(), token)
        self.stdout.write(f"Token {pk} of {concentrator} is refused from now on.")


def _add(name: str) -> None:
    concentrator = Concentrator(name=name)
    _check(concentrator, "name")
    if Concentrator.objects.filter(name=name).exists():
        raise CommandError(f"there is a concentrator {name} already")
    access.save_as(command_actor(), concentrator)


def _check(row: Concentrator | ConcentratorToken, field: str) -> None:
    """What the admin's form would refuse is refused here, too."""
    text = getattr(row, field)
    try:
        row.clean_fields(exclude={f.name for f in row._meta.fields} - {field})
    except ValidationError as error:
        raise CommandError(f"{field} {text[:40]!r}: {' '.join(error.messages)}") from None
    if not text.isprintable():
        raise CommandError(f"{field} {text[:40]!r} holds control characters")


def _is_past(token: ConcentratorToken, now: Any) -> bool:
    return token.expires_at is not None and token.expires_at <= now
