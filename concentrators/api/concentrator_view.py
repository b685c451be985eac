"""What every door of concentrators has: who may come, how often, and how many octets a request may bring."""

from typing import Any

from rest_framework import exceptions, status
from rest_framework.request import Request
from rest_framework.views import APIView

from concentrators.api.authentication import BearerTokenAuthentication, IsConcentrator


class TooLarge(exceptions.APIException):
    """More octets than a request may have; nothing was stored."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE


class ConcentratorView(APIView):
    """A door of concentrators. It names its rate, and is refused a longer body before any of it is looked at."""

    authentication_classes = (BearerTokenAuthentication,)
    permission_classes = (IsConcentrator,)

    def octets_max(self) -> int:
        """How many octets the body of a request may have."""
        return 0

    def too_long(self) -> str:
        """What is said to who sends more."""
        return f"The body of a request to this address has {self.octets_max()} octets at most."

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if int(request.META.get("CONTENT_LENGTH") or 0) > self.octets_max():
            raise TooLarge(self.too_long())
