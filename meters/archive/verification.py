"""Files of archived months read again: before the partition is dropped, daily, and when somebody asks.

A round over the files of a month is remembered in its row (``under_way``), so that a task whose time is over goes on
with the next file. Two processes at the same round do not disturb each other: who comes second stops.
"""

import math
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Case, F, QuerySet, Value, When

from meters.archive import steps
from meters.archive.files import ArchiveError, DamagedError, Store, store
from meters.archive.layout import Part, Sums
from meters.archive_models import IN_FILES, ArchivedMonth, MonthState
from meters.readings import partitions

WITH_FILES = (MonthState.WRITTEN, *IN_FILES)  # whose files have to be as they were noted
_FRESH = timedelta(days=1)  # for so long a file that was read before the drop counts as read


def verify(month: datetime, now: datetime) -> int:
    """Read the files of an archived month again and compare them with what was noted; return the rows. ArchiveError.

    The row says when, and what was wrong.
    """
    row = ArchivedMonth.objects.filter(month=month, state__in=WITH_FILES).first()
    if row is None:
        raise ArchiveError(f"{month:%Y-%m} has no files")
    place, parts = store(), steps.parts_of(row)
    damaged = [str(error) for part in parts if (error := _error(place, part)) is not None]
    if not damaged and _sums(place, parts) != steps.sums_of(row):
        damaged = [f"the files of {month:%Y-%m} do not hold what was noted of them: restore them"]
    _as_it_was(row).update(checked_at=now, fault=damaged[0] if damaged else "")
    if damaged:
        if row.state != MonthState.RESTORING:  # there it says which files are in the database
            _as_it_was(row).update(under_way={})
        raise DamagedError(damaged[0] + (f" ({len(damaged)} of {len(parts)} files are damaged)" if damaged[1:] else ""))
    return sum(part.rows for part in parts)


def verify_next(now: datetime, until_s: float = math.inf) -> datetime | None:
    """Compare size and SHA-256 of the files of the archived month that was verified longest ago; return the month.

    After ``until_s`` (monotonic) no other file is begun: the next call goes on. None if no month is archived.
    DamagedError names the first damaged file that this call found; the row has it, too. ArchiveError.
    """
    begun_first = Case(When(under_way={}, then=Value(1)), default=Value(0))
    archived = ArchivedMonth.objects.filter(state=MonthState.ARCHIVED)
    row = archived.order_by(begun_first, F("checked_at").asc(nulls_first=True), "month").first()
    if row is None:
        return None
    errors = [error for _, error in _go_on(store(), row, now, until_s) if error is not None]
    if _is_read(row):
        _note(row, checked_at=now, fault=row.under_way.get("fault", ""), under_way={})
    if errors:
        raise errors[0]
    return row.month


def damaged_files(place: Store, row: ArchivedMonth, now: datetime, until_s: float) -> list[Part] | None:
    """Read the files of a written month, but those that were read within a day; return the damaged ones.

    None if time was over, or another process is at it: call it again. ArchiveError if the archive does not answer.
    """
    if row.under_way and not _is_fresh(row, now):
        _note(row, under_way={})
    found = [part for part, error in _go_on(place, row, now, until_s) if error is not None]
    return found if found or _is_read(row) else None


def may_be_dropped(place: Store, row: ArchivedMonth, now: datetime) -> bool:
    """Whether each file of a written month was read within a day, as it was written, and is there now."""
    if not _is_read(row) or not _is_fresh(row, now) or row.under_way.get("fault"):
        return False
    return all(place.octets(part.name) == part.octets for part in steps.parts_of(row))


def require_files(place: Store, month: datetime) -> None:
    """ArchiveError if the archive has no file of the last other month that is archived: it is not the one that had it.

    So nothing is written below a mount point that nothing is mounted at, or into another bucket, and no month is
    forgotten whose files are only away.
    """
    last = ArchivedMonth.objects.filter(state__in=IN_FILES).exclude(month=month).order_by("-month").first()
    if last is not None and not place.names(f"readings-{last.month:%Y-%m}"):
        raise ArchiveError(
            f"no file of {last.month:%Y-%m} is in the archive: nothing else is archived there, or deleted."
            " See that its folder is mounted, and that ARCHIVE_URL is right"
        )


def fault() -> str | None:
    """Return what keeps readings of archived months from being read, as the last month shows; None if nothing does."""
    archived = ArchivedMonth.objects.filter(state__in=IN_FILES).order_by("-month")
    last = archived.first()
    if last is None:
        return None
    try:
        place = store()
        missing = [part.name for part in steps.parts_of(last) if place.octets(part.name) != part.octets]
    except ArchiveError as error:
        return f"readings before {partitions.month_after(last.month):%Y-%m} are archived, and cannot be read: {error}"
    if missing:
        return f"{missing[0]} is not in the archive as it was written"
    damaged = archived.exclude(fault="").first()
    if damaged is None:
        return None
    return f"{damaged.fault} (once that is done, manage.py archive verify {damaged.month:%Y-%m})"


def _go_on(
    place: Store, row: ArchivedMonth, now: datetime, until_s: float
) -> Iterator[tuple[Part, DamagedError | None]]:
    """Yield the files of a month that this round has not read yet, and what is wrong with each; note how far it is."""
    parts = steps.parts_of(row)
    while (done := row.under_way.get("files", 0)) < len(parts):
        error = _error(place, parts[done])
        before = {"since": now.isoformat(), "fault": "", **row.under_way}
        wrong = {} if error is None else {"fault": str(error)}
        after = before | {"files": done + 1, "fault": before["fault"] or wrong.get("fault", "")}
        if not _note(row, under_way=after, **wrong):
            return
        yield parts[done], error
        if time.monotonic() > until_s:
            return


def _is_read(row: ArchivedMonth) -> bool:
    return bool(row.under_way.get("files", 0) == len(row.parts))


def _is_fresh(row: ArchivedMonth, now: datetime) -> bool:
    """Whether the round began within a day; a clock that was set back makes it begin anew."""
    return not row.under_way or timedelta(0) <= now - datetime.fromisoformat(row.under_way["since"]) < _FRESH


def _error(place: Store, part: Part) -> DamagedError | None:
    try:
        steps.check_file(place, part)
    except DamagedError as error:
        return error
    return None


def _sums(place: Store, parts: list[Part]) -> dict[int, Sums]:
    found: dict[int, Sums] = {}
    for part in parts:
        found = steps.plus(found, steps.read_again(place, part))
    return found


def _as_it_was(row: ArchivedMonth) -> QuerySet[ArchivedMonth]:
    return ArchivedMonth.objects.filter(month=row.month, state=row.state, changed_at=row.changed_at)


def _note(row: ArchivedMonth, **values: Any) -> bool:
    """Set columns of a month whose files are being read; return whether no other process did so meanwhile."""
    noted = _as_it_was(row).filter(under_way=row.under_way).update(**values) == 1
    if noted:
        for name, value in values.items():
            setattr(row, name, value)
    return noted
