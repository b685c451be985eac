"""The address that a request came from, also behind proxies."""

from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv6Address, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

_IPV6_CUSTOMER_BITS = 64  # one customer has as many addresses as it likes in such a network


class ForwardedAddress:
    """Middleware: makes REMOTE_ADDR the address that the outermost of our own proxies saw.

    Each of the PROXY_COUNT proxies appends the address that it was asked from to X-Forwarded-For; what
    stands further to the left came from the client, and is believed by nobody.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        seen = [hop.strip() for hop in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")]
        if 0 < settings.PROXY_COUNT <= len(seen):
            with suppress(ValueError):  # no address: the proxy's own stays, which is known to be true
                request.META["REMOTE_ADDR"] = str(ip_address(seen[-settings.PROXY_COUNT]))
        return self.get_response(request)


def client_address(request: HttpRequest) -> str | None:
    """The address to count attempts by: of IPv6 the network of one customer, /64. None where it is not known."""
    try:
        address = ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((address, _IPV6_CUSTOMER_BITS), strict=False).network_address)
    return str(address)
