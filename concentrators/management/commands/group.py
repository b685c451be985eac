"""manage.py group: groups and tags of meters, places and concentrators."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from ami_headend.core.csv_tables import FileError
from ami_headend.core.text import counted
from concentrators.fleet import group_import, groups
from concentrators.fleet.group_import import import_members
from concentrators.fleet.groups import Counts, Members
from keyvault.audit.chain import AuditError, command_actor
from keyvault.master_key import MasterKeyError
from meters.group_models import TAG, FleetGroup
from meters.registry.groups import GroupError, find, parse


class Command(DomainCommand):
    help = (
        "List groups and tags, make, rename or remove one, and put meters, places and concentrators into it or take"
        " them out. The meters of a place or a concentrator are in its groups, too. A group is written kind:name, a tag"
        " as one word. Every change is audited. Exits 1 if nothing was done."
    )
    examples = (
        "examples:\n"
        "  manage.py group list\n"
        "  manage.py group list --kind district --json\n"
        "  manage.py group add district:North --note 'all of the north'\n"
        "  manage.py group put district:North --concentrator DCU-17 --concentrator DCU-18\n"
        "  manage.py group put leaky --meter SN-000123 --place 'Pump house'\n"
        "  manage.py group take leaky --meter SN-000123 --dry-run\n"
        "  manage.py group import routes.csv --dry-run\n"
        "      a table with a column group and one of meter, place and concentrator a line: all lines, or none;\n"
        "      new groups are made. With --take its members are taken out\n"
        "  manage.py group rename district:North --to district:Nord\n"
        "  manage.py group remove district:North --dry-run     the group; its meters stay"
    )
    refusals = (GroupError, FileError, AuditError, MasterKeyError)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=["list", "add", "put", "take", "import", "rename", "remove"])
        parser.add_argument("name", nargs="?", help="kind:name, or the word of a tag; of import: the table")
        parser.add_argument("--kind", help="of list: groups of this kind; tag for tags")
        parser.add_argument("--json", action="store_true", help="the list for programs")
        parser.add_argument("--note", help="of add: what the group is for")
        parser.add_argument("--to", metavar="KIND:NAME", help="of rename: the new name")
        for what, of in (("meter", "serial number or system title"), ("place", "name"), ("concentrator", "name")):
            parser.add_argument(f"--{what}", action="append", default=[], help=f"of put and take: {of}; repeatable")
        parser.add_argument("--take", action="store_true", help="of import: take the members out")
        parser.add_argument("--dry-run", action="store_true", help="check everything, change nothing")

    def handle(self, *args: Any, action: str, name: str | None, **options: Any) -> None:
        if (name is None) != (action == "list"):
            raise CommandError("list takes no name; --kind chooses." if name else f"Name the group to {action}.")
        if name is None:
            self._list(options["kind"], as_json=options["json"])
        elif action == "import":
            self._import(Path(name), take=options["take"], dry_run=options["dry_run"])
        elif action == "add":
            made = groups.make(parse(name), command_actor(), options["note"] or "")
            self.stdout.write(f"Made {_what(made)}.")
        elif action == "rename":
            if options["to"] is None:
                raise CommandError("give the new name: --to kind:name")
            (group,) = find([name])
            groups.change(group, command_actor(), parse(options["to"]))
            self.stdout.write(f"{name} is now {group}.")
        elif action == "remove":
            self._remove(find([name])[0], dry_run=options["dry_run"])
        else:
            self._move(action, find([name])[0], options)

    def _list(self, kind: str | None, *, as_json: bool) -> None:
        rows = FleetGroup.objects.order_by("kind", "name")
        rows = rows if kind is None else rows.filter(kind=kind)
        sizes = groups.sizes(timezone.now())
        found = [
            {"group": str(row), "kind": row.kind, "note": row.note, **sizes.get(row.pk, Counts())._asdict()}
            for row in rows
        ]
        if as_json:
            self.write_json(found)
            return
        for row in found:
            note = f"  {row['note']}" if row["note"] else ""
            self.stdout.write(f"{row['group']}: {Counts(row['meters'], row['places'], row['concentrators'])}{note}")
        if not found:
            self.stdout.write("There are no groups. Next: manage.py group add district:North")

    def _import(self, path: Path, *, take: bool, dry_run: bool) -> None:
        report = import_members(path, command_actor(), take=take, dry_run=dry_run)
        self.refuse(report.bad)
        would = "Would take out" if take else "Would put in"
        told = would if dry_run else would.removeprefix("Would ").capitalize()
        new = (
            f" {counted(len(report.new_groups), 'group is', 'groups are')} new: {', '.join(report.new_groups[:20])}."
            if report.new_groups
            else ""
        )
        self.stdout.write(f"{told}: {report.changed}, of {counted(report.lines, 'line')}.{new}")

    def _remove(self, group: FleetGroup, *, dry_run: bool) -> None:
        size = groups.size(group)
        if not dry_run:
            groups.remove(group, command_actor())
        told = "Would remove" if dry_run else "Removed"
        self.stdout.write(f"{told} {group}, which had {size}. They stay.")

    def _move(self, action: str, group: FleetGroup, options: dict[str, Any]) -> None:
        members = Members(
            _ids(options["meter"], group_import.meter_ids, "meter"),
            _ids(options["place"], group_import.place_ids, "place"),
            _ids(options["concentrator"], group_import.concentrator_ids, "concentrator"),
        )
        if not any((members.meters, members.places, members.concentrators)):
            raise CommandError("name whom: --meter, --place or --concentrator")
        do = groups.put if action == "put" else groups.take
        counts = do(group, members, command_actor(), dry_run=options["dry_run"])
        would = "Would put into" if action == "put" else "Would take out of"
        told = would if options["dry_run"] else would.removeprefix("Would ").capitalize()
        self.stdout.write(f"{told} {group}: {counts}.")


def _ids(written: list[str], look: Any, what: str) -> tuple[int, ...]:
    found = look(written) if written else {}
    for text in written:
        if text not in found:
            raise CommandError(f"there is no {what} {text}")
    return tuple(sorted({found[text] for text in written}))


def _what(group: FleetGroup) -> str:
    return f"{'tag' if group.kind == TAG else 'group'} {group}"
