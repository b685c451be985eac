"""An archived month on its way back into the database."""

import io
from collections.abc import Iterator
from datetime import datetime

import pyarrow as pa
import pyarrow.csv as pa_csv
from django.db import connection

from ami_headend.core.sql import cursor, select
from meters.archive import layout, steps
from meters.archive.files import ArchiveError, store
from meters.archive_models import MonthState
from meters.readings import partitions

_COLUMNS = ", ".join(layout.SCHEMA.names)


def restore(month: datetime, now: datetime) -> int:
    """Bring an archived month back into the database, in one transaction; return its rows. ArchiveError.

    The feed tells nothing new while that transaction runs. The files stay, for backups that are older.
    """
    place = store()
    with steps.step(month) as row:
        if row is None or row.state != MonthState.ARCHIVED:
            raise ArchiveError(f"{month:%Y-%m} is not archived")
        steps.hold_partitions()
        select("SELECT meters_create_month(%s)", [month])
        rows = 0
        for part in steps.parts_of(row):
            steps.check_file(place, part)
            with place.reading(part.name) as source:
                rows += _copy_in(layout.read(source))
        if steps.stored(month, partitions.month_after(month)) != steps.sums_of(row):
            raise ArchiveError(f"{month:%Y-%m} would not hold what its files hold: nothing was restored")
        row.state, row.changed_at, row.under_way = MonthState.RESTORED, now, {}
        row.save()
    return rows


def _copy_in(batches: Iterator[pa.RecordBatch]) -> int:
    """Store readings; return how many."""
    rows = 0
    statement = f"COPY meters_reading ({_COLUMNS}) FROM STDIN (FORMAT CSV)"
    with connection.wrap_database_errors, cursor() as target, target.copy(statement) as copy:
        for batch in batches:
            written = io.BytesIO()
            pa_csv.write_csv(batch, written, pa_csv.WriteOptions(include_header=False))
            copy.write(written.getvalue())
            rows += batch.num_rows
    return rows
