"""What a page of the feed is written as, whichever way it goes: NDJSON, CSV, Parquet, or a message of IEC 61968-9."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from concentrators.feed import messages, pages
from concentrators.feed.formats.profile import Profile
from concentrators.feed.pages import Plan
from concentrators.feed.rows import Resource
from concentrators.feed.writers import WRITERS

CIM = "cim"


class Form(NamedTuple):
    """A form of the rows: its media type (RFC 9110), and how names of files with it end."""

    media_type: str
    suffix: str


FORMS = {
    "ndjson": Form("application/x-ndjson", "ndjson"),
    "csv": Form("text/csv; charset=utf-8", "csv"),
    "parquet": Form("application/vnd.apache.parquet", "parquet"),
    CIM: Form("application/xml; charset=utf-8", "xml"),
}


def plan(resource: Resource, cursor: str | None, limit: int, form: str, profile: Profile) -> Plan:
    """Plan a page for a form: of messages, the rows of one. CursorError, GoneError."""
    if form == CIM:
        return pages.plan(resource, cursor, min(limit, profile.readings_per_message), one_change=True)
    return pages.plan(resource, cursor, limit)


def written(planned: Plan, batches: Iterable[pa.RecordBatch], form: str, profile: Profile) -> Iterator[bytes]:
    """Yield the octets of a planned page; a page without rows has no message."""
    if form != CIM:
        yield from WRITERS[form](planned.resource, batches)
    elif (message := messages.of_page(planned, batches, profile)) is not None:
        yield message
