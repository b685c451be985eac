"""Read success as tables: rows by concentrator and by group, for pages, exports and mails."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import pyarrow as pa

from ami_headend.core.sql import select
from concentrators.models import ReadDay
from concentrators.totals import read_deadlines, read_success
from concentrators.totals.read_success import Success
from meters.group_models import FleetGroup


class DayRow(NamedTuple):
    """Intervals of one concentrator or group on a day by a deadline."""

    day: str
    deadline: str
    due_at: datetime
    target_percent: Decimal
    name: str
    expected: int
    in_time: int
    late: int
    status: str


_COUNTS = [("expected", pa.int64()), ("in_time", pa.int64()), ("late", pa.int64()), ("status", pa.string())]


def schema_of(what: str) -> pa.Schema:
    """Return the columns of a table of rows, which are named so: ``concentrator`` or ``group``."""
    head = [("day", pa.string()), ("deadline", pa.string()), ("due_at", pa.timestamp("us", tz="UTC"))]
    return pa.schema([*head, ("target_percent", pa.decimal128(5, 2)), (what, pa.string()), *_COUNTS])


def of_concentrators(days: Sequence[ReadDay], mine: Collection[int] | None = None) -> Iterator[list[DayRow]]:
    """Yield the rows of concentrators, of all or of some, day by day, the newest first. A query for each day."""
    for day in reversed(days):
        yield [
            row(day, share.concentrator.name, Success(share.expected, share.in_time, share.late))
            for share in read_success.shares([day], mine)
        ]


def of_groups(day: ReadDay) -> list[tuple[FleetGroup, Success]]:
    """Return what the groups of concentrators had on a day, by who is in them now; the smallest shares first.

    Two queries. Groups of which nothing was expected are left out.
    """
    rows = select(
        """SELECT g.group_id, sum(s.expected)::bigint, sum(s.in_time)::bigint, sum(s.late)::bigint
           FROM concentrators_readshare s
           JOIN concentrators_concentratoringroup g ON g.concentrator_id = s.concentrator_id
           WHERE s.of_day_id = %s AND s.expected > 0 GROUP BY g.group_id
           ORDER BY sum(s.in_time)::float / sum(s.expected), sum(s.expected) DESC, g.group_id""",
        [day.pk],
    )
    named = FleetGroup.objects.in_bulk([row[0] for row in rows])
    return [(named[pk], Success(*numbers)) for pk, *numbers in rows if pk in named]


def row(day: ReadDay, name: str, counted: Success) -> DayRow:
    """Return the row of a concentrator or group of this name."""
    status = read_deadlines.status(counted.expected, counted.in_time, day.target_percent)
    return DayRow(day.day.isoformat(), day.deadline.name, day.due_at, day.target_percent, name, *counted, str(status))


def number_of(days: Collection[ReadDay], mine: Collection[int] | None = None) -> int:
    """Count the rows of concentrators. One query."""
    return read_success.shares(days, mine).count()
