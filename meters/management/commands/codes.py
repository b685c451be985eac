"""manage.py codes: what events, ReadingTypes and qualities are called outside, and what the site calls them."""

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from ami_headend.core.text import counted
from keyvault.audit import chain
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError
from meters.codes import tables
from meters.codes.tables import CodeError, Entry, Table
from meters.registry import site_codes

_FILE_MAX_OCTETS = 4_000_000


class Command(DomainCommand):
    help = """List and change the tables of codes: meanings of meter events, ReadingTypes of registers, qualities.

An entry of the site goes before the shipped one. "put" stores one, with all its fields; "load" stores all entries of
a JSON file, {"KEY": {"FIELD": ...}, ...}, or none if one of them is wrong; "reset" brings the shipped entry back.
Shipped entries that public uses do not agree on are marked with a question mark.

Examples:
  manage.py codes list events
  manage.py codes put events 0-0:96.11.0/1 name="power down" severity=critical type=3.26.9.185 outage=begins
  manage.py codes put reading-types 1-0:1.8.0 reading_type=0.0.2.9.1.1.12.0.0.0.0.0.0.0.0.3.72.0
  manage.py codes put qualities failed cim=2.6.1001 espi=10 nordic=A04
  manage.py codes load events codes-of-maker.json --dry-run
  manage.py codes reset events 0-0:96.11.0/1
"""
    refusals = (CodeError, AuditError, MasterKeyError)
    nothing_done = ". Nothing was changed."

    def add_arguments(self, parser: ArgumentParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True)
        commands = {
            "list": "the entries in force",
            "put": "store an entry of the site",
            "load": "store the entries of a file",
            "reset": "remove an entry of the site",
        }
        for act, text in commands.items():
            one = acts.add_parser(act, help=text)
            one.add_argument("table", choices=[table.value for table in Table])
            if act == "list":
                one.add_argument("--json", action="store_true", help="as load reads it; only entries of the site")
            if act in ("put", "reset"):
                one.add_argument("key", metavar="KEY")
            if act == "put":
                one.add_argument("fields", nargs="+", metavar="FIELD=VALUE")
            if act == "load":
                one.add_argument("file", type=Path, metavar="FILE")
                one.add_argument("--dry-run", action="store_true", help="check the file, and change nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        table, act = Table(options["table"]), options["act"]
        if act == "list":
            self._list(table, as_json=options["json"])
        elif act == "put":
            site_codes.put(table, {options["key"]: _entry(options["fields"])}, chain.command_actor(), timezone.now())
            self.stdout.write(f"{options['key']} is stored.")
        elif act == "load":
            self._load(table, options["file"], dry_run=options["dry_run"])
        elif site_codes.reset(table, options["key"], chain.command_actor()):
            self.stdout.write(f"The entry of the site for {options['key']} is removed.")
        else:
            raise CommandError(f"The site has no entry {options['key']} in the table {table}. Nothing was changed.")

    def _list(self, table: Table, *, as_json: bool) -> None:
        found = site_codes.entries(table)
        if as_json:
            self.write_json({one.key: one.value for one in found if one.is_of_site})
            return
        for one in found:
            mark = "site" if one.is_of_site else "" if one.is_verified else "?"
            self.stdout.write(
                f"{one.key:24} {mark:4} " + "  ".join(f"{name}={value}" for name, value in one.value.items())
            )

    def _load(self, table: Table, file: Path, *, dry_run: bool) -> None:
        entries = _entries(file)
        if dry_run:
            for key, value in entries.items():
                tables.check_key(table, key)
                tables.check(table, value)
            self.stdout.write(
                f"{counted(len(entries), 'entry is', 'entries are')} right. Nothing was changed: this was a dry run."
            )
            return
        changed = site_codes.put(table, entries, chain.command_actor(), timezone.now())
        self.stdout.write(f"New or changed: {changed} of {counted(len(entries), 'entry', 'entries')}.")


def _entry(words: list[str]) -> Entry:
    fields: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise CommandError(f"{word[:60]!r} is not of the form FIELD=VALUE")
        fields[name] = int(value) if name == "espi" and value.isascii() and value.isdecimal() else value
    return fields


def _entries(file: Path) -> dict[str, Entry]:
    try:
        if file.stat().st_size > _FILE_MAX_OCTETS:
            raise CommandError(f"{file} is longer than {_FILE_MAX_OCTETS:,} octets")
        found = json.loads(file.read_text())
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{file} is not JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
        raise CommandError(f'{file} is not of the form {{"KEY": {{"FIELD": ...}}, ...}}')
    return found
