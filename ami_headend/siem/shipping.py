"""Ships security events: claims a batch, sends it outside any transaction, and then stores the outcome.

At least once: a worker that dies after the receiver has read a batch leaves it to be sent again, with the same ids.
"""

import logging
import socket
import time
from urllib.parse import urlsplit

from django.conf import settings
from django.utils import timezone

from ami_headend.siem import pending, receiver
from ami_headend.siem.formats import FORMATS
from ami_headend.siem.receiver import NotReadError

logger = logging.getLogger(__name__)


def ship_for(seconds: float) -> int:
    """Send what is due for some seconds; return how many events were sent."""
    if not pending.switch(is_on=bool(settings.SIEM_URL)):
        return 0
    end, sent = time.monotonic() + seconds, 0
    while rows := pending.claim(claimed_at := timezone.now()):
        write, host = FORMATS[settings.SIEM_FORMAT], host_name()
        messages = [write(event, host, settings.SIEM_ENTERPRISE) for event in pending.events_of(rows)]
        try:
            if messages:
                receiver.send(messages)
        except NotReadError as error:
            logger.warning("%d security events were not sent: %s", len(messages), error)
            pending.note_failure(str(error), claimed_at, timezone.now())
            break
        pending.note_sent(rows, claimed_at, timezone.now())
        sent += len(messages)
        if time.monotonic() > end:
            break
    return sent


def host_name() -> str:
    """Return the name of this head-end in messages: the host of PUBLIC_URL, or this machine's."""
    return urlsplit(settings.PUBLIC_URL).hostname or socket.gethostname()
