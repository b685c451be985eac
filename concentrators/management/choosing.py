"""Which meters a command is for: the words that rotate_device_keys and resend_gaps have in common."""

from argparse import ArgumentParser, _ArgumentGroup
from typing import Any

from concentrators.fleet.selection import Selection, find_concentrator
from meters.registry import groups
from meters.registry.lookup import parse_system_title


def add_arguments(parser: ArgumentParser | _ArgumentGroup) -> None:
    parser.add_argument("--meter", action="append", metavar="TITLE", help="system title, 16 hex digits; repeatable")
    parser.add_argument("--concentrator", metavar="NAME", help="meters assigned to it now")
    parser.add_argument(
        "--group", action="append", metavar="KIND:NAME", help="meters in the group or with the tag now; several: in any"
    )
    parser.add_argument("--all", action="store_true", help="every meter in service")


def selection(options: dict[str, Any], **more: Any) -> Selection:
    """What the words mean; RegistryError where they name no meter's title, no concentrator or no group."""
    name, titles = options["concentrator"], options["meter"]
    return Selection(
        None if titles is None else [parse_system_title(text) for text in titles],
        None if name is None else find_concentrator(name),
        None if options["group"] is None else groups.find(options["group"]),
        everything=options["all"],
        **more,
    )
