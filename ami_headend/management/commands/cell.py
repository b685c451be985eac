"""manage.py cell: what A and B do when a cell is split."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ami_headend import cells as all_parts
from ami_headend.core.commands import DomainCommand
from ami_headend.core.csv_tables import FileError
from ami_headend.core.text import counted
from concentrators.fleet import cells
from concentrators.fleet.cells import CellError, Moved
from concentrators.models import Concentrator
from keyvault.audit.chain import AuditError, command_actor
from keyvault.master_key import MasterKeyError


class Command(DomainCommand):
    help = (
        "Move concentrators and their meters to a new cell, which is a restore of this one: docs/scaling.md. Audited."
    )
    examples = (
        "examples, in their order, of cell a that is split and the new b; moving.txt has a name on each line:\n"
        "  a: manage.py cell tokens moving.txt --backend hold      lines of the entrance's map\n"
        "  a: manage.py cell release moving.txt --to b --dry-run\n"
        "  a: manage.py cell release moving.txt --to b             then: manage.py backup\n"
        "  b: manage.py cell keep --of a                           after restore, before its workers start\n"
        "  b: manage.py cell tokens moving.txt --backend cell_b\n"
        "  a: manage.py cell forget --to b                         once b works\n"
        "instead of the last three, as long as b has not begun:\n"
        "  a: manage.py cell take-back --to b --yes\n\n"
        "Each may be interrupted at any time; the same command goes on."
    )
    refusals = (CellError, FileError, AuditError, MasterKeyError)

    def add_arguments(self, parser: CommandParser) -> None:
        acts = parser.add_subparsers(dest="act", required=True)
        tokens = acts.add_parser("tokens", help="write the lines that lead valid tokens to a backend of the entrance")
        tokens.add_argument("file", type=Path, help="names a concentrator on each line")
        tokens.add_argument("--backend", required=True, help="its name in the entrance's configuration")
        release = acts.add_parser("release", help="shut concentrators out here, and give their meters away")
        release.add_argument("file", type=Path, help="names a concentrator on each line")
        release.add_argument("--wait", type=float, default=120, help="seconds to wait until their uplinks are verified")
        keep = acts.add_parser("keep", help="let in what was released to this cell, and give all else away")
        keep.add_argument("--of", required=True, help="the cell that this is a restore of")
        back = acts.add_parser(
            "take-back", help="let in again what was released, as long as the new cell has not begun"
        )
        back.add_argument("--yes", action="store_true", help="no frame came to the new cell")
        forget = acts.add_parser("forget", help="revoke the tokens of what moved, once the new cell works")
        for one in (release, back, forget):
            one.add_argument("--to", required=True, help="the new cell: its CELL")
        for one in (release, keep):
            one.add_argument("--dry-run", action="store_true", help="say what would be moved, and change nothing")

    def handle(self, *args: Any, act: str, **options: Any) -> None:
        if act == "tokens":
            for line in cells.map_lines(self._chosen(options["file"]), options["backend"], timezone.now()):
                self.stdout.write(line)
        elif act == "release":
            self._release(options["file"], options["to"], options["wait"], dry_run=options["dry_run"])
        elif act == "keep":
            self._keep(options["of"], dry_run=options["dry_run"])
        elif act == "take-back":
            if not options["yes"]:
                raise CommandError("if the new cell took one frame, two cells would count it: confirm with --yes")
            moved = cells.take_back(command_actor(), options["to"], timezone.now())
            self.stdout.write(f"Let in {_said(moved)} again.")
        else:
            revoked = cells.forget(command_actor(), options["to"], timezone.now())
            self.stdout.write(f"Revoked {counted(revoked, 'token')} of what moved to cell {options['to']}.")

    def _chosen(self, path: Path) -> list[Concentrator]:
        concentrators, bad = cells.chosen(path)
        for line, reason in bad:
            self.stderr.write(f"line {line}: {reason}")
        if bad:
            raise CommandError(f"{counted(len(bad), 'bad line')}: nothing was done.")
        return concentrators

    def _release(self, path: Path, to: str, wait_s: float, *, dry_run: bool) -> None:
        concentrators = self._chosen(path)
        if dry_run:
            self.stdout.write(f"Would release {_said(cells.would_release(concentrators, to, timezone.now()))} to {to}.")
            return
        moved = cells.release(command_actor(), concentrators, to, timezone.now())
        self.stdout.write(f"Released {_said(moved)} to {to}.")
        cells.wait_until_settled(to, wait_s)
        self.stdout.write("All that they sent is verified. Next: manage.py backup, and restore that in the new cell.")

    def _keep(self, of: str, *, dry_run: bool) -> None:
        if dry_run:
            self.stdout.write(f"Would let in {_said(cells.would_keep(of, timezone.now()))}, and give all else away.")
            return
        kept = all_parts.keep(command_actor(), of, timezone.now())
        self.stdout.write(f"Cell {settings.CELL} has {_said(kept.moved)}; all else is of cell {of}.")
        if kept.tokens:
            self.stdout.write(
                f"Revoked tokens of programs: {', '.join(kept.tokens)}. Make new ones: manage.py api_token"
            )
        if kept.deliveries:
            names = ", ".join(kept.deliveries)
            self.stdout.write(
                f"Paused deliveries of the feed: {names}. Give each a place of its own before it goes on."
            )


def _said(moved: Moved) -> str:
    return f"{counted(moved.concentrators, 'concentrator')} with {counted(moved.meters, 'meter')}"
