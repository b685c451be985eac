"""How often a caller may come, counted in Redis over sliding windows. Without Redis nobody is refused."""

import logging
import time
from functools import lru_cache
from typing import Any, NamedTuple

from django.conf import settings
from limits import parse
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from ami_headend.core import broker_errors
from ami_headend.core.broker_errors import BROKER_ERRORS

logger = logging.getLogger(__name__)


class Counted(NamedTuple):
    """What is counted together: the name of the limit, and the caller."""

    name: str
    caller: str


def allows(rate: str, counted: Counted) -> bool:
    """Count one call, and return whether it keeps to the rate (``600/minute``)."""
    try:
        return bool(broker_errors.redis.ask(lambda: limiter().hit(parse(rate), *counted)))
    except BROKER_ERRORS as error:
        logger.warning("%s rate not limited: Redis does not answer (%s)", counted.name, type(error).__name__)
        return True


def has_room(rate: str, counted: Counted) -> bool:
    """Return whether one call more would keep to the rate; count nothing."""
    try:
        return bool(broker_errors.redis.ask(lambda: limiter().test(parse(rate), *counted)))
    except BROKER_ERRORS:
        return True


def wait_s(rate: str, counted: Counted) -> float:
    """Return the seconds until the caller may come again, at least one."""
    try:
        stats = broker_errors.redis.ask(lambda: limiter().get_window_stats(parse(rate), *counted))
    except BROKER_ERRORS:
        return 1.0
    return max(1.0, stats.reset_time - time.time())


@lru_cache(maxsize=1)
def limiter() -> SlidingWindowCounterRateLimiter:
    """Return the limiter of this process."""
    url = settings.REDIS_URL
    if url.startswith("unix://"):
        url = "redis+" + url
    never: Any = Retry(NoBackoff(), 0)  # otherwise it would retry for several seconds
    return SlidingWindowCounterRateLimiter(
        storage_from_string(url, socket_timeout=1, socket_connect_timeout=1, retry=never)
    )
