"""Reports of concentrators about frames that they dropped on the local link: counts by meter and hour, with samples.

Such a report proves nothing: no alert and no verdict follows from it.
"""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from django.conf import settings
from django.db import connection, transaction

from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array
from concentrators.models import Concentrator
from meters.registry.groups import OF_GROUPS

SAMPLES_MAX = 3
ENTRIES_MAX = 1_000
COUNT_MAX = 2**31 - 1
_OLDEST = timedelta(days=31)


class HopFault(StrEnum):
    """Why a concentrator dropped a frame."""

    TAG_INVALID = "tag_invalid"  # a wrong hop tag, or a hop frame with a wrong tag
    UNTAGGED = "untagged"  # no hop tag, though the meter's frames need one
    REPLAYED = "replayed"  # a hop frame that was opened before


class HopFailureError(ValueError):
    """A report that is refused as a whole; the message names the entry."""


class HopFailureEntry(NamedTuple):
    """The number of frames of a meter (system title, 8 octets) dropped for one reason in the hour from ``hour`` on."""

    system_title: bytes
    hour: datetime
    reason: HopFault
    frames: int
    samples: Sequence[bytes]


class HopFailureRow(NamedTuple):
    """The report of one concentrator about one meter, hour and reason."""

    concentrator: str
    meter: str
    hour: datetime
    reason: str
    frames: int
    samples: list[bytes]
    reported_at: datetime


# The hour, a meter by id, the reason, how many frames, and samples of them.
_Row = tuple[datetime, int, str, int, list[bytes]]


def report(concentrator_id: int, entries: Sequence[HopFailureEntry], now: datetime) -> None:
    """Store a concentrator's report. A count covers its hour so far and never decreases, so a report may be repeated.

    For each meter, hour and reason at most SAMPLES_MAX frames are stored, for one hour FAILURE_ROWS_PER_HOUR rows.
    HopFailureError if a meter was never assigned to the concentrator, or an hour is invalid: nothing is stored.
    """
    for number, entry in enumerate(entries):
        if entry.hour.timestamp() % 3600:
            raise HopFailureError(f"entry {number}: {entry.hour.isoformat()} is not a full hour of UTC")
        if not now - _OLDEST <= entry.hour <= now + timedelta(seconds=settings.CLOCK_SKEW_S):
            raise HopFailureError(
                f"entry {number}: {entry.hour.isoformat()} is in the future, or more than 31 days ago"
            )
    with transaction.atomic():
        Concentrator.objects.select_for_update(of=("self",), no_key=True).get(
            pk=concentrator_id
        )  # one report at a time
        meters = _meters(concentrator_id, {entry.system_title for entry in entries})
        for number, entry in enumerate(entries):
            if entry.system_title not in meters:
                raise HopFailureError(f"entry {number}: no meter {entry.system_title.hex()} is or was assigned here")
        _note(concentrator_id, [(meters[entry.system_title], entry) for entry in entries], now)


def _meters(concentrator_id: int, titles: set[bytes]) -> dict[bytes, int]:
    rows = fetch_rows(
        """SELECT DISTINCT m.system_title, m.id FROM meters_meter m
           JOIN concentrators_assignment a ON a.meter_id = m.id AND a.concentrator_id = %s
           WHERE m.system_title = ANY(%s::bytea[])""",
        concentrator_id,
        octets_array(titles),
    )
    return dict(rows)


def _note(concentrator_id: int, entries: Sequence[tuple[int, HopFailureEntry]], now: datetime) -> None:
    """Merge the entries of each meter, hour and reason (the highest count, the first samples) and store them."""
    places: dict[tuple[datetime, int, str], HopFailureEntry] = {}
    for meter_id, entry in entries:
        place = entry.hour.astimezone(UTC), meter_id, entry.reason.value
        first = places.setdefault(place, entry)
        if entry.frames > first.frames:
            places[place] = first._replace(frames=entry.frames)
    rows: list[_Row] = [
        (hour, meter_id, reason, entry.frames, [sample[: settings.FRAME_MAX_OCTETS] for sample in entry.samples])
        for (hour, meter_id, reason), entry in sorted(places.items(), key=lambda one: one[0])
    ]
    _insert(concentrator_id, _with_room(concentrator_id, rows), now)


def _with_room(concentrator_id: int, rows: Sequence[_Row]) -> list[_Row]:
    """Return the rows that are already stored, and as many new ones as their hour has room for."""
    standing = fetch_rows(
        """SELECT hour, meter_id, reason FROM concentrators_hopfailure
           WHERE concentrator_id = %s AND hour = ANY(%s::timestamptz[])""",
        concentrator_id,
        "{" + ",".join(sorted({row[0].isoformat() for row in rows})) + "}",
    )
    known, kept = set(standing), Counter(hour for hour, *_ in standing)
    taken = []
    for row in rows:
        if row[:3] not in known:
            kept[row[0]] += 1
            if kept[row[0]] > settings.FAILURE_ROWS_PER_HOUR:
                continue
        taken.append(row)
    return taken


def _insert(concentrator_id: int, rows: Sequence[_Row], now: datetime) -> None:
    said = [
        {
            "hour": hour.isoformat(),
            "meter": meter,
            "reason": reason,
            "frames": count,
            "samples": [*map(bytes.hex, kept)],
        }
        for hour, meter, reason, count, kept in rows
    ]
    execute(
        """INSERT INTO concentrators_hopfailure AS f
               (concentrator_id, hour, meter_id, reason, frames, samples, reported_at)
           SELECT %s, n.hour, n.meter, n.reason, n.frames,
                  ARRAY(SELECT decode(one, 'hex') FROM jsonb_array_elements_text(n.samples) AS s(one)), %s
           FROM jsonb_to_recordset(%s::jsonb)
                AS n(hour timestamptz, meter int, reason text, frames bigint, samples jsonb)
           ON CONFLICT (concentrator_id, hour, meter_id, reason) DO UPDATE
           SET frames = greatest(f.frames, excluded.frames), reported_at = excluded.reported_at,
               samples = CASE WHEN f.samples = '{}' THEN excluded.samples ELSE f.samples END""",
        concentrator_id,
        now,
        json.dumps(said),
    )


def reported(
    start: datetime,
    end: datetime,
    limit: int,
    concentrator_id: int | None = None,
    meter_id: int | None = None,
    group_ids: Sequence[int] | None = None,
) -> list[HopFailureRow]:
    """Return the reports about hours in [start, end), newest first; of meters of groups, if given. One query."""
    of_groups = "" if group_ids is None else f"AND {OF_GROUPS.format(column='f.meter_id')}"
    with connection.cursor() as cursor:
        cursor.execute(
            f"""SELECT c.name, m.serial_number, f.hour, f.reason, f.frames, f.samples, f.reported_at
               FROM concentrators_hopfailure f JOIN concentrators_concentrator c ON c.id = f.concentrator_id
               JOIN meters_meter m ON m.id = f.meter_id
               WHERE f.hour >= %(start)s AND f.hour < %(end)s
                 AND (%(concentrator)s::int IS NULL OR f.concentrator_id = %(concentrator)s)
                 AND (%(meter)s::int IS NULL OR f.meter_id = %(meter)s) {of_groups}
               ORDER BY f.hour DESC, f.concentrator_id, f.meter_id, f.reason LIMIT %(limit)s""",
            {
                "start": start,
                "end": end,
                "concentrator": concentrator_id,
                "meter": meter_id,
                "groups": int_array(group_ids or ()),
                "limit": limit,
            },
        )
        return [HopFailureRow._make((*row[:5], list(map(bytes, row[5])), row[6])) for row in cursor.fetchall()]
