"""Limits on how often a concentrator may call each address."""

from typing import Any, NamedTuple

from django.conf import settings
from rest_framework import throttling
from rest_framework.request import Request

from ami_headend.core import rate_limits
from ami_headend.core.rate_limits import Counted


class Rate(NamedTuple):
    """How often a concentrator may come to a door: what is counted together, and the setting with the limit."""

    scope: str
    setting: str


class RateThrottle(throttling.BaseThrottle):
    """At most as many requests of one concentrator as the door's ``rate`` says; without Redis none is refused."""

    def allow_request(self, request: Request, view: Any) -> bool:
        rate: Rate = view.rate
        self._rate = getattr(settings, rate.setting)
        self._counted = Counted(rate.scope, str(request.user.pk))
        return rate_limits.allows(self._rate, self._counted)

    def wait(self) -> float:
        return rate_limits.wait_s(self._rate, self._counted)
