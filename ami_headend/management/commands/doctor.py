"""manage.py doctor: whether this deployment is well, and if not, what to do."""

import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandParser

from ami_headend.core.commands import DomainCommand
from ami_headend.health import doctor
from ami_headend.health.doctor import CheckResult


class Command(DomainCommand):
    help = (
        "Check database and its role, broker, workers, schedule, clocks, master key, migrations, partitions, disk, "
        "backlog, and the evaluation of alerts. Each check takes a few seconds at most, whatever hangs."
    )
    examples = "examples:\n  manage.py doctor\n  manage.py doctor --json\n\nexit code: 0 if all is well, 1 if not"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")

    def handle(self, *args: Any, json: bool, **options: Any) -> None:
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
