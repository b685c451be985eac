"""manage.py meter: look a meter up."""

from datetime import datetime
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from ami_headend.core.commands import DomainCommand
from concentrators.fleet import summaries
from meters.registry.lookup import RegistryError, look_up

_NOTHING = "-"


class Command(DomainCommand):
    help = (
        "Look a meter up: its place, its concentrator, its last frame, and the status of its keys (without key octets)."
        " Exits 1 if there is none."
    )
    examples = (
        "examples:\n"
        "  manage.py meter SN-1\n"
        "  manage.py meter 00-24-BE-FF-FE-80-4F-F1       its system title, in any usual form\n"
        "  manage.py meter SN-1 --json                  for programs"
    )
    refusals = (RegistryError,)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("meter", metavar="SERIAL|TITLE", help="serial number, or system title (16 hex digits)")
        parser.add_argument("--json", action="store_true", help="for programs")

    def handle(self, *args: Any, meter: str, json: bool, **options: Any) -> None:
        told = summaries.meter(look_up(meter), timezone.now())
        if json:
            self.write_json(told)
        else:
            self.stdout.write("\n".join(_lines(told)))


def _lines(told: dict[str, Any]) -> list[str]:
    keys = told.pop("keys")
    lines = [f"{name.replace('_', ' '):20}{_shown(value)}" for name, value in told.items()]
    for key in keys:
        counter = "no frame yet" if key["counter"] is None else f"counter {key['counter']:,}"
        lines.append(
            f"{key['use']:20}epoch {key['epoch']}: {key['state']}, {key['scheme']}, {key['algorithm']}, "
            f"{key['source']}, {counter}, fingerprint {_shown(key['fingerprint'])}"
        )
    return lines if keys else [*lines, "keys                none: its frames wait until it gets one"]


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"
    return _NOTHING if value in (None, "") else str(value)
