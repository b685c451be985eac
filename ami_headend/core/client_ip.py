"""The address that a request came from, even behind proxies."""

import re
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

_IPV6_CUSTOMER_BITS = 64  # a customer can use any address of such a network
_UNREAD = "ami_headend.unread_hop"
# An address, perhaps with a port, as proxies write it: 192.0.2.1:4711, [2001:db8::1], [2001:db8::1]:4711.
_WITH_PORT = re.compile(r'"?(?:\[([^\]]+)\]|([0-9.]+))(?::[0-9]{1,5})?"?')


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class ForwardedAddress:
    """Middleware: sets REMOTE_ADDR to the address that the outermost of our own proxies saw.

    Each of the PROXY_COUNT proxies appends the address of its client to X-Forwarded-For. Entries further to the left
    came from the client and are ignored. If the entry is not an address, REMOTE_ADDR stays the proxy's own, and
    ``unread_hop`` returns the entry.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if settings.PROXY_COUNT > 0:
            seen = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
            hop = seen[-settings.PROXY_COUNT] if len(seen) >= settings.PROXY_COUNT else ""
            address = read_hop(hop)
            if address is None:
                request.META[_UNREAD] = hop.strip()
            else:
                request.META["REMOTE_ADDR"] = address
        return self.get_response(request)


def read_hop(text: str) -> str | None:
    """Return the address that a proxy wrote, without its port; None if it is not an address."""
    text = text.strip()
    if match := _WITH_PORT.fullmatch(text):
        text = match[1] or match[2]
    try:
        return str(ip_address(text.partition("%")[0]))
    except ValueError:
        return None


def unread_hop(request: HttpRequest) -> str | None:
    """Return the entry that should be the client's address but is not an address; None if all is well."""
    return request.META.get(_UNREAD)


def client_address(request: HttpRequest) -> str | None:
    """Return the address under which attempts are counted: for IPv6, the /64 network. None if unknown."""
    try:
        address = ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((address, _IPV6_CUSTOMER_BITS), strict=False).network_address)
    return str(address)
