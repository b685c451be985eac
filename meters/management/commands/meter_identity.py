"""manage.py meter_identity: whose signatures announce the coupons of a meter that signs its readings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from ami_headend.core.text import counted, some
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.coupons import identities
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.master_key import MasterKeyError
from keyvault.models import MeterIdentity
from meters.registry.lookup import unregistered

_NAMED = 20  # titles that no meter is registered with


class Command(DomainCommand):
    help = (
        "Register the identities of meters that sign their readings: Ed25519 keys that a pinned authority certified "
        "(manage.py authority pin), one certificate in each file. All files are imported, or none."
    )
    examples = (
        "examples:\n"
        "  manage.py meter_identity register 0024befffe804ff1.identity 0024befffe804ff2.identity\n"
        "  manage.py meter_identity register shipment-7/*.identity --dry-run\n"
        "  manage.py meter_identity list --json\n"
        "  manage.py meter_identity confirm      once, after the upgrade from a release before identities had a MAC\n\n"
        "exit status: 0 done; 1 it could not be done, and nothing was."
    )
    refusals = (ProvisioningError, AuditError, MasterKeyError)
    nothing_done = ". Nothing was done."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="register|list|confirm")
        register = actions.add_parser("register", help="import certificates, one in each file")
        register.add_argument("files", nargs="+", type=Path, metavar="FILE")
        register.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
        confirm = actions.add_parser(
            "confirm", help="identities of earlier releases count again: each row is checked against its certificate"
        )
        confirm.add_argument(
            "--dry-run", action="store_true", help="name those that are to be confirmed, and do nothing"
        )
        actions.add_parser("list", help="the registered identities").add_argument(
            "--json", action="store_true", help="for programs"
        )

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        acts: dict[str, Callable[..., None]] = {"register": self.register, "list": self.list, "confirm": self.confirm}
        acts[action](**options)

    def register(self, *, files: list[Path], dry_run: bool, **options: Any) -> None:
        try:
            octets = [path.read_bytes() for path in files]
        except OSError as error:
            raise CommandError(f"cannot read {error.filename}: {error.strerror}. Nothing was done.") from None
        registered = identities.register(octets, chain.command_actor(), timezone.now(), dry_run=dry_run)
        would = "would be " if dry_run else ""
        self.stdout.write(
            f"{counted(registered.new, 'identity', 'identities')} {would}registered, "
            f"{registered.unchanged} had been registered before."
        )
        if unknown := unregistered(registered.system_titles):
            named = some([title.hex() for title in unknown], _NAMED)
            self.stderr.write(f"No meter with system title {named} is registered yet: their frames wait.")

    def confirm(self, *, dry_run: bool, **options: Any) -> None:
        if dry_run:
            titles = [bytes(row.system_title).hex() for row in identities.unconfirmed()]
            self.stdout.write(
                f"{counted(len(titles), 'identity is', 'identities are')} to be confirmed"
                f"{': ' * bool(titles)}{', '.join(titles)}."
            )
            return
        done = identities.confirm(chain.command_actor(), timezone.now())
        self.stdout.write(f"{counted(done.new, 'identity', 'identities')} confirmed, {done.unchanged} stood already.")

    def list(self, *, json: bool, **options: Any) -> None:
        rows = list(identities.listed())
        if json:
            self.write_json([as_json(row) for row in rows])
            return
        for row in rows:
            title, public = bytes(row.system_title).hex(), bytes(row.public).hex()
            self.stdout.write(
                f"{title}: {public}, certified by {row.authority}, registered {row.registered_at:%Y-%m-%d}"
            )
        if not rows:
            self.stdout.write("No identity is registered yet.")


def as_json(row: MeterIdentity) -> dict[str, Any]:
    """Return an identity, for programs."""
    return {
        "system_title": bytes(row.system_title).hex(),
        "public_key": bytes(row.public).hex(),
        "authority": row.authority.issuer,
        "issued_at": row.issued_at,
        "expires_at": row.expires_at,
        "registered_at": row.registered_at,
    }
