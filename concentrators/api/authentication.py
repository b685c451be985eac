"""Authentication of concentrators by token, and limits on how often each may call."""

import logging
import time
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from limits import parse
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry
from rest_framework import authentication, exceptions, permissions, throttling
from rest_framework.request import Request

from ami_headend.core import broker_errors
from ami_headend.core.broker_errors import BROKER_ERRORS
from concentrators.fleet import tokens
from concentrators.models import Concentrator, ConcentratorToken

logger = logging.getLogger(__name__)


class BearerTokenAuthentication(authentication.BaseAuthentication):
    """``Authorization: Bearer TOKEN`` (RFC 6750) of a concentrator; the same answer for every invalid token."""

    def authenticate(self, request: Request) -> tuple[Concentrator, ConcentratorToken] | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        row = tokens.find(token.strip(), timezone.now())
        if row is None:
            raise exceptions.AuthenticationFailed("The bearer token is unknown, expired or revoked.")
        return row.concentrator, row

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="ami-headend"'


class BearerTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Describes the bearer token in the API's schema."""

    target_class = BearerTokenAuthentication
    name = "concentratorToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}


class IsConcentrator(permissions.BasePermission):
    """Only a concentrator, by its token; a person's session is not accepted."""

    def has_permission(self, request: Request, view: Any) -> bool:
        return isinstance(request.user, Concentrator)


def concentrator_id(request: Request) -> int:
    """Return the id of the concentrator of a request that IsConcentrator admitted."""
    return int(request.user.pk or 0)


class RateThrottle(throttling.BaseThrottle):
    """Limits the requests of one concentrator; without Redis, nothing is limited."""

    scope: str
    setting: str

    def __init__(self) -> None:
        self._rate = parse(getattr(settings, self.setting))
        self._limiter = _limiter()
        self._key: tuple[str, str] = (self.scope, "")

    def allow_request(self, request: Request, view: Any) -> bool:
        self._key = (self.scope, str(request.user.pk))
        try:
            return broker_errors.redis.ask(lambda: self._limiter.hit(self._rate, *self._key))
        except BROKER_ERRORS as error:
            logger.warning("%s rate not limited: Redis does not answer (%s)", self.scope, type(error).__name__)
            return True

    def wait(self) -> float:
        try:
            stats = broker_errors.redis.ask(lambda: self._limiter.get_window_stats(self._rate, *self._key))
        except BROKER_ERRORS:
            return 1.0
        return max(1.0, stats.reset_time - time.time())


class UplinkThrottle(RateThrottle):
    """At most UPLINK_RATE uplinks; the backlog is a separate limit."""

    scope = "uplink"
    setting = "UPLINK_RATE"


class CommandThrottle(RateThrottle):
    """At most COMMAND_RATE polls for commands."""

    scope = "command"
    setting = "COMMAND_RATE"


class UplinkStatusThrottle(RateThrottle):
    """At most UPLINK_STATUS_RATE queries of the status of uplinks."""

    scope = "uplink status"
    setting = "UPLINK_STATUS_RATE"


class ReceiptThrottle(RateThrottle):
    """At most RECEIPT_RATE receipts of commands."""

    scope = "receipt"
    setting = "RECEIPT_RATE"


class HopKeysThrottle(RateThrottle):
    """At most HOP_RATE requests for hop keys."""

    scope = "hop keys"
    setting = "HOP_RATE"


class NextKeyThrottle(RateThrottle):
    """At most HOP_RATE requests for the concentrator's next key."""

    scope = "next key"
    setting = "HOP_RATE"


class HopFailuresThrottle(RateThrottle):
    """At most HOP_RATE reports of dropped frames."""

    scope = "hop failures"
    setting = "HOP_RATE"


@lru_cache(maxsize=1)
def _limiter() -> SlidingWindowCounterRateLimiter:
    url = settings.REDIS_URL
    if url.startswith("unix://"):
        url = "redis+" + url
    never: Any = Retry(NoBackoff(), 0)  # otherwise it would retry for several seconds
    return SlidingWindowCounterRateLimiter(
        storage_from_string(url, socket_timeout=1, socket_connect_timeout=1, retry=never)
    )
