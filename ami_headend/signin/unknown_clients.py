"""Attempts whose client is unknown, because the proxy does not report where they came from.

They are not locked out: one stranger's guesses would lock everybody out of that account. Password hashing in one thread
of each web process keeps them slow. The log and ``manage.py doctor`` report them until the proxy is mended.
"""

import logging
from datetime import timedelta
from typing import Any

import cbor2
from django.http import HttpRequest
from django.utils import timezone

from ami_headend.core import clock
from ami_headend.core.client_ip import unread_hop
from ami_headend.models import KeptAnswer

logger = logging.getLogger(__name__)

_MARK = "unread client address"
_NOTED_EVERY = timedelta(minutes=1)
_STANDS_FOR = timedelta(hours=24)
_SHOWN_CHARACTERS = 60


def is_untold(request: HttpRequest, credentials: dict[str, Any] | None) -> bool:
    """Whether the origin of an attempt is unknown (AXES_WHITELIST_CALLABLE); if so, it is recorded."""
    hop = unread_hop(request)
    if hop is None:
        return False
    now = timezone.now()
    row = KeptAnswer.objects.filter(name=_MARK).first()
    if row is None or not clock.is_within(row.taken_at, _NOTED_EVERY, now):
        text = ascii(hop[:_SHOWN_CHARACTERS]) if hop else "nothing"
        peer = request.META.get("REMOTE_ADDR", "")
        logger.warning("the proxy %s wrote %s where the client's address belongs: see PROXY_COUNT", peer, text)
        KeptAnswer.objects.update_or_create(
            name=_MARK, defaults={"content": cbor2.dumps([peer, text]), "taken_at": now, "took_s": 0}
        )
    return True


def found_lately() -> tuple[str, str] | None:
    """Return the last proxy that did not report a client, and what it wrote; None if there was none within a day."""
    row = KeptAnswer.objects.filter(name=_MARK).first()
    if row is None or not clock.is_within(row.taken_at, _STANDS_FOR, timezone.now()):
        return None
    peer, text = cbor2.loads(bytes(row.content))
    return str(peer), str(text)
