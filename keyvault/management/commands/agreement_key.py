"""manage.py agreement_key: versions of the head-end's X25519 keys, for device keys that are agreed with meters."""

from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from ami_headend.core.text import counted
from keyvault import approvals
from keyvault.approvals import ApprovalError
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.device_keys import agreement_cut_off, agreement_keys
from keyvault.device_keys.agreement_keys import VersionUse
from keyvault.master_key import MasterKeyError
from keyvault.models import AgreementKey


class Command(DomainCommand):
    help = (
        "Make an agreement key, list its versions with their public keys, replace the active version, or cut one off "
        "that others may know. Private keys are never printed: they stay wrapped under the master key."
    )
    examples = (
        "examples:\n"
        "  manage.py agreement_key init hes-1           version 1; the name is what certificates call aud\n"
        "  manage.py agreement_key list [--json]        versions, public keys, and the meters that use each\n"
        "  manage.py agreement_key rotate hes-1         the next version; then move the meters in a wave:\n"
        "  manage.py rotate_device_keys begin --name hes-1-2 --agreed-with hes-1:1\n"
        "  manage.py agreement_key cut_off hes-1 1 --dry-run\n"
        "  manage.py agreement_key cut_off hes-1 1      every key that was agreed on with it is compromised\n"
        "      (where REQUIRE_APPROVAL is on: manage.py approvals request cut-off first)\n\n"
        "exit status: 0 done, and audited; 1 it could not be done, and nothing was."
    )
    refusals = (agreement_keys.AgreementKeyError, ApprovalError, MasterKeyError, AuditError)
    nothing_done = ". Nothing was done."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="init|list|rotate|cut_off")
        actions.add_parser("init", help="make version 1 of a new key").add_argument("name")
        actions.add_parser("list", help="versions and public keys").add_argument("--json", action="store_true")
        rotate = actions.add_parser("rotate", help="make and activate the next version; this alone begins no rotation")
        rotate.add_argument("name")
        rotate.add_argument("--dry-run", action="store_true", help="show who uses the present version, and do nothing")
        cut_off = actions.add_parser("cut_off", help="cut off a version that others may know, for good")
        cut_off.add_argument("name")
        cut_off.add_argument("version", type=int)
        cut_off.add_argument("--dry-run", action="store_true", help="show which keys it would compromise, and stop")
        cut_off.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        acts: dict[str, Callable[..., None]] = {
            "init": self.init,
            "list": self.list,
            "rotate": self.rotate,
            "cut_off": self.cut_off,
        }
        acts[action](**options)

    def init(self, *, name: str, **options: Any) -> None:
        self._tell_made(agreement_keys.init(name, chain.command_actor()))

    def list(self, *, json: bool, **options: Any) -> None:
        found = agreement_keys.standings()
        if json:
            self.write_json([_as_json(use) for use in found])
            return
        for use in found:
            key = use.key
            self.stdout.write(
                f"{key}: {key.get_state_display().lower()}, made {key.created_at:%Y-%m-%d}, public "
                f"{bytes(key.public).hex()}; meters that send under keys agreed with it: {use.meters:,}; "
                f"keys agreed with it that are still accepted: {use.usable:,}"
            )
        if not found:
            self.stdout.write("There is no agreement key yet.")

    def rotate(self, *, name: str, dry_run: bool, **options: Any) -> None:
        before = agreement_keys.active(name) if dry_run else None
        if before is None:
            self._tell_made(agreement_keys.rotate(name, chain.command_actor(), timezone.now()))
        for use in agreement_keys.standings():
            if use.key.name == name and use.meters and (before == use.key or use.key.state == "replaced"):
                self.stdout.write(
                    f"{counted(use.meters, 'meter still uses', 'meters still use')} "
                    f"version {use.key.version}. Begin a wave: manage.py "
                    f"rotate_device_keys begin --name NAME --agreed-with {name}:{use.key.version}"
                )

    def cut_off(self, *, name: str, version: int, dry_run: bool, yes: bool, **options: Any) -> None:
        would = agreement_cut_off.would_be(name, version)
        if dry_run:
            self.stdout.write(
                f"{counted(would.compromised, 'key')} would be compromised, {would.to_rotate} must be rotated."
            )
            return
        subject = agreement_cut_off.approval_subject(name, version)
        approvals.check(approvals.CUT_OFF_AGREEMENT_KEY, subject, timezone.now())
        if not yes:
            one = "key is compromised with it; its meter needs a new pair."
            more = "keys are compromised with it; their meters need new pairs."
            self.stdout.write(counted(would.compromised, one, more))
            try:
                typed = input(f"Type {version} to cut that version of {name} off for good: ").strip()
            except EOFError:
                typed = ""
            if typed != str(version):
                raise CommandError(f"{typed!r} is not {version}: nothing was done.")
        done = agreement_cut_off.cut_off(name, version, chain.command_actor(), timezone.now())
        agreed = counted(done.compromised, "key that was", "keys that were")
        one, more = (
            "key of another source seals to it: rotate its meter.",
            "keys of other sources seal to it: rotate their meters.",
        )
        self.stdout.write(f"Version {version} of {name} is cut off, and {agreed} agreed on with it.")
        self.stdout.write(counted(done.to_rotate, one, more))

    def _tell_made(self, key: AgreementKey) -> None:
        self.stdout.write(f"Made version {key.version} of {key.name}, public {bytes(key.public).hex()}.")


def _as_json(use: VersionUse) -> dict[str, Any]:
    key = use.key
    return {
        "name": key.name,
        "version": key.version,
        "state": key.state,
        "public_key": bytes(key.public).hex(),
        "created_at": key.created_at,
        "replaced_at": key.replaced_at,
        "cut_off_at": key.cut_off_at,
        "meters": use.meters,
        "usable_keys": use.usable,
    }
