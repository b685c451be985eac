"""manage.py audit: verify and export the record of every act on keys."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ami_headend.core.commands import DomainCommand
from keyvault.audit import chain, witness
from keyvault.journal import writing
from keyvault.master_key import MasterKeyError


class Command(DomainCommand):
    help = (
        "Verify the audit chain, export it, or print its head. Exits 1 where the chain is broken, or the key journal"
        " knows records that it has not."
    )
    examples = (
        "examples:\n"
        "  manage.py audit verify                     walk the chain, and hold its end against the key journal\n"
        "  manage.py audit verify --journal /a --journal /b\n"
        "                                             against the journals of several hosts\n"
        "  manage.py audit verify --head 41:9f2c...   and hold it against a head from the log or a backup\n"
        "  manage.py audit export > audit.jsonl       a record a line, oldest first\n"
        "  manage.py audit head                       number and HMAC of the last record: keep it elsewhere"
    )
    refusals = (chain.AuditError, MasterKeyError)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--journal",
            action="append",
            type=Path,
            metavar="FOLDER",
            help="repeatable (default: KEY_JOURNAL_DIR and its mirrors)",
        )
        parser.add_argument("action", choices=["verify", "export", "head"])
        parser.add_argument("--head", help="a head that was exported before, as number:mac")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        if action == "export":
            for line in chain.export():
                self.stdout.write(line)
        elif action == "head":
            self.stdout.write(str(chain.head()))
        else:
            folders = options["journal"] or [folder for folder in writing.folders() if folder.is_dir()]
            verified = witness.verify(_head(options["head"]), folders)
            self.stdout.write(f"{verified} Head {verified.head}")


def _head(text: str | None) -> chain.Head | None:
    if text is None:
        return None
    number, _, mac = text.partition(":")
    try:
        head = chain.Head(int(number), bytes.fromhex(mac))
    except ValueError:
        head = None
    if head is None or len(head.mac) != len(chain.GENESIS):
        raise CommandError(f"--head {text!r} is not number:mac as `audit head` prints it")
    return head
