"""The base of all views of concentrators: authentication, rate, and the most octets of a request."""

from typing import Any

from rest_framework import exceptions, status
from rest_framework.request import Request
from rest_framework.views import APIView

from concentrators.api.authentication import BearerTokenAuthentication, IsConcentrator
from concentrators.api.throttling import Rate, RateThrottle


class TooLarge(exceptions.APIException):
    """The request has too many octets; nothing was stored."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE


class ConcentratorView(APIView):
    """A view for concentrators. It sets its rate, and refuses too long a body before reading it."""

    authentication_classes = (BearerTokenAuthentication,)
    permission_classes = (IsConcentrator,)
    throttle_classes = (RateThrottle,)
    rate: Rate

    def octets_max(self) -> int:
        """Return the most octets that the body of a request may have."""
        return 0

    def too_long(self) -> str:
        """Return the message for a longer body."""
        return f"The body of a request to this address may have at most {self.octets_max()} octets."

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if int(request.META.get("CONTENT_LENGTH") or 0) > self.octets_max():
            raise TooLarge(self.too_long())
