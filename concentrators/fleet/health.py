"""The health of concentrators: last post, silence, and waiting uplinks. This is the one definition.

The time after which one counts as silent is the alert rule's (``ami_headend/alerts/silence.py``).
"""

from datetime import datetime
from typing import NamedTuple

from ami_headend.core.sql import fetch_rows


class Health(NamedTuple):
    """The state of a concentrator; ``waiting`` are unverified uplinks.

    It is silent if it is active and has not posted since a given time; one that never posted, only if it has meters.
    """

    id: int
    name: str
    is_active: bool
    created_at: datetime
    posted_at: datetime | None
    is_silent: bool
    waiting: int
    oldest_waiting_at: datetime | None

    @property
    def known_since(self) -> datetime:
        """The time of its last post, or of its registration."""
        return self.posted_at or self.created_at

    @property
    def is_new(self) -> bool:
        """Whether it has not posted yet, and is not silent either."""
        return self.is_active and not self.is_silent and self.posted_at is None


def of_concentrators(silent_since: datetime, now: datetime, concentrator_id: int | None = None) -> list[Health]:
    """Return all concentrators by name, or one of them; one query."""
    rows = fetch_rows(
        """SELECT c.id, c.name, c.is_active, c.created_at, u.received_at,
                  c.is_active AND coalesce(u.received_at, c.created_at) < %s
                  AND (u.received_at IS NOT NULL OR EXISTS (
                      SELECT 1 FROM concentrators_assignment a WHERE a.concentrator_id = c.id
                      AND a.valid_from <= %s AND (a.valid_to IS NULL OR a.valid_to > %s))),
                  coalesce(w.uplinks, 0), w.oldest
           FROM concentrators_concentrator c
           LEFT JOIN LATERAL (SELECT received_at FROM concentrators_uplink WHERE concentrator_id = c.id
                              ORDER BY received_at DESC LIMIT 1) u ON true
           LEFT JOIN (SELECT concentrator_id, count(*) AS uplinks, min(received_at) AS oldest
                      FROM concentrators_uplink WHERE verified_at IS NULL GROUP BY 1) w ON w.concentrator_id = c.id
           WHERE %s::int IS NULL OR c.id = %s::int
           ORDER BY c.name""",
        silent_since,
        now,
        now,
        concentrator_id,
        concentrator_id,
    )
    return [Health(*row) for row in rows]
