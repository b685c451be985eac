"""manage.py doctor: is this deployment well, and if not, what to do."""

import json
import sys
from argparse import RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ami_headend.health import checks


class Command(BaseCommand):
    help = (
        "Check database and its role, broker, workers, schedule, clocks, master key, migrations, partitions, disk, "
        "backlog, and that alerts are looked for. Each check has a few seconds, whatever hangs."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "examples:\n"
            "  manage.py doctor\n"
            "  manage.py doctor --json\n\n"
            "exit code: 0 where all is well, 1 where something is not"
        )
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")

    def handle(self, *args: Any, json: bool, **options: Any) -> None:
        findings = checks.examine()
        if json:
            self.stdout.write(_as_json(findings))
        else:
            for finding in findings:
                self.stdout.write(f"{'ok   ' if finding.well else 'FAIL '} {finding.name}: {finding.found}")
                if not finding.well:
                    self.stdout.write(f"      {finding.to_do}")
        if not all(finding.well for finding in findings):
            sys.exit(1)


def _as_json(findings: list[checks.Finding]) -> str:
    return json.dumps([finding.as_dict() for finding in findings], indent=2)
