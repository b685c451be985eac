"""manage.py mask_authorities: pins mask authorities, and notes which meters were made with them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ami_headend.core import eui64
from ami_headend.core.commands import DomainCommand
from ami_headend.core.eui64 import Eui64Error
from ami_headend.core.text import counted
from concentrators.totals import mask_collector, masked_queries
from keyvault.approvals import ApprovalError
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.device_keys.errors import ProvisioningError
from keyvault.masking import pinned
from keyvault.masking.pinned import MaskAuthorityToPin
from keyvault.master_key import MasterKeyError
from meters.registry import mask_groups
from meters.registry.mask_groups import MaskGroupError


class Command(DomainCommand):
    help = (
        "Pin the mask authorities whose answers unmask totals, and note which meters were made with them. A group "
        "needs at least two authorities. To run an authority, use manage.py mask_authority."
    )
    examples = (
        "examples:\n"
        "  manage.py mask_authorities key                      the public key that authorities pin for this head-end\n"
        "  manage.py mask_authorities pin --name council --url https://masks.example.org --public 0b1e..77\n"
        "      (if REQUIRE_APPROVAL is on: manage.py approvals request pin-masks first)\n"
        "  manage.py mask_authorities group north 0024befffe804ff1 0024befffe804ff2\n"
        "      these meters were made with the authorities that were pinned with --group north\n"
        "  manage.py mask_authorities list\n"
        "  manage.py mask_authorities collect                  do now what workers do each minute\n"
        "  manage.py mask_authorities withdraw council\n\n"
        "exit status: 0 done; 1 it could not be done, and nothing was."
    )
    refusals = (ProvisioningError, ApprovalError, AuditError, MasterKeyError, Eui64Error, MaskGroupError)
    nothing_done = ". Nothing was done."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="key|pin|withdraw|group|list|collect")
        actions.add_parser("key", help="the head-end's public key, which authorities pin")
        pin = actions.add_parser("pin", help="pin an authority, so that it is asked")
        add_names(pin)
        withdraw = actions.add_parser("withdraw", help="no longer ask an authority: its group has one less")
        withdraw.add_argument("name")
        group = actions.add_parser("group", help="note which authorities meters were made with")
        group.add_argument("group", help="its name; '' for authorities that were pinned without a group")
        group.add_argument("titles", nargs="+", metavar="TITLE", help="system title, 16 hex digits")
        actions.add_parser("list", help="pinned authorities, and their open questions").add_argument(
            "--json", action="store_true", help="for programs"
        )
        collect = actions.add_parser("collect", help="form sets, ask authorities, unmask totals")
        collect.add_argument(
            "--settle",
            type=int,
            metavar="SECONDS",
            help="form a set if no value came for this long (MASKED_SETTLE_S)",
        )

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        acts: dict[str, Callable[..., None]] = {
            "key": self.key,
            "pin": self.pin,
            "withdraw": self.withdraw,
            "group": self.group,
            "list": self.list,
            "collect": self.collect,
        }
        acts[action](**options)

    def key(self, **options: Any) -> None:
        self.stdout.write(pinned.requester(timezone.now()).public.hex())

    def pin(self, *, name: str, url: str, group: str, public: str, **options: Any) -> None:
        authority = authority_of(name, url, group, public)
        row = pinned.pin(authority, chain.command_actor(), timezone.now())
        self.stdout.write(f"Pinned {row}: it is asked about group {group!r} as soon as that has two authorities.")

    def withdraw(self, *, name: str, **options: Any) -> None:
        pinned.withdraw(name, chain.command_actor(), timezone.now())
        self.stdout.write(f"{name} is no longer asked. Meters that it masks have no totals from now on.")

    def group(self, *, group: str, titles: list[str], **options: Any) -> None:
        changed = mask_groups.assign([eui64.parse(title) for title in titles], group, chain.command_actor())
        self.stdout.write(f"{counted(changed, 'meter is', 'meters are')} now in mask group {group!r}.")

    def list(self, *, json: bool, **options: Any) -> None:
        rows = masked_queries.authorities(timezone.now())
        if json:
            self.write_json([row._asdict() for row in rows])
            return
        for row in rows:
            state = (
                f"withdrawn {row.withdrawn_at:%Y-%m-%d}"
                if row.withdrawn_at
                else f"{counted(row.open, 'question')} open"
            )
            failing = (
                f", failing since {row.failing_since:%Y-%m-%d %H:%M} UTC: {row.error}" if row.failing_since else ""
            )
            self.stdout.write(
                f"{row.name} at {row.url}, group {row.mask_group!r}, public {row.public}: "
                f"{counted(row.answers, 'answer')}, {state}{failing}"
            )
        if not rows:
            self.stdout.write("No mask authority is pinned yet.")

    def collect(self, *, settle: int | None, **options: Any) -> None:
        wait = None if settle is None else timedelta(seconds=settle)
        done = mask_collector.collect(timezone.now(), wait)
        self.stdout.write(
            f"{counted(done.formed, 'set')} formed, {counted(done.answers, 'answer')} came, "
            f"{counted(done.closed, 'set')} closed, {counted(done.failed, 'try', 'tries')} failed."
        )


def add_names(parser: CommandParser) -> None:
    """What names a mask authority."""
    parser.add_argument("--name", required=True, help="what people call it")
    parser.add_argument(
        "--url", required=True, metavar="URL", help="where it answers, such as https://masks.example.org"
    )
    parser.add_argument("--group", default="", metavar="NAME", help="group of the meters that were made with it (none)")
    parser.add_argument("--public", required=True, metavar="HEX", help="its Ed25519 public key, 64 hex digits")


def authority_of(name: str, url: str, group: str, public: str) -> MaskAuthorityToPin:
    """What is to be pinned; CommandError where the key is not hexadecimal."""
    try:
        return MaskAuthorityToPin(name, url, group, bytes.fromhex(public))
    except ValueError:
        raise CommandError("--public is not hexadecimal. Nothing was done.") from None
