"""manage.py master_key: the master key file."""

from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from keyvault import masterkey


class Command(BaseCommand):
    help = "Make the master key file, or say how it stands. Keys are never printed."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = (
            "examples:\n"
            "  manage.py master_key init      make the file that MASTER_KEY_FILE names, mode 0600; never overwrites\n"
            "  manage.py master_key status    its versions and states\n\n"
            "Keep a copy of the file apart from every database backup: without it no stored device key opens."
        )
        parser.add_argument("action", choices=["init", "status"])

    def handle(self, *args: Any, **options: Any) -> None:
        path = Path(settings.MASTER_KEY_FILE)
        try:
            if options["action"] == "init":
                version = masterkey.init(path)
                self.stdout.write(f"Made {path} with version {version}. Keep a copy apart from the database's backups.")
            else:
                keys = masterkey.load(path)
                versions = ", ".join(
                    f"{version} ({'active' if version == keys.active_version else 'decrypt only'})"
                    for version in keys.versions
                )
                self.stdout.write(f"{path}: version {versions}")
        except masterkey.MasterKeyError as error:
            raise CommandError(str(error)) from None
