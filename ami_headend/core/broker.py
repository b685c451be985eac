"""Redis as Celery's broker. Anything in a queue that is not a message is thrown away and logged."""

import logging
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis

logger = logging.getLogger(__name__)

_NO_MESSAGE = (ValueError, TypeError, LookupError, AttributeError)


class BrokerChannel(redis.Channel):
    """kombu's channel, but its worker survives entries of a queue that are not messages."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # kombu's types leave it out
        except _NO_MESSAGE:
            logger.exception("an entry of a queue was not a message of ours and was thrown away")
            return None


class Transport(redis.Transport):
    """kombu's transport, with this channel."""

    Channel = BrokerChannel


def use() -> None:
    """Make the addresses redis:// and rediss:// mean this transport in this process."""
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))
