"""manage.py approvals: request, approve and refuse (keyvault.approvals)."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from rich.console import Console
from rich.table import Table

from ami_headend.core.commands import DomainCommand, time_of
from ami_headend.signin.terminal import authenticated
from concentrators.management.commands import mask_authorities
from keyvault import approvals
from keyvault.approvals import ApprovalError
from keyvault.audit.chain import AuditError
from keyvault.device_keys import agreement_cut_off, key_export, shipment_kek
from keyvault.device_keys.agreement_keys import AgreementKeyError
from keyvault.device_keys.shipment_kek import TransportKeyError
from keyvault.enrolment import authorities
from keyvault.enrolment.authorities import AuthorityError, PublicAuthority
from keyvault.management import exporting
from keyvault.masking import pinned
from keyvault.master_key import MasterKeyError, versions
from keyvault.master_key.versions import DestroyError
from keyvault.models import Approval

_LISTED = 50


class Command(DomainCommand):
    help = """Have a second person approve an act that cannot be undone: an export of keys, or the end of a key version.
Commands to meters beyond the limits of an account wait here, too, and are sent when another person approves them.

One account requests, another one approves: here, or on the console's page of approvals. Each must enter its
password; it does not matter who runs the command. An approval is valid once, for exactly what was requested,
until it expires (APPROVAL_EXPIRES_HOURS). Then run the act's own command as usual.

Examples:
  manage.py approvals list
  manage.py approvals request export --account ann --reason "meter to the laboratory" \\
      --transport-key lab.key --meters 0024befffe804ff1
  manage.py approvals request destroy 1 --account ann --reason "rotated in May"
  manage.py approvals request cut-off hes-1 1 --account ann --reason "the head-end was broken into"
  manage.py approvals approve 7 --account ben
  manage.py approvals refuse 7 --account ben --reason "the meters stay as they are"
  manage.py export_keys --transport-key lab.key --meters 0024befffe804ff1 --output meter.jsonl
"""
    refusals = (
        ApprovalError,
        DestroyError,
        AgreementKeyError,
        AuthorityError,
        TransportKeyError,
        MasterKeyError,
        AuditError,
    )
    nothing_done = ". Nothing was done."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, parser_class=CommandParser)
        listing = actions.add_parser("list", help="requests that wait, and approvals that may be used")
        listing.add_argument("--all", action="store_true", help=f"also earlier ones; the newest {_LISTED}")
        acts = actions.add_parser("request", help="request an act").add_subparsers(
            dest="act", required=True, parser_class=CommandParser
        )
        export = acts.add_parser("export", help="the keys of these meters, under this transport key")
        exporting.add_arguments(export)
        destroy = acts.add_parser("destroy", help="a version of the master key")
        destroy.add_argument("version", type=int)
        cut_off = acts.add_parser("cut-off", help="a version of an agreement key, with all keys of it")
        cut_off.add_argument("name")
        cut_off.add_argument("version", type=int)
        pin = acts.add_parser("pin", help="an authority that vouches for the keys of meters")
        pin.add_argument("--kid", required=True, metavar="TEXT", help="how certificates name it")
        pin.add_argument("--issuer", required=True, metavar="TEXT", help="what certificates call iss")
        pin.add_argument("--public", required=True, metavar="HEX", type=bytes.fromhex, help="its Ed25519 public key")
        pin.add_argument("--expires", type=time_of, metavar="TIME", help="when it vouches no longer (never)")
        unpin = acts.add_parser("unpin", help="that an authority's certificates enrol no meter any more")
        unpin.add_argument("--kid", required=True, metavar="TEXT", help="how certificates name it")
        pin_masks = acts.add_parser("pin-masks", help="a mask authority that tells sums of masks")
        mask_authorities.add_names(pin_masks)
        for asking in (export, destroy, cut_off, pin, unpin, pin_masks):
            asking.add_argument("--account", required=True, metavar="NAME", help="the account that requests")
            asking.add_argument("--reason", required=True, help="why; the second person reads it")
        for name, text in (
            ("approve", "approve another person's request"),
            ("refuse", "refuse it, or take your own back"),
        ):
            deciding = actions.add_parser(name, help=text)
            deciding.add_argument("number", type=int)
            deciding.add_argument("--account", required=True, metavar="NAME", help="the account that decides")
            deciding.add_argument("--reason", default="", help="refuse: why")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        if action == "list":
            self.list(show_all=options["all"])
        elif action == "request":
            self.request(**options)
        else:
            self.decide(action, options["number"], options["account"], options["reason"])

    def list(self, *, show_all: bool) -> None:
        now = timezone.now()
        rows = Approval.objects.order_by("-pk")[:_LISTED] if show_all else approvals.usable_or_waiting(now)
        table = Table("number", "state", "what", "requested by", "why", "approved by", "until (UTC)")
        for row in rows:
            until = f"{row.expires_at:%Y-%m-%d %H:%M}"
            people = (row.requested_by, row.reason, row.approved_by or row.refused_by or "-")
            table.add_row(str(row.pk), approvals.state(row, now), approvals.describe(row), *people, until)
        console = Console(width=140, highlight=False, markup=False)
        with console.capture() as text:
            console.print(table if table.row_count else "Nothing waits.")
        self.stdout.write(text.get(), ending="")

    def request(self, *, act: str, account: str, reason: str, **options: Any) -> None:
        now = timezone.now()
        if act == "export":
            key: Path = options["transport_key"]
            act, subject = (
                approvals.EXPORT,
                key_export.approval_subject(exporting.titles(options), shipment_kek.load(key)),
            )
        elif act == "pin":
            kid, issuer = options["kid"].encode(), options["issuer"]
            authority = PublicAuthority(kid, issuer, options["public"], options["expires"])
            act, subject = approvals.PIN_AUTHORITY, authorities.approval_subject(authority)
        elif act == "pin-masks":
            told = mask_authorities.authority_of(*(options[name] for name in ("name", "url", "group", "public")))
            act, subject = approvals.PIN_MASK_AUTHORITY, pinned.approval_subject(told)
        elif act == "unpin":
            act = approvals.UNPIN_AUTHORITY
            subject = authorities.unpin_subject(authorities.pinned(options["kid"].encode()))
        elif act == "cut-off":
            agreement_cut_off.would_be(options["name"], options["version"])
            act = approvals.CUT_OFF_AGREEMENT_KEY
            subject = agreement_cut_off.approval_subject(options["name"], options["version"])
        else:
            versions.check_destroyable(options["version"], now)
            act, subject = approvals.DESTROY, versions.approval_subject(options["version"])
        asked = approvals.request(act, subject, reason, authenticated(account), now)
        self.stdout.write(
            f"Approval {asked.pk}: {approvals.describe(asked)}. Another person can approve it on the console, or with "
            f"manage.py approvals approve {asked.pk} --account NAME, before {asked.expires_at:%Y-%m-%d %H:%M} UTC."
        )

    def decide(self, action: str, number: int, name: str, why: str) -> None:
        approval = Approval.objects.filter(pk=number).first()
        if approval is None:
            raise CommandError(f"there is no approval {number}")
        self.stdout.write(f"{approval.requested_by} requests to {approvals.describe(approval)}: {approval.reason}")
        person = authenticated(name)
        if action == "approve":
            approved = approvals.approve(number, person, timezone.now())
            if approved.act == approvals.SEND_COMMANDS:
                self.stdout.write(f"Released {number}: concentrators get the commands now.")
                return
            self.stdout.write(f"Approved {number}. It is valid once, until {approval.expires_at:%Y-%m-%d %H:%M} UTC.")
        else:
            approvals.refuse(number, person, timezone.now(), why)
            self.stdout.write(f"Refused {number}.")
