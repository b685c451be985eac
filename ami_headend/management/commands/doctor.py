"""manage.py doctor: is this deployment well, and if not, what to do."""

import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandParser

from ami_headend.core.commands import DomainCommand
from ami_headend.health import checks
from ami_headend.health.checks import CheckResult


class Command(DomainCommand):
    help = (
        "Check database and its role, broker, workers, schedule, clocks, master key, migrations, partitions, disk, "
        "backlog, and that alerts are looked for. Each check has a few seconds, whatever hangs."
    )
    examples = (
        "examples:\n"
        "  manage.py doctor\n"
        "  manage.py doctor --json\n\n"
        "exit code: 0 where all is well, 1 where something is not"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")

    def handle(self, *args: Any, json: bool, **options: Any) -> None:
        findings = checks.examine()
        tell(self, findings, json=json)
        if not all(finding.well for finding in findings):
            sys.exit(1)


def tell(command: DomainCommand, findings: Sequence[CheckResult], *, json: bool) -> None:
    """Print what was found, of what is not well with what to do."""
    if json:
        command.write_json([finding._asdict() for finding in findings])
        return
    for finding in findings:
        command.stdout.write(f"{'ok   ' if finding.well else 'FAIL '} {finding.name}: {finding.found}")
        if not finding.well:
            command.stdout.write(f"      {finding.to_do}")
