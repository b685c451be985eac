"""IPv4 addresses inside IPv6 addresses of transition mechanisms."""

import ipaddress
from collections.abc import Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LAST_OCTETS_ARE_IPV4 = [
    ipaddress.IPv6Network(text)
    for text in (
        "::/96",  # IPv4-compatible, RFC 4291 section 2.5.5.1
        "::ffff:0:0/96",  # IPv4-mapped, RFC 4291 section 2.5.5.2
        "::ffff:0:0:0/96",  # IPv4-translated, RFC 2765
        "64:ff9b::/96",  # NAT64, RFC 6052
    )
]
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214: the interface identifier's first half


def standing_for(address: Address) -> Iterator[Address]:
    """Yield the address itself, and each IPv4 address at which packets to it may end.

    RFC 4291 (mapped, compatible), 6052 and 8215 (NAT64), 3056 (6to4), 4380 (Teredo: server and client), 5214 (ISATAP).
    """
    yield address
    if not isinstance(address, ipaddress.IPv6Address):
        return
    number = int(address)
    if any(address in network for network in _LAST_OCTETS_ARE_IPV4) or (number >> 32) & 0xFFFFFFFF in _ISATAP:
        yield ipaddress.IPv4Address(number & 0xFFFFFFFF)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in _LOCAL_NAT64:  # the operator chose the length of the prefix: RFC 6052 section 2.2
        octets = address.packed
        yield ipaddress.IPv4Address(octets[12:16])
        yield ipaddress.IPv4Address(octets[6:8] + octets[9:11])
        yield ipaddress.IPv4Address(octets[7:8] + octets[9:12])
        yield ipaddress.IPv4Address(octets[9:13])
