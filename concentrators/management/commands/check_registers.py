"""manage.py check_registers: compares registers with intervals again."""

from datetime import UTC, timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from ami_headend.core.commands import DomainCommand, time_of
from ami_headend.core.text import counted
from concentrators.validation import differences, register_checks
from concentrators.validation.differences import DifferenceSelection
from meters.readings.partitions import NotStoredError, require_stored, retention_start
from meters.registry.lookup import RegistryError, look_up

_SHOWN = 20


class Command(DomainCommand):
    refusals = (NotStoredError,)
    help = "Compare cumulative registers with the intervals of the same time, and show where they differ."
    examples = (
        "examples:\n"
        "  manage.py check_registers                            what is marked, and show what differs since yesterday\n"
        "  manage.py check_registers --from 2026-11-01 --to 2026-12-01       mark and compare these days (UTC) again\n"
        "  manage.py check_registers --from 2026-11-01 --meter 0011223344556677       of one meter\n\n"
        "Needed only for readings from before the head-end compared, or after a register's highest value was entered:\n"
        "the schedule compares what comes. It may be interrupted at any time."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--from", dest="start", help="first day, ISO 8601")
        parser.add_argument("--to", dest="end", help="end, ISO 8601, not included (default: now)")
        parser.add_argument("--meter", help="serial number or system title (default: all meters)")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        end = time_of(options["end"]) if options["end"] else now
        start = time_of(options["start"]) if options["start"] else end - timedelta(days=1)
        if start >= end:
            raise CommandError("--from must lie before --to")
        kept_from = retention_start(now)
        if start < kept_from:
            raise CommandError(f"readings are kept from {kept_from:%Y-%m-%dT%H:%MZ} on, not earlier")
        with transaction.atomic():
            require_stored(start, end)
        try:
            meters = [look_up(options["meter"]).pk] if options["meter"] else None
        except RegistryError as error:
            raise CommandError(f"--meter: {error}") from None
        register_checks.follow()
        if options["start"]:
            days = start.astimezone(UTC).date(), (end.astimezone(UTC) + timedelta(days=1, microseconds=-1)).date()
            register_checks.recheck(*days, meters)
        checked = register_checks.check(now)
        self.stdout.write(f"{counted(checked, 'day of a meter was', 'days of meters were')} compared.")
        found, more = differences.differences(DifferenceSelection(start, end, meters, is_open=True), _SHOWN)
        for one in found:
            self.stdout.write(
                f"meter {one.serial_number}, {one.obis_code} from {one.span_start:%Y-%m-%dT%H:%MZ} to"
                f" {one.span_end:%Y-%m-%dT%H:%MZ}: register {one.advance}, intervals {one.interval_sum} {one.unit}"
            )
        if more:
            self.stdout.write("... and more: /api/v1/register-differences has all of them")
        if not found:
            self.stdout.write("No register differs from its intervals in that time.")
