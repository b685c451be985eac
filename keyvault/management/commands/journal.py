"""manage.py journal: shows the records of the key journal, and checks that none is missing or changed."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from ami_headend.core.commands import DomainCommand
from ami_headend.core.text import counted
from keyvault import master_key
from keyvault.journal import copies, mirrors, reading, writing
from keyvault.journal.copies import MirrorError
from keyvault.journal.reading import Journal
from keyvault.journal.segments import JournalRecord, encode_record
from keyvault.master_key import MasterKeyError


class Command(DomainCommand):
    help = (
        "Look at the key journal: every act on keys, kept outside of the database for a restore. Keys stand in it"
        " wrapped, and are not shown. Exits 1 where a segment was changed or does not open."
    )
    examples = (
        "examples:\n"
        "  manage.py journal verify                    read every segment, and check each record's mac\n"
        "  manage.py journal verify --journal /a --journal /b\n"
        "      the folders of several hosts, as a restore would read them\n"
        "  manage.py journal show --after 4711         the records after a number, as JSON Lines\n"
        "  manage.py journal mirror                    give each mirror what it lacks of this host's records\n"
        "  manage.py journal drill                     if this host were lost now: what would the mirrors have?"
    )
    refusals = (MasterKeyError,)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=["verify", "show", "mirror", "drill"])
        parser.add_argument(
            "--journal",
            action="append",
            type=Path,
            metavar="FOLDER",
            help="repeatable (default: KEY_JOURNAL_DIR and its mirrors)",
        )
        parser.add_argument("--after", type=int, default=0, metavar="NUMBER", help="show only records after this one")

    def handle(self, *args: Any, action: str, after: int, **options: Any) -> None:
        if action in ("mirror", "drill"):
            self._mirror() if action == "mirror" else self._drill()
            return
        folders = options["journal"] or writing.folders()
        found = reading.read(folders, master_key.current(), after)
        if action == "show":
            for record in found:
                self.stdout.write(json.dumps(_shown(record), separators=(",", ":"), default=bytes.hex))
        else:
            self._tell(found)
        if found.faults:
            raise CommandError("\n  ".join(["The journal is damaged or incomplete:", *found.faults]))

    def _mirror(self) -> None:
        """Bring every mirror up to date; the others go on if one cannot be written."""
        faults = []
        for folder in _mirrors():
            try:
                for segment in copies.parted(writing.own_segments(), folder):
                    aside = writing.set_aside(segment)
                    self.stdout.write(f"{segment.path} is {aside.name} now: {folder} has another copy, and keeps it.")
                octets = copies.catch_up(writing.own_segments(), folder)
            except MirrorError as error:
                faults.append(f"{folder}: {error}")
            else:
                self.stdout.write(f"{folder}: {octets:,} octets were missing, and are there now.")
        if faults:
            raise CommandError("\n  ".join(["Mirrors cannot be written:", *faults]))

    def _drill(self) -> None:
        """Read the mirrors alone, as after the loss of this host and its disk, and compare them with what is here."""
        folders, master = _mirrors(), master_key.current()
        here = _records(reading.read([Path(settings.KEY_JOURNAL_DIR)], master))
        faults = []
        for folder in folders:
            found = reading.read([folder], master)
            faults += found.faults
            self.stdout.write(
                f"{folder}: {len(here & _records(found)):,} of this host's {counted(len(here), 'record')}."
            )
        lost = here - _records(reading.read(folders, master))
        if lost:
            said, numbers = counted(len(lost), "record"), [number for number, _ in lost]
            faults.append(
                f"{said} would be lost with this host (numbers {min(numbers)} to {max(numbers)}): journal mirror"
            )
        if faults:
            raise CommandError("\n  ".join(["The drill found:", *faults]))
        self.stdout.write("If this host were lost now, no record would be.")

    def _tell(self, found: Journal) -> None:
        for state in found.states:
            torn = f", and {state.torn_octets} octets of a record that a crash cut short" if state.torn_octets else ""
            numbers = f" ({state.first} to {state.last})" if state.records else ""
            beside = "" if state.beside is None else f" that {state.beside} lacks"
            self.stdout.write(f"{state.path}: {counted(state.records, 'record')}{beside}{numbers}{torn}")
        records = sum(state.records for state in found.states)
        self.stdout.write(
            f"{counted(records, 'record')} in {counted(len(found.states), 'segment')}; "
            f"the last record is number {found.last_number}."
        )


def _mirrors() -> list[Path]:
    found = mirrors.folders()
    if not found:
        raise CommandError("there is no mirror: name folders at other places in KEY_JOURNAL_MIRRORS")
    return found


def _records(found: Journal) -> set[tuple[int, bytes]]:
    """Return what tells records apart: a number comes again where the database was set back, too."""
    return {(record.number, sha256(encode_record(record)).digest()) for record in found}


def _shown(record: JournalRecord) -> dict[str, Any]:
    """Return a record to show: without the wrapped keys."""
    body = record.body
    match record.kind:
        case "keys":
            state, keys = body
            body = [state, [[key[1], key[2], key[8]] for key in keys]]
        case "fleet_key":
            body = body[:2]
        case "agreement_key":
            body = body[:4]
        case "audit_key":
            body = []
    at = datetime.fromtimestamp(record.at_s, UTC).isoformat()
    return {"number": record.number, "at": at, "kind": record.kind, "body": body}
