"""manage.py schemes: protection schemes side by side."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from ami_headend.core.commands import DomainCommand
from concentrators.comparison import microcontroller, table, timing
from concentrators.comparison.subjects import subjects

_FORMATS = {"text": table.as_text, "csv": table.as_csv, "markdown": table.as_markdown}


class Command(DomainCommand):
    help = (
        "Compare the protection schemes (docs/schemes.md). Seals and opens the same reading under each, counts what "
        "its meter computes for one frame, measures the time that this head-end's code takes, and says what attackers "
        "can do. Stores nothing; needs no database."
    )
    examples = (
        "examples:\n"
        "  manage.py schemes compare\n"
        "  manage.py schemes compare --format csv > schemes.csv\n"
        "  manage.py schemes compare --format markdown --no-times      the tables of docs/schemes.md"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="compare")
        compare = actions.add_parser("compare", help="what each costs a meter, and what each withstands")
        compare.add_argument("--format", choices=_FORMATS, default="text", help="text, csv or markdown (text)")
        compare.add_argument("--no-times", action="store_true", help="only what is the same in every run")

    def handle(self, *args: Any, action: str, format: str, no_times: bool, **options: Any) -> None:  # noqa: A002
        compared = table.compare(None if no_times else timing.ratios(subjects()))
        tables = [
            table.costs(compared, microcontroller.read(settings.BASE_DIR / microcontroller.FIGURES)),
            table.protection(compared),
        ]
        if not no_times:
            tables.append(table.timed(compared))
        self.stdout.write(_FORMATS[format](tables), ending="")
