"""manage.py archive: old months of readings as files."""

from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import OperationalError
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from ami_headend.core.text import counted
from keyvault.audit import chain
from keyvault.audit.chain import AuditError, command_actor
from keyvault.master_key import MasterKeyError
from meters.archive import months, restoring, verification
from meters.archive.files import ArchiveError
from meters.archive.layout import OrderError

_MIB = 2**20


class Command(DomainCommand):
    help = "Move old months of readings from the database into files (ARCHIVE_URL), verify them, and bring them back."
    examples = (
        "examples:\n"
        "  manage.py archive plan                  which months are archived, on their way, or old enough\n"
        "  manage.py archive run --dry-run         what would be archived\n"
        "  manage.py archive run                   archive every month that is old enough\n"
        "  manage.py archive run 2025-03           this month, also one that was restored, or half of it\n"
        "  manage.py archive verify 2025-03        read its files again, and compare them with what was noted\n"
        "  manage.py archive restore 2025-03       bring it back into the database; its files stay\n\n"
        "Each may be interrupted at any time, and goes on with the next step when it is called again."
    )
    refusals = (ArchiveError, OrderError)

    def add_arguments(self, parser: CommandParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True)
        acts.add_parser("plan", help="list the months")
        for name, what in (
            ("run", "archive these months, or all that are old enough"),
            ("verify", "check the files of these months, or of all"),
            ("restore", "bring these months back into the database"),
        ):
            one = acts.add_parser(name, help=what)
            one.add_argument("month", nargs="+" if name == "restore" else "*", metavar="MONTH", help="such as 2025-03")
            if name != "verify":
                one.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["act"] == "plan":
            self._plan()
            return
        chosen = [months.month_of(text) for text in options["month"]]
        if options["act"] == "verify":
            self._verify(chosen)
            return
        for month in chosen or months.due(timezone.now()):
            if options["dry_run"]:
                self.stdout.write(f"{month:%Y-%m} would be {options['act']}d".replace("rund", "archived"))
            elif options["act"] == "run":
                self._run(month)
            else:
                self._restore(month)

    def _plan(self) -> None:
        for one in months.plan(timezone.now()):
            state = one.state or ("empty" if one.rows == 0 else "old enough")
            rows = "" if one.rows is None else f"  {counted(one.rows, 'reading')}"
            verified = "" if one.checked_at is None else f"  verified {one.checked_at:%Y-%m-%d}"
            self.stdout.write(f"{one.month:%Y-%m}  {state:10}  {one.octets / _MIB:,.1f} MiB{rows}{verified}")

    def _verify(self, chosen: list[datetime]) -> None:
        """Verify months, the others too where one is damaged. CommandError if any is."""
        wanted = chosen or [one.month for one in months.plan(timezone.now()) if one.state in verification.WITH_FILES]
        bad = []
        for month in wanted:
            try:
                rows = verification.verify(month, timezone.now())
            except self.refusals as error:
                bad.append(f"{month:%Y-%m}: {error}")
            else:
                self.stdout.write(f"{month:%Y-%m}: {counted(rows, 'reading')}, as written")
        if bad:
            raise CommandError(f"{len(bad)} of {counted(len(wanted), 'month')} did not pass. {'; '.join(bad)}")

    def _run(self, month: Any) -> None:
        try:
            if not months.archive(month, timezone.now()):
                raise CommandError(f"another process is at {month:%Y-%m}: call this again later")
        except OperationalError as error:
            said = str(error).splitlines()[0]
            raise CommandError(f"{month:%Y-%m} waits, since its table is busy ({said}): call this again") from None
        self.stdout.write(f"{month:%Y-%m} is archived")

    def _restore(self, month: Any) -> None:
        restoring.check(month, timezone.now())
        try:
            chain.record(command_actor(), "archive.restore", {"month": f"{month:%Y-%m}"})
        except (AuditError, MasterKeyError) as error:
            raise CommandError(f"nothing was restored: it cannot be audited ({error})") from None
        try:
            rows = restoring.restore(month, timezone.now())
        except OperationalError as error:
            said = str(error).splitlines()[0]
            raise CommandError(f"{month:%Y-%m} waits, since its table is busy ({said}): call this again") from None
        self.stdout.write(f"{month:%Y-%m} is restored: {counted(rows, 'reading')}")
