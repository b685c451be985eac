"""The options of an export: which keys, and for whom. export_keys and the request for its approval share them."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from ami_headend.core import eui64
from ami_headend.core.eui64 import Eui64Error


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--transport-key", type=Path, required=True, metavar="FILE")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--meters", nargs="+", metavar="TITLE", help="system titles")
    which.add_argument("--meters-from", type=Path, metavar="FILE", help="a file of system titles, one in each line")


def titles(options: dict[str, Any]) -> list[bytes]:
    """Read the system titles; CommandError if one is invalid, or there are none."""
    words = options["meters"] or _lines_of(options["meters_from"])
    if not words:
        raise CommandError("no system titles are given. Nothing was done.")
    try:
        return [eui64.parse(word) for word in words]
    except Eui64Error as error:
        raise CommandError(f"system title {error}. Nothing was done.") from None


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}. Nothing was done.") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not a text file. Nothing was done.") from None
