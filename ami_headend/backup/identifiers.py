"""Ids that were assigned never come again: after a restore every sequence continues far above its dump.

A receipt, a webhook or a link from after the dump names a row that is gone; it must not name another one.
"""

from datetime import datetime

from django.db import connection

from ami_headend.backup.databases import ASIDE

# An 8-octet id continues at the Unix second times 2^20. That is above all earlier ids, unless more than a million a
# second were assigned since the last restore, and exact until 2242 in programs that know numbers to 2^53 only.
_BITS_BELOW_SECOND = 20
# Ids of 4 octets continue this far above those of dump, journal and the earlier database: more than come in between.
_STEP = 1 << 22
_KEPT_FREE = 1 << 20
_BIGINT = "bigint"
_INTEGER = "integer"
_JOURNAL = "keyvault_journal_number"  # the journal itself records how far its numbers went

_SEQUENCES = """
SELECT s.sequencename, s.data_type::text, s.max_value, coalesce(s.last_value, 0), coalesce(a.last_value, 0)
FROM pg_sequences s LEFT JOIN pg_sequences a ON a.schemaname = %s AND a.sequencename = s.sequencename
WHERE s.schemaname = 'public' AND s.sequencename <> %s
"""


def move_on(at: datetime, dumped_at: datetime | None) -> None:
    """Move every sequence above all ids that were assigned before ``at``. A rollback does not undo this.

    For one dump of ``dumped_at`` this happens once, however often it is called, as 4-octet ids would run out.
    """
    with connection.cursor() as cursor:
        cursor.execute(_SEQUENCES, [ASIDE, _JOURNAL])
        rows = cursor.fetchall()
        has_moved = dumped_at is not None and any(
            kind == _BIGINT and last >= _base(dumped_at) for _, kind, _, last, _ in rows
        )
        for name, kind, largest, last, last_aside in rows:
            known = max(last, last_aside)
            step = 0 if has_moved else _STEP
            beyond = {_BIGINT: _base(at), _INTEGER: known + step}.get(kind, known)
            following = max(known, min(beyond, largest - _KEPT_FREE))
            if following > last:
                cursor.execute("SELECT setval(format('public.%%I', %s::text)::regclass, %s)", [name, following])


def _base(at: datetime) -> int:
    return int(at.timestamp()) << _BITS_BELOW_SECOND
