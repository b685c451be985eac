"""Ids that were given out are never given out again: after a restore every sequence goes on far above its dump.

A receipt, a webhook or a link from after the dump names a row that is gone; it must not name another one.
"""

from datetime import datetime

from django.db import connection

from ami_headend.backup.databases import ASIDE

# An id of 8 octets goes on at the Unix second times 2^20: above all earlier ones, unless more than a million a second
# were given out since the restore before; and exact in programs that know numbers to 2^53 only, until 2242.
_BITS_BELOW_SECOND = 20
# Ids of 4 octets go on so much above what dump, journal and the database before knew: more than come in between.
_STEP = 1 << 22
_KEPT_FREE = 1 << 20
_BIGINT = "bigint"
_INTEGER = "integer"
_JOURNAL = "keyvault_journal_number"  # the journal itself says how far its numbers went

_SEQUENCES = """
SELECT s.sequencename, s.data_type::text, s.max_value, coalesce(s.last_value, 0), coalesce(a.last_value, 0)
FROM pg_sequences s LEFT JOIN pg_sequences a ON a.schemaname = %s AND a.sequencename = s.sequencename
WHERE s.schemaname = 'public' AND s.sequencename <> %s
"""


def move_on(at: datetime, dumped_at: datetime | None) -> None:
    """Let every sequence go on above all ids that were given out before ``at``. Not undone with a transaction.

    Once for a dump of ``dumped_at``, however often it is called, where ids of 4 octets would run out.
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
