"""What kind of door a request goes to, by its head alone: which threads answer it, and how large its body may be."""

import enum
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qs

ANONYMOUS_MAX_OCTETS = 64 * 1024  # of whom nobody knows: a form, and no file
SIGN_IN_MAX_OCTETS = 16 * 1024
PEOPLE_MAX_OCTETS = 2_621_440  # as much as Django takes of what is no file; a cookie may be made up
FILE_MAX_OCTETS = 10 * 1024 * 1024  # at the one page that takes files
_FILES = ("csv", "parquet")
_CONCENTRATORS = ("/api/v1/uplinks", "/api/v1/commands")
_TAKES_FILES = "/admin/meters/import/"
_SIGN_IN = ("/admin/login/", "/sign-in/")


class Pool(enum.Enum):
    """Threads that answer one kind of request, and wait for no other."""

    LIVE = "live"  # needs nothing: no database, no broker
    WATCH = "watch"  # probes that look, and metrics
    INGEST = "ingest"  # concentrators
    SIGN_IN = "sign-in"  # costs a password hash each
    PROGRAM = "program"  # so does each of a program that sends its password
    EXPORT = "export"  # long ones
    PEOPLE = "people"  # pages and the rest of the API


class Door(NamedTuple):
    """The threads that answer, and how many octets a body may have."""

    pool: Pool
    body_max: int


def door_of(method: str, path: str, query: str, headers: Mapping[str, str], uplink_max: int) -> Door:
    """The door of a request; ``headers`` as waitress names them (``CONTENT_TYPE``), ``path`` without a prefix."""
    if path == "/health/live":
        return Door(Pool.LIVE, 0)
    if path in ("/health/ready", "/metrics"):
        return Door(Pool.WATCH, 0)
    if path.startswith(_CONCENTRATORS):
        # One more than is taken: the view itself says what to do.
        return Door(Pool.INGEST, uplink_max + 1 if path == _CONCENTRATORS[0] else ANONYMOUS_MAX_OCTETS)
    if path.startswith(_SIGN_IN) and method == "POST":
        return Door(Pool.SIGN_IN, SIGN_IN_MAX_OCTETS)
    is_known = "COOKIE" in headers or "AUTHORIZATION" in headers
    known_max = FILE_MAX_OCTETS if path == _TAKES_FILES else PEOPLE_MAX_OCTETS
    body_max = known_max if is_known else ANONYMOUS_MAX_OCTETS
    if _is_export(path, query, headers):
        return Door(Pool.EXPORT, body_max)
    return Door(Pool.PROGRAM if headers.get("AUTHORIZATION", "")[:6].lower() == "basic " else Pool.PEOPLE, body_max)


def _is_export(path: str, query: str, headers: Mapping[str, str]) -> bool:
    """Whether a file of any number of rows is asked for."""
    formats = parse_qs(query).get("format", [])
    accepted = headers.get("ACCEPT", "")
    return path.endswith(("/export", "/export/")) or any(
        name in formats or f"/{name}" in accepted or f".{name}" in accepted or path.endswith(f".{name}")
        for name in _FILES
    )
