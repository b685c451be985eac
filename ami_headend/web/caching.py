"""What browsers and proxies may store of our answers: nothing, unless a door declares it public."""

from collections.abc import Callable

from django.http import HttpRequest
from django.http.response import HttpResponseBase


class NoStore:
    """Middleware: ``Cache-Control: no-store`` on every answer that is not marked public (RFC 9111 section 5.2.2.5).

    So readings, the status of keys and names of accounts stay in no disk cache, not even the browser's.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if "public" not in response.get("Cache-Control", ""):
            response["Cache-Control"] = "no-store, private"
        return response
