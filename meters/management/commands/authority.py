"""manage.py authority: who vouches for the keys of meters that enrol by certificate."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ami_headend.core import eui64
from ami_headend.core.commands import DomainCommand, time_of
from ami_headend.core.disk import new_file
from ami_headend.core.eui64 import Eui64Error
from ami_headend.core.text import counted, some
from keyvault.approvals import ApprovalError
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.device_keys import epochs
from keyvault.device_keys.provisioning import ProvisioningError
from keyvault.enrolment import authorities, authority_file
from keyvault.enrolment.authorities import PublicAuthority, Revoked
from keyvault.enrolment.certificates import CURVE_ED25519, CURVE_X25519, IDENTITY_AUDIENCE, kid_text
from keyvault.master_key import MasterKeyError
from keyvault.schemes.table import SchemeError
from meters.registry.lookup import unregistered

_DAYS = 730
_NAMED = 20  # titles that no meter is registered with


class Command(DomainCommand):
    help = (
        "Pin the authorities whose certificates meters may enrol with, import their revocations, and permit meters to "
        "enrol. init and issue act as an authority, for laboratories and small utilities: its key file must be kept "
        "apart from the head-end, and they need no database."
    )
    examples = (
        "examples:\n"
        "  manage.py authority init lab.authority --kid lab-1 --issuer 'Our laboratory'\n"
        "  manage.py authority issue lab.authority 0024befffe804ff1 --public 675d..2f --aud hes-1 --output meter.cwt\n"
        "  manage.py authority issue lab.authority 0024befffe804ff1 --public b5e3..7a --identity --output meter.id\n"
        "  manage.py authority pin --kid lab-1 --issuer 'Our laboratory' --public 4fd0..c4\n"
        "      (if REQUIRE_APPROVAL is on: manage.py approvals request pin first)\n"
        "  manage.py authority unpin --kid lab-1          its certificates can no longer enrol meters\n"
        "  manage.py authority allow 0024befffe804ff1          that meter may enrol, or enrol again, once\n"
        "  manage.py authority revoke --with lab.authority 0024befffe804ff1 --output meter.revocation\n"
        "  manage.py authority revoke meter.revocation --compromise\n"
        "  manage.py authority list\n\n"
        "exit status: 0 done; 1 it could not be done, and nothing was."
    )
    refusals = (ProvisioningError, SchemeError, ApprovalError, AuditError, MasterKeyError, Eui64Error)
    nothing_done = ". Nothing was done."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="init|issue|pin|unpin|allow|revoke|list")
        init = actions.add_parser("init", help="make an authority's key file")
        init.add_argument("file", type=Path)
        add_names(init)
        issue = actions.add_parser("issue", help="a certificate for a meter; those that it had before are revoked")
        issue.add_argument("file", type=Path, help="the authority's key file")
        issue.add_argument("title", help="system title, 16 hex digits")
        issue.add_argument(
            "--public", required=True, metavar="HEX", help="the meter's public key, 64 hex digits (X25519)"
        )
        issue.add_argument("--aud", metavar="NAME", help="the head-end's agreement key")
        issue.add_argument(
            "--identity", action="store_true", help="for an Ed25519 key that signs coupon lists (its aud is signed)"
        )
        issue.add_argument("--days", type=int, default=_DAYS, help=f"how long it is valid ({_DAYS})")
        issue.add_argument("--output", type=Path, required=True, help="a new file")
        pin = actions.add_parser("pin", help="accept an authority's certificates for keys of meters")
        add_names(pin)
        pin.add_argument("--public", required=True, metavar="HEX", help="its Ed25519 public key, 64 hex digits")
        unpin = actions.add_parser("unpin", help="no longer accept an authority; keys that it enrolled stay valid")
        unpin.add_argument("--kid", required=True, metavar="TEXT", help="its kid in certificates")
        allow = actions.add_parser("allow", help="permit meters to enrol, once each")
        allow.add_argument("titles", nargs="+", metavar="TITLE", help="system title, 16 hex digits")
        allow.add_argument("--scheme", metavar="NAME", help="of the next epoch (unchanged, or ccm)")
        allow.add_argument("--algorithm", type=int, metavar="ALG", help="COSE alg of the next epoch (unchanged)")
        revoke = actions.add_parser("revoke", help="import a revocation, or make one with an authority's key file")
        revoke.add_argument("what", metavar="FILE|TITLE", help="a revocation, or with --with a system title")
        revoke.add_argument("--with", type=Path, dest="key_file", metavar="FILE", help="the authority's key file")
        revoke.add_argument("--output", type=Path, help="a new file, with --with")
        revoke.add_argument("--compromise", action="store_true", help="also cut off the keys of the enrolled meter")
        actions.add_parser("list", help="pinned authorities, and the meters that may enrol").add_argument(
            "--json", action="store_true", help="for programs"
        )

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        acts: dict[str, Callable[..., None]] = {
            "init": self.init,
            "issue": self.issue,
            "pin": self.pin,
            "unpin": self.unpin,
            "allow": self.allow,
            "revoke": self.revoke,
            "list": self.list,
        }
        acts[action](**options)

    def init(self, *, file: Path, kid: str, issuer: str, expires: datetime | None, **options: Any) -> None:
        public = authority_file.init(file, kid, issuer, expires).public
        self.stdout.write(
            f"Made {file}, mode 0600: keep it apart from the head-end. Pin it there: manage.py authority pin "
            f"--kid {kid} --issuer {issuer!r} --public {public.public.hex()}"
        )

    def issue(self, *, file: Path, title: str, public: str, days: int, output: Path, **options: Any) -> None:
        if days < 1:
            raise CommandError("a certificate must be valid for at least one day. Nothing was done.")
        if bool(options["aud"]) == options["identity"]:
            raise CommandError("--aud names an agreement key, or --identity is for coupon lists. Nothing was done.")
        aud, curve = (IDENTITY_AUDIENCE, CURVE_ED25519) if options["identity"] else (options["aud"], CURVE_X25519)
        now = timezone.now()
        subject, key = eui64.parse(title), octets_of(public, "--public")
        with made(output) as certificate, authority_file.changing(file) as authority:
            octets, revocations = authority.issue(subject, aud, key, now, now + timedelta(days=days), curve)
            certificate.write(octets)
        self.stdout.write(f"{output}: {len(octets)} octets, until {now + timedelta(days=days):%Y-%m-%d}.")
        for number, revocation in enumerate(revocations, 1):
            place = output.with_name(f"{output.name}.revocation-{number}")
            write_new(place, revocation)
            self.stdout.write(f"It had another one, which is now revoked: give {place} to manage.py authority revoke.")

    def pin(self, *, kid: str, issuer: str, public: str, expires: datetime | None, **options: Any) -> None:
        authority = PublicAuthority(kid.encode(), issuer, octets_of(public, "--public"), expires)
        row = authorities.pin(authority, chain.command_actor(), timezone.now())
        self.stdout.write(f"Pinned {row}: meters that may enrol do so with its certificates.")

    def unpin(self, *, kid: str, **options: Any) -> None:
        row = authorities.unpin(kid.encode(), chain.command_actor(), timezone.now())
        self.stdout.write(
            f"Unpinned {row}: its certificates can no longer enrol meters. Keys that it enrolled before stay valid. If "
            "others may know them, cut them off with manage.py compromise_keys."
        )

    def allow(self, *, titles: list[str], scheme: str | None, algorithm: int | None, **options: Any) -> None:
        parsed = [eui64.parse(title) for title in titles]
        allowed = authorities.allow(parsed, chain.command_actor(), timezone.now(), scheme, algorithm)
        kinds = ", ".join(f"{count} for scheme {name}" for name, count in sorted(allowed.items()))
        self.stdout.write(f"{counted(allowed.total(), 'meter')} may enrol, once each: {kinds}.")
        unknown = unregistered(parsed)
        if unknown:
            named = some([title.hex() for title in unknown], _NAMED)
            self.stderr.write(
                f"No meter with system title {named} is registered yet: its frames wait until it is. "
                "If the title is wrong, allow the right one."
            )

    def revoke(self, *, what: str, key_file: Path | None, output: Path | None, **options: Any) -> None:
        if key_file is not None:
            self._make_revocation(what, key_file, output)
            return
        try:
            octets = Path(what).read_bytes()
        except OSError as error:
            raise CommandError(f"cannot read {what}: {error.strerror}. Nothing was done.") from None
        revoked = authorities.revoke(octets, chain.command_actor(), timezone.now())
        self.stdout.write(f"Certificate {revoked.cti.hex()} can no longer enrol a meter.")
        self._offer(revoked, compromise=options["compromise"])

    def _make_revocation(self, title: str, key_file: Path, output: Path | None) -> None:
        if output is None:
            raise CommandError("Name a file for the revocation with --output. Nothing was done.")
        with made(output) as first, authority_file.changing(key_file) as authority:
            octets, *more = authority.revoke(eui64.parse(title), timezone.now())
            first.write(octets)
        places = [output, *(output.with_name(f"{output.name}-{number}") for number in range(1, len(more) + 1))]
        for place, other in zip(places[1:], more, strict=True):
            write_new(place, other)
        for place in places:
            self.stdout.write(f"Give {place} to the head-end: manage.py authority revoke {place}")

    def _offer(self, revoked: Revoked, *, compromise: bool) -> None:
        if revoked.enrolment is None or not revoked.key_ids:
            return
        title = bytes(revoked.enrolment.system_title).hex()
        if compromise:
            moved = epochs.compromise(revoked.key_ids, chain.command_actor())
            self.stdout.write(f"Compromised: {counted(moved, 'key')} of {title}, which it had enrolled.")
            return
        self.stdout.write(
            f"It enrolled {title}, whose keys stay valid. If others may know them: "
            "manage.py authority revoke --compromise, "
            f"or manage.py compromise_keys --device {title}"
        )

    def list(self, *, json: bool, **options: Any) -> None:
        rows: list[Any] = [*authorities.listed()]
        awaited = authorities.awaited().count()
        if json:
            self.write_json({"authorities": [as_json(row) for row in rows], "meters_that_may_enrol": awaited})
            return
        for row in rows:
            until = "" if row.expires_at is None else f", until {row.expires_at:%Y-%m-%d}"
            until += "" if row.unpinned_at is None else f", unpinned {row.unpinned_at:%Y-%m-%d}"
            self.stdout.write(
                f"{row}: kid {kid_text(bytes(row.kid))}, public {bytes(row.public).hex()}, pinned "
                f"{row.pinned_at:%Y-%m-%d}{until}; it enrolled {counted(row.enrolments, 'meter')}, and revoked "
                f"{counted(row.revocations, 'certificate')}"
            )
        if not rows:
            self.stdout.write("No authority is pinned yet.")
        self.stdout.write(f"{counted(awaited, 'meter')} may enrol.")


def add_names(parser: CommandParser) -> None:
    """Add the arguments that name an authority."""
    parser.add_argument("--kid", required=True, metavar="TEXT", help="its kid in certificates")
    parser.add_argument("--issuer", required=True, metavar="TEXT", help="the iss of its certificates")
    parser.add_argument("--expires", type=time_of, metavar="TIME", help="end of accepting its certificates (never)")


def octets_of(text: str, name: str) -> bytes:
    """Parse hex digits; CommandError if they are none."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise CommandError(f"{name} is not hexadecimal. Nothing was done.") from None


@contextmanager
def made(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file before anything is done; if the block fails, it is removed again. CommandError if there is one,
    or it cannot be written.
    """
    try:
        with new_file(path) as file:
            yield file
    except FileExistsError:
        raise CommandError(f"{path} exists already and is left as it is. Nothing was done.") from None
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None


def write_new(path: Path, octets: bytes) -> None:
    """Write a new file. CommandError if there is one, or it cannot be written."""
    with made(path) as file:
        file.write(octets)


def as_json(row: Any) -> dict[str, Any]:
    """Return an authority, for programs."""
    return {
        "issuer": row.issuer,
        "kid": bytes(row.kid).hex(),
        "public_key": bytes(row.public).hex(),
        "pinned_at": row.pinned_at,
        "expires_at": row.expires_at,
        "unpinned_at": row.unpinned_at,
        "enrolled": row.enrolments,
        "revoked": row.revocations,
    }
