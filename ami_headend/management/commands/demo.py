"""manage.py demo: the head-end with simulated concentrators and attackers."""

from typing import Any

from django.core.management.base import CommandError

from ami_headend.local.stack import Prepared
from ami_headend.management.commands import up
from ami_headend.processes import manage_command


class Command(up.Command):
    help = (
        "Run the head-end with simulated meters that post over HTTP, attackers among them, an outage, a month of "
        "deadlines, consumers of the feed, key rotations, and a live summary."
    )
    panel = "summary"
    examples = (
        "examples:\n"
        "  manage.py demo\n"
        "  manage.py demo --port 9000 --every 10\n"
        "  manage.py demo --meters 24\n"
        "      for a small machine: a day of every meter is made and verified at once\n\n"
        "Ctrl-C stops everything that was started. The data stay in var/ for the next time."
    )

    def add_arguments(self, parser: Any) -> None:
        super().add_arguments(parser)
        parser.add_argument("--every", type=float, default=5.0, help="seconds between summaries (5)")
        parser.add_argument("--meters", type=int, help="how many, where no demo was begun before (300)")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["meters"] is not None and options["meters"] < 1:
            raise CommandError("--meters must be at least 1")
        super().handle(*args, **options)

    def more_commands(self, ready: Prepared, options: dict[str, Any]) -> dict[str, list[str]]:
        every = str(options["every"])
        meters = ["--meters", str(options["meters"])] if options["meters"] else []
        title = f"{ready.address}admin/  {ready.account}"
        return {
            "meters": [*manage_command("simulate"), "--demo", *meters, "--url", ready.address],
            "scenes": manage_command("demo_scenes"),
            "summary": [*manage_command("summary"), "--every", every, "--title", title],
        }
