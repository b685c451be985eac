"""manage.py doctor: whether this deployment is well, and if not, what to do."""

import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ami_headend.core.commands import DomainCommand
from ami_headend.health import doctor, heartbeats
from ami_headend.health.results import CheckResult


class Command(DomainCommand):
    help = (
        "Check database and its role, broker, workers, schedule, hosts, clocks, master key, migrations, partitions, "
        "disk, backlog, and the evaluation of alerts. Each check takes a few seconds at most, whatever hangs."
    )
    examples = (
        "examples:\n  manage.py doctor\n  manage.py doctor --json\n"
        "  manage.py doctor --forget web@web3    a host that was lost and does not come back\n\n"
        "exit code: 0 if all is well, 1 if not"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")
        parser.add_argument("--forget", metavar="NAME", help="expect no more signs of life of a process that was lost")

    def handle(self, *args: Any, json: bool, forget: str | None, **options: Any) -> None:
        if forget and not heartbeats.forget_lost(forget):
            lost = ", ".join(one.name for one in heartbeats.lost()) or "none is lost"
            raise CommandError(f"{forget} is not lost. Lost: {lost}.")
        findings = doctor.examine()
        tell(self, findings, json=json)
        if not all(finding.well for finding in findings):
            sys.exit(1)


def tell(command: DomainCommand, findings: Sequence[CheckResult], *, json: bool) -> None:
    """Print the results, and what to do about those that are not well."""
    if json:
        command.write_json([finding._asdict() for finding in findings])
        return
    for finding in findings:
        command.stdout.write(f"{'ok   ' if finding.well else 'FAIL '} {finding.name}: {finding.found}")
        if not finding.well:
            command.stdout.write(f"      {finding.to_do}")
