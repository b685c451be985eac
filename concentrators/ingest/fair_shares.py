"""The share of one concentrator in what all concentrators use: the queue, the disk, and the order of verification.

One statement a second for each concentrator and process reads its use; its rate bounds what it posts in between.
Beyond its share of the queue or of octets it is refused (429). Many forged frames, or frames of unknown meters, refuse
nothing, because frames of honest meters may be among them: then the uplinks of the concentrator are verified last.
"""

import logging
import time
from datetime import datetime
from typing import NamedTuple

from django.conf import settings

from ami_headend.core.sql import fetch_rows
from concentrators.failures.kinds import FailureKind

logger = logging.getLogger(__name__)

_LOOK_S = 1.0
_KEPT_AT_MOST = 10_000  # concentrators
_UNKNOWN = (FailureKind.UNKNOWN_DEVICE, FailureKind.UNKNOWN_EPOCH)
_FORGED = (  # each costs a cipher operation, or more
    FailureKind.TAG_INVALID,
    FailureKind.CERTIFICATE_INVALID,
    FailureKind.SIGNATURE_INVALID,
    FailureKind.COUPON_REUSED,
)


class Share(NamedTuple):
    """The use that a concentrator makes of its shares."""

    is_queue_spent: bool
    are_octets_spent: bool
    comes_last: bool


_looks: dict[int, tuple[float, Share]] = {}


def look(concentrator_id: int, now: datetime) -> Share:
    """Return the use of a concentrator, at most a second old."""
    at, share = _looks.get(concentrator_id, (0.0, None))
    clock = time.monotonic()
    if share is None or clock - at >= _LOOK_S:
        share = standing(concentrator_id, now)
        if len(_looks) >= _KEPT_AT_MOST:
            _looks.clear()
        _looks[concentrator_id] = clock, share
        if share.comes_last:
            logger.warning(
                "concentrator %s: forged or unknown frames beyond its allowance, it comes last", concentrator_id
            )
    return share


def standing(concentrator_id: int, now: datetime) -> Share:
    """Return the present use of a concentrator. Tallies count forged and unknown frames by the hour, each once."""
    waiting, octets, bad_tags, unknown = fetch_rows(
        """SELECT (SELECT count(*) FROM (SELECT FROM concentrators_uplink WHERE concentrator_id = %s
                                         AND verified_at IS NULL LIMIT %s) AS w),
                  (SELECT coalesce(sum(octets), 0)::bigint FROM concentrators_uplink
                   WHERE concentrator_id = %s AND received_at > %s - interval '1 hour' AND received_at <= %s),
                  coalesce(sum(failures) FILTER (WHERE kind = ANY(%s::text[])), 0)::bigint,
                  coalesce(sum(failures) FILTER (WHERE kind = ANY(%s::text[])), 0)::bigint
           FROM concentrators_failuretally
           WHERE concentrator_id = %s AND hour = date_trunc('hour', %s::timestamptz, 'UTC')""",
        *(concentrator_id, settings.UPLINK_QUEUE_SHARE),
        *(concentrator_id, now, now),
        *("{" + ",".join(_FORGED) + "}", "{" + ",".join(_UNKNOWN) + "}"),
        *(concentrator_id, now),
    )[0]
    return Share(
        waiting >= settings.UPLINK_QUEUE_SHARE,
        octets >= settings.UPLINK_OCTETS_PER_HOUR,
        bad_tags >= settings.BAD_TAGS_PER_HOUR or unknown >= settings.UNKNOWN_FRAMES_PER_HOUR,
    )
