"""manage.py vectors: write the test vectors for makers of meters."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from ami_headend.core.commands import DomainCommand
from concentrators.vectors import document

_FILE = Path("docs") / "vectors.json"


class Command(DomainCommand):
    help = (
        "Write the test vectors for makers of meters and concentrators (docs/vectors.md): frames, commands and keys, "
        "each with its verdict. The same release always writes the same file."
    )
    examples = (
        "examples:\n"
        f"  manage.py vectors                 {_FILE}, which this release comes with\n"
        "  manage.py vectors --output -      to standard output"
    )

    refusals = (OSError,)  # an installed head-end has no folder docs: name a file

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--output", metavar="FILE", help=f"file to write, - for standard output (default: {_FILE})")

    def handle(self, *args: Any, output: str | None, **options: Any) -> None:
        text = document.text()
        if output == "-":
            self.stdout.write(text, ending="")
            return
        path = Path(settings.BASE_DIR) / _FILE if output is None else Path(output)
        path.write_text(text)
        self.stdout.write(f"{path}: {len(document.vectors())} vectors")
