"""manage.py demo_scenes: rotations of each kind in turn, and what else the demo shows, while it runs."""

import time
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from ami_headend.local import demo_rotations, demo_scenes
from concentrators.models import Concentrator
from keyvault.audit.chain import AuditError
from keyvault.master_key import MasterKeyError

_EVERY_MAX_S = 3_600


class Command(DomainCommand):
    help = (
        "Make up a month of deadlines, and play consumers of the feed and endless rotations, one after the other: "
        "device keys, the master key, a fleet key, compromised keys. Part of manage.py demo; not for a real head-end."
    )
    examples = "examples:\n  manage.py demo_scenes\n  manage.py demo_scenes --once"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--every", type=float, default=15.0, help="seconds between attempts (15)")
        parser.add_argument("--once", action="store_true", help="begin the next one unless one is in progress, and end")

    def handle(self, *args: Any, every: float, once: bool, **options: Any) -> None:
        if not 0 < every <= _EVERY_MAX_S:
            raise CommandError(f"--every must be a number above 0 and at most {_EVERY_MAX_S}")
        while True:
            try:
                begun = _play(timezone.now())
            except (MasterKeyError, AuditError, OperationalError, InterfaceError) as error:
                self.stderr.write(f"Not now: {str(error).partition(chr(10))[0]}")
            else:
                for what in begun:
                    self.stdout.write(what)
                    self.stdout.flush()
            if once:
                return
            time.sleep(every)


def _play(now: datetime) -> list[str]:
    """Play one step of each scene; return what began."""
    said = ["a month of deadlines and two districts are made up"] if demo_scenes.set_up(now) else []
    if Concentrator.objects.exists():
        demo_scenes.consume(now)
    begun = demo_rotations.begin_next(now)
    return [*said, *([] if begun is None else [f"begins {begun}"])]
