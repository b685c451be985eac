"""Classifies a request by its head: which threads answer it, and how large its body may be."""

import enum
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qs

ANONYMOUS_MAX_OCTETS = 64 * 1024  # for anonymous clients: a form, but no file
SIGN_IN_MAX_OCTETS = 16 * 1024
PEOPLE_MAX_OCTETS = 2_621_440  # Django's limit for bodies that are not files; a cookie may be invented
FILE_MAX_OCTETS = 10 * 1024 * 1024  # for the one page that accepts files
_FILES = ("csv", "parquet")
_FILE_ENDS = ("/export", "/export/", "/green-button", "/market-document")
_FEED = ("/api/v1/feed/readings", "/api/v1/feed/events")
_CONCENTRATORS = ("/api/v1/uplinks", "/api/v1/commands")
_PROGRAMS = ("basic ", "bearer ")
_TAKES_FILES = "/admin/meters/import/"
_SIGN_IN = ("/admin/login/", "/sign-in/")


class Pool(enum.Enum):
    """Threads for one kind of request, independent of other pools."""

    LIVE = "live"  # needs neither database nor broker
    WATCH = "watch"  # readiness probes and metrics
    INGEST = "ingest"  # concentrators
    SIGN_IN = "sign-in"  # each costs a password hash
    PROGRAM = "program"  # by password, which costs a hash too, or by a token, also of a concentrator that holds keys
    EXPORT = "export"  # long answers
    PEOPLE = "people"  # pages and the rest of the API


class RequestClass(NamedTuple):
    """The pool that answers, and the most octets of a body."""

    pool: Pool
    body_max: int


def classify(method: str, path: str, query: str, headers: Mapping[str, str], uplink_max: int) -> RequestClass:
    """Classify a request. ``headers`` are named as in waitress (``CONTENT_TYPE``); ``path`` is without a prefix."""
    if path == "/health/live":
        return RequestClass(Pool.LIVE, 0)
    if path in ("/health/ready", "/metrics"):
        return RequestClass(Pool.WATCH, 0)
    if path.startswith(_CONCENTRATORS):
        # One octet more than is accepted, so that the view itself can say what to do.
        return RequestClass(Pool.INGEST, uplink_max + 1 if path == _CONCENTRATORS[0] else ANONYMOUS_MAX_OCTETS)
    if path.startswith(_SIGN_IN) and method == "POST":
        return RequestClass(Pool.SIGN_IN, SIGN_IN_MAX_OCTETS)
    is_known = "COOKIE" in headers or "AUTHORIZATION" in headers
    known_max = FILE_MAX_OCTETS if path == _TAKES_FILES else PEOPLE_MAX_OCTETS
    body_max = known_max if is_known else ANONYMOUS_MAX_OCTETS
    if _is_export(path, query, headers):
        return RequestClass(Pool.EXPORT, body_max)
    is_of_program = headers.get("AUTHORIZATION", "").lower().startswith(_PROGRAMS)
    return RequestClass(Pool.PROGRAM if is_of_program else Pool.PEOPLE, body_max)


def _is_export(path: str, query: str, headers: Mapping[str, str]) -> bool:
    """Whether the request is for a file of any length."""
    asked = parse_qs(query)
    formats = [*asked.get("format", ()), *asked.get("export", ())]  # of the API, and of lists of the console
    accepted = headers.get("ACCEPT", "")
    return (
        path in _FEED
        or path.endswith(_FILE_ENDS)
        or any(
            name in formats or f"/{name}" in accepted or f".{name}" in accepted or path.endswith(f".{name}")
            for name in _FILES
        )
    )
