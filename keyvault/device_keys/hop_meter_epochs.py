"""Key epochs of meters whose frames end at their concentrator: which stand, and when such a meter was heard.

No frame of theirs with a reading reaches the head-end, so that counters tell nothing of them.
"""

from collections.abc import Collection, Mapping
from datetime import datetime

from ami_headend.core.sql import execute, fetch_rows, int_array, octets_array


def newest(titles: Collection[bytes], scheme: str) -> dict[bytes, int]:
    """The id of the newest key of a scheme that each device (system title, 8 octets) may use; one query."""
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
    """Note when devices were heard, and through whom, by the id of a key; never earlier than they were before.

    What another transaction holds is passed over: it notes its own, and nobody waits for this.
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
