"""Where the head-end does not connect to, though an administrator gave the address (WEBHOOK_REFUSED_NETWORKS).

The name is looked up once, and every address is checked, including embedded ones (NAT64, 6to4, Teredo); the connection
goes to a checked one.
"""

import ipaddress
import socket
from collections.abc import Sequence

from django.conf import settings

from ami_headend.core.timed_exchange import Exchange
from ami_headend.core.transition_addresses import Address, Network, standing_for


class RefusedAddressError(ValueError):
    """An address that may not be used; the message says why and what to do. The administrator's mistake."""


def check_host(host: str) -> None:
    """Raise RefusedAddressError if a host is an address that is refused. A name is checked when it is looked up."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return
    _check(address)


def connect(this: Exchange, host: str, port: int) -> socket.socket:
    """Return a connection to a host, within the time of an exchange. RefusedAddressError, OSError."""
    addresses = this.look_up(host, port)
    for address in addresses:
        _check(ipaddress.ip_address(address))
    return this.connect(addresses, port)


def _check(address: Address) -> None:
    for one in standing_for(address):
        if one.is_multicast or one.is_unspecified or any(one in network for network in _refused()):
            raise RefusedAddressError(
                "Nothing is sent to this address (WEBHOOK_REFUSED_NETWORKS): it is this machine, a "
                "neighbour on its link, or the provider's metadata."
            )


def _refused() -> Sequence[Network]:
    return [ipaddress.ip_network(text) for text in settings.WEBHOOK_REFUSED_NETWORKS]
