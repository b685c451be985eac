"""manage.py siem: how sending of security events stands; send them now, or records of the audit chain again."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from ami_headend.core import clock
from ami_headend.core.commands import DomainCommand
from ami_headend.core.text import counted
from ami_headend.siem import pending, shipping

_SECONDS = 600.0


class Command(DomainCommand):
    help = (
        "Say how many security events wait for the SIEM and why; send them now, as the schedule does; or note records"
        " of the audit chain to be sent again. Events have ids, so that the SIEM recognises what it has. Exits 1 if"
        " events wait after a failed attempt."
    )
    examples = (
        "examples:\n"
        "  manage.py siem status\n"
        "  manage.py siem send                    for example after the receiver was repaired\n"
        "  manage.py siem again --from 1          the whole audit chain, for a new SIEM"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("action", choices=["status", "send", "again"])
        parser.add_argument("--from", dest="number", type=int, help="of again: the first record of the audit chain")

    def handle(self, *args: Any, action: str, number: int | None, **options: Any) -> None:
        if not settings.SIEM_URL:
            raise CommandError("SIEM_URL is not set: no event is noted or sent.")
        if action == "again":
            if number is None or number < 1:
                raise CommandError("say from which record on: --from 1")
            pending.switch(is_on=True)
            self.stdout.write(f"{counted(pending.again_from(number), 'record')} of the audit chain will be sent.")
            return
        if action == "send":
            self.stdout.write(
                f"{counted(shipping.ship_for(_SECONDS), 'event was', 'events were')} sent to {settings.SIEM_URL}."
            )
        self._status()

    def _status(self) -> None:
        found = pending.backlog()
        self.stdout.write(
            f"{counted(found.shipping.sent, 'event was', 'events were')} sent so far, {found.waiting} to go."
        )
        if found.oldest_at is not None:
            age_s = clock.age_s(found.oldest_at, timezone.now())
            self.stdout.write(f"The oldest has waited for {age_s:.0f} s.")
        if found.shipping.last_error:
            raise CommandError(
                f"{counted(found.shipping.attempts, 'attempt')} failed: {found.shipping.last_error}. Events are kept"
            )
