"""manage.py concentrator: register concentrators, their tokens, system titles and keys."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from ami_headend.core.csv_tables import FileError
from ami_headend.core.names import Alike, alike
from ami_headend.core.text import counted
from concentrators.fleet import concentrator_keys, registry, summaries
from concentrators.fleet.concentrator_import import import_concentrators
from concentrators.fleet.selection import find_concentrator
from concentrators.models import Concentrator, ConcentratorToken
from keyvault.audit.chain import AuditError, command_actor
from keyvault.cose.algorithms import AES_CCM_16_64_128
from keyvault.device_keys.epochs import EpochError
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.master_key import MasterKeyError
from keyvault.schemes.ccm import CCM_ENVELOPE
from meters.registry.groups import GroupError
from meters.registry.lookup import RegistryError, parse_system_title

_DAYS_MAX = 36_500


class Command(DomainCommand):
    help = (
        "List the concentrators, register one, give it a bearer token (shown once), list or revoke its tokens; give it"
        " a system title and keys of its own, which it needs to check hop tags and to report for hop meters. Exits 1"
        " if nothing was done."
    )
    examples = (
        "examples:\n"
        "  manage.py concentrator list                 with their meters, tokens, and when they posted last\n"
        "  manage.py concentrator list --json\n"
        "  manage.py concentrator add DCU-17\n"
        "  manage.py concentrator import new.csv --dry-run\n"
        "      a table with a column name, and system_title where it holds keys: all lines, or none\n"
        "  manage.py concentrator token DCU-17 --label spring --days 365\n"
        "  manage.py concentrator tokens DCU-17\n"
        "  manage.py concentrator revoke DCU-17 --token 4\n"
        "  manage.py concentrator title DCU-17 --title 0024befffe00c001\n"
        "  manage.py concentrator keys DCU-17      its first key and transfer key; then: manage.py export_keys\n"
        "  manage.py concentrator rotate DCU-17    its next key, which it fetches itself\n\n"
        "to cut off its keys: manage.py compromise_keys --concentrator DCU-17"
    )
    refusals = (MasterKeyError, AuditError, FileError, RegistryError, ProvisioningError, EpochError, GroupError)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "action", choices=["list", "add", "import", "token", "tokens", "revoke", "title", "keys", "rotate"]
        )
        parser.add_argument("name", nargs="?", help="the concentrator's name, or the table to import; not for list")
        parser.add_argument("--dry-run", action="store_true", help="of import: check everything, change nothing")
        parser.add_argument("--json", action="store_true", help="the list for programs")
        parser.add_argument("--label", default="", help="what a token is for")
        parser.add_argument("--days", type=int, help="days until a new token expires; without it, it does not")
        parser.add_argument("--title", help="the system title: EUI-64, 16 hex digits")
        parser.add_argument(
            "--algorithm",
            type=int,
            choices=sorted(CCM_ENVELOPE.algorithms),
            default=AES_CCM_16_64_128,
            help="of its keys: 10 with 128 bits (usual), 11 with 256",
        )
        parser.add_argument("--token", type=int, help="number of the token to revoke, as `tokens` lists it")

    def handle(self, *args: Any, action: str, name: str | None, **options: Any) -> None:
        if (name is None) != (action == "list"):
            raise CommandError("list takes no name." if name else f"Name the concentrator to {action}.")
        if name is None:
            self._list_all(as_json=options["json"])
            return
        if action == "add":
            added = _add(name)
            self.stdout.write(f"Registered {added}. Next: manage.py concentrator token '{added}'")
            return
        if action == "import":
            self._import(Path(name), dry_run=options["dry_run"])
            return
        concentrator = find_concentrator(name)
        if action == "token":
            self._issue(concentrator, options["label"], options["days"])
        elif action == "tokens":
            self._list(concentrator)
        elif action in ("title", "keys", "rotate"):
            self._hold_keys(concentrator, action, options)
        else:
            self._revoke(concentrator, options["token"])

    def _hold_keys(self, concentrator: Concentrator, action: str, options: dict[str, Any]) -> None:
        if action == "title":
            if options["title"] is None:
                raise CommandError("give the title: --title 0024befffe00c001")
            concentrator_keys.give(command_actor(), concentrator, parse_system_title(options["title"]))
            self.stdout.write(
                f"Concentrator {concentrator} has system title {concentrator_keys.of(concentrator).hex()}."
            )
        elif action == "keys":
            concentrator_keys.make_keys(command_actor(), concentrator, options["algorithm"])
            self.stdout.write(f"Concentrator {concentrator} has its first key and a transfer key.")
        else:
            epoch = concentrator_keys.rotate(command_actor(), concentrator)
            self.stdout.write(
                f"Epoch {epoch} of concentrator {concentrator} is pending until its first frame under it."
            )

    def _import(self, path: Path, *, dry_run: bool) -> None:
        report = import_concentrators(path, command_actor(), dry_run=dry_run)
        self.refuse(report.bad)
        told = "Would register" if dry_run else "Registered"
        given = f", gave {report.titled} of those registered before a system title" if report.titled else ""
        grouped = f"; new in groups: {counted(report.grouped, 'membership')}" if report.grouped else ""
        new = counted(len(report.new), "concentrator")
        said = f"{told} {new}{given}; {report.unchanged} {'is' if report.unchanged == 1 else 'are'} registered already"
        said += f"{grouped}."
        self.stdout.write(said)

    def _list_all(self, *, as_json: bool) -> None:
        rows = summaries.concentrators(timezone.now())
        if as_json:
            self.write_json([row._asdict() for row in rows])
            return
        for row in rows:
            posted = f"posted {row.posted_at:%Y-%m-%d %H:%M} UTC" if row.posted_at else "never posted"
            state = "active" if row.is_active else f"REFUSED ({_why_refused(row.moved_to)})"
            self.stdout.write(
                f"{row.name}  {state}, {counted(row.meters, 'meter')}, "
                f"{counted(row.valid_tokens, 'valid token')}, {posted}"
            )
        if not rows:
            self.stdout.write("There is no concentrator: manage.py concentrator add NAME")

    def _issue(self, concentrator: Concentrator, label: str, days: int | None) -> None:
        if days is not None and not 1 <= days <= _DAYS_MAX:
            raise CommandError(f"--days takes a number from 1 to {_DAYS_MAX}")
        _check(ConcentratorToken(concentrator=concentrator, label=label), "label")
        expires_at = None if days is None else timezone.now() + timedelta(days=days)
        token = registry.issue_token(command_actor(), concentrator, label, expires_at)
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
        registry.revoke_token(command_actor(), token)
        self.stdout.write(f"Token {pk} of {concentrator} is refused from now on.")


def _why_refused(moved_to: str) -> str:
    return f"moved to cell {moved_to}" if moved_to else "not active"


def _add(name: str) -> Concentrator:
    concentrator = Concentrator(name=name)
    _check(concentrator, "name")
    if standing := Concentrator.objects.alias(alike=Alike("name")).filter(alike=alike(concentrator.name)).first():
        raise CommandError(f"there is a concentrator {standing} already")
    registry.save_as(command_actor(), concentrator)
    return concentrator


def _check(row: Concentrator | ConcentratorToken, field: str) -> None:
    """What the admin's form would refuse is refused here, too."""
    text = getattr(row, field)
    try:
        row.clean_fields(exclude={f.name for f in row._meta.fields} - {field})
    except ValidationError as error:
        raise CommandError(f"{field} {text[:40]!r}: {' '.join(error.messages)}") from None
    if not (text := getattr(row, field)).isprintable():
        raise CommandError(f"{field} {text[:40]!r} holds control characters")


def _is_past(token: ConcentratorToken, now: Any) -> bool:
    return token.expires_at is not None and token.expires_at <= now
