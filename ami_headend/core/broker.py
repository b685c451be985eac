"""Redis as Celery's broker, without belief in what stands there: what is no message is thrown away, and said."""

import logging
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

logger = logging.getLogger(__name__)

_NO_MESSAGE = (ValueError, TypeError, LookupError, AttributeError)


class BrokerChannel(redis.Channel):
    """kombu's channel, whose worker does not end where somebody has put something else into a queue."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # kombu's types leave it out
        except _NO_MESSAGE:
            logger.exception("what stood in a queue is no message of ours: it was thrown away")
            return None


class Transport(redis.Transport):
    """kombu's transport by this channel."""

    Channel = BrokerChannel


def use() -> None:
    """Have addresses redis:// and rediss:// mean this transport in this process."""
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))
