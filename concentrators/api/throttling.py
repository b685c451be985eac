"""Limits on how often a concentrator may call each address, counted in Redis over sliding windows."""

import logging
import time
from functools import lru_cache
from typing import Any, NamedTuple

from django.conf import settings
from limits import RateLimitItem, parse
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry
from rest_framework import throttling
from rest_framework.request import Request

from ami_headend.core import broker_errors
from ami_headend.core.broker_errors import BROKER_ERRORS

logger = logging.getLogger(__name__)


class Rate(NamedTuple):
    """How often a concentrator may come to a door: what is counted together, and the setting with the limit."""

    scope: str
    setting: str


class RateThrottle(throttling.BaseThrottle):
    """At most as many requests of one concentrator as the door's ``rate`` says; without Redis none is refused."""

    def __init__(self) -> None:
        self._limiter = _limiter()

    def allow_request(self, request: Request, view: Any) -> bool:
        rate: Rate = view.rate
        key = rate.scope, str(request.user.pk)
        self._counted: tuple[RateLimitItem, str, str] = (parse(getattr(settings, rate.setting)), *key)
        try:
            return bool(broker_errors.redis.ask(lambda: self._limiter.hit(*self._counted)))
        except BROKER_ERRORS as error:
            logger.warning("%s rate not limited: Redis does not answer (%s)", rate.scope, type(error).__name__)
            return True

    def wait(self) -> float:
        try:
            stats = broker_errors.redis.ask(lambda: self._limiter.get_window_stats(*self._counted))
        except BROKER_ERRORS:
            return 1.0
        return max(1.0, stats.reset_time - time.time())


@lru_cache(maxsize=1)
def _limiter() -> SlidingWindowCounterRateLimiter:
    url = settings.REDIS_URL
    if url.startswith("unix://"):
        url = "redis+" + url
    never: Any = Retry(NoBackoff(), 0)  # otherwise it would retry for several seconds
    return SlidingWindowCounterRateLimiter(
        storage_from_string(url, socket_timeout=1, socket_connect_timeout=1, retry=never)
    )
