"""manage.py recompute_totals: compares totals with readings."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from ami_headend.core.commands import DomainCommand, bars, time_of
from ami_headend.core.text import counted
from concentrators.totals import totals
from meters.readings.partitions import NotStoredError, first_stored, require_stored, retention_start

_SHOWN = 20


class Command(DomainCommand):
    refusals = (NotStoredError,)
    help = "Recompute interval totals from the readings and compare. Exits 1 if they differ and --fix is not given."
    examples = (
        "examples:\n"
        "  manage.py recompute_totals                        compare the whole retention window, day by day\n"
        "  manage.py recompute_totals --from 2026-03-01T00:00Z --to 2026-04-01T00:00Z\n"
        "  manage.py recompute_totals --fix                  set totals that differ; each day in one transaction\n\n"
        "It may be interrupted at any time: a day is set completely or not at all."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--from", dest="start", help="first interval start, ISO 8601 (default: all that are stored)"
        )
        parser.add_argument("--to", dest="end", help="end, ISO 8601, not included (default: now)")
        parser.add_argument("--fix", action="store_true", help="set the totals that differ")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        kept_from = retention_start(now)
        start = time_of(options["start"]) if options["start"] else first_stored(now)
        latest = now + timedelta(seconds=settings.CLOCK_SKEW_S)
        end = min(time_of(options["end"]), latest) if options["end"] else latest
        if start >= end:
            raise CommandError("--from must lie before --to")
        if start < kept_from:
            # Totals outlive the readings: there they would all be called wrong, and deleted.
            raise CommandError(f"readings are kept from {kept_from:%Y-%m-%dT%H:%MZ} on: --from must not be earlier")
        compare = totals.recompute if options["fix"] else totals.compare
        days = list(_days(start, end))
        with transaction.atomic():
            require_stored(start, end)  # before days are set
        differences: list[totals.Difference] = []
        with bars() as progress:
            for day in days:
                differences += compare(*day)
                progress("comparing", 1, len(days))
        for difference in differences[:_SHOWN]:
            self.stdout.write(
                f"concentrator {difference.concentrator_id}, register {difference.register_id},"
                f" {difference.interval_minutes} min from {difference.interval_start.astimezone(UTC):%Y-%m-%dT%H:%MZ}:"
                f" kept (sum, meters, meters that mask) {difference.kept}, from readings {difference.recomputed}"
            )
        if len(differences) > _SHOWN:
            self.stdout.write(f"... and {len(differences) - _SHOWN} more")
        if not differences:
            self.stdout.write(f"Totals and readings agree, {counted(len(days), 'day')}.")
        elif options["fix"]:
            self.stdout.write(
                f"{counted(len(differences), 'total was', 'totals were')} set to the sums of the readings."
            )
        else:
            raise CommandError(
                f"{counted(len(differences), 'total differs', 'totals differ')} from the readings; "
                "--fix sets what differs",
                returncode=1,
            )


def _days(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    while start < end:
        stop = min(end, (start + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0))
        yield start, stop
        start = stop
