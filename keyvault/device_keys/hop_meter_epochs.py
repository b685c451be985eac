"""Key epochs of meters whose frames end at their concentrator: which key is in use, and when the meter was last heard.

None of their frames with readings reaches the head-end, so that their counters here do not move.
"""

from collections.abc import Collection, Mapping
from datetime import datetime

from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array


def newest(titles: Collection[bytes], scheme: str) -> dict[bytes, int]:
    """Return, by system title (8 octets), the id of the newest usable key of a scheme; one query."""
    rows = fetch_rows(
        """SELECT DISTINCT ON (system_title) system_title, id FROM keyvault_devicekey
           WHERE system_title = ANY(%s::bytea[]) AND epoch > 0 AND scheme = %s
             AND state IN ('pending', 'active', 'retiring')
           ORDER BY system_title, state = 'active' DESC, epoch DESC""",
        octets_array(titles),
        scheme,
    )
    return dict(rows)


def note_heard(keys: Mapping[int, tuple[datetime, int]]) -> None:
    """Note when devices were heard, and through which concentrator, by key id; a time never goes back.

    Rows that another transaction has locked are skipped: that one notes its own time, and nobody waits.
    """
    execute(
        """UPDATE keyvault_invocationcounter c SET heard_at = n.at, heard_via = n.via
           FROM unnest(%s::int[], %s::timestamptz[], %s::int[]) AS n(key_id, at, via)
           WHERE c.key_id = n.key_id AND c.key_id IN (
               SELECT d.key_id FROM keyvault_invocationcounter d WHERE d.key_id = ANY(%s::int[]) FOR UPDATE SKIP LOCKED)
             AND (c.heard_at IS NULL OR c.heard_at < n.at)""",
        int_array(keys),
        "{" + ",".join(at.isoformat() for at, _ in keys.values()) + "}",
        int_array(via for _, via in keys.values()),
        int_array(keys),
    )
