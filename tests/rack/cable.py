"""A bad cable: what a host and some others send each other comes late, or is lost now and then.

The kernel's own way (netem) is missing in many kernels. Here the host's cable is taken off the bridge, and a thread of
the runner carries each frame between the two ends: late, or not at all.
"""

import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count

from tests.rack.hosts import BRIDGE, Host, HostError, ip

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_ALL_PROTOCOLS, _IPV4, _LONGEST = 0x0003, b"\x08\x00", 65_600
# The sender's kernel leaves check sums and the cutting of segments to a card. No card does it here, so it must not.
_OFF = """
import array, fcntl, socket, struct
with socket.socket() as any_:
    for number in (0x17, 0x1F, 0x23, 0x2C):  # ETHTOOL_STXCSUM, _STSO, _SGSO, _SGRO
        value = array.array("I", [number, 0])
        try:
            fcntl.ioctl(any_, 0x8946, struct.pack("16sP", b"eth0", value.buffer_info()[0]))
        except OSError:
            pass
"""


class _Carrier(threading.Thread):
    """Carries frames between a host's end and the bridge's; bad are those between the host and the peers."""

    def __init__(self, host: Host, peers: Sequence[Host], late_s: float, lost: float) -> None:
        super().__init__(name=f"cable of {host.name}")
        self._peers = {socket.inet_aton(peer.address) for peer in peers}
        self._late_s, self._lost = late_s, lost
        self._random, self._order = random.Random(host.number), count()
        self._waiting: list[tuple[float, int, bool, bytes]] = []
        self._ended = threading.Event()
        self._cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        self._cable.bind((f"to-{host.name}", _ALL_PROTOCOLS))
        self._tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self._tap, _TUNSETIFF, struct.pack("16sH", f"bad-{host.name}".encode(), _IFF_TAP | _IFF_NO_PI))

    def run(self) -> None:
        while not self._ended.is_set():
            left_s = self._waiting[0][0] - time.monotonic() if self._waiting else 0.2
            ends = [self._cable.fileno(), self._tap]
            for end in select.select(ends, [], [], max(0.0, min(left_s, 0.2)))[0]:
                self._take(comes_from_host=end != self._tap)
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, comes_from_host, frame = heapq.heappop(self._waiting)
                self._give(frame, comes_from_host=comes_from_host)

    def _take(self, *, comes_from_host: bool) -> None:
        with suppress(BlockingIOError):
            if comes_from_host:
                frame, address = self._cable.recvfrom(_LONGEST)
                if address[2] == socket.PACKET_OUTGOING:  # what was given here
                    return
            else:
                frame = os.read(self._tap, _LONGEST)
            peer = frame[30:34] if comes_from_host else frame[26:30]
            is_bad = frame[12:14] == _IPV4 and peer in self._peers
            if is_bad and self._random.random() < self._lost:
                return
            at_s = time.monotonic() + (self._late_s if is_bad else 0.0)
            heapq.heappush(self._waiting, (at_s, next(self._order), comes_from_host, frame))

    def _give(self, frame: bytes, *, comes_from_host: bool) -> None:
        with suppress(OSError):  # a full queue, or a host that is gone: lost, as on a real cable
            if comes_from_host:
                os.write(self._tap, frame)
            else:
                self._cable.send(frame)

    def end(self) -> None:
        self._ended.set()
        self.join()
        self._cable.close()
        os.close(self._tap)


@contextmanager
def bad_cable(host: Host, peers: Sequence[Host], *, late_s: float = 0.0, lost: float = 0.0) -> Iterator[None]:
    """What a host and its peers send each other comes ``late_s`` late each way, or is lost with a probability."""
    subprocess.run(["nsenter", "--target", str(host.pid), "--net", sys.executable, "-c", _OFF], check=True)
    carrier = _Carrier(host, peers, late_s, lost)
    ip("link", "set", f"bad-{host.name}", "up")
    ip("link", "set", f"to-{host.name}", "nomaster", "promisc", "on")
    ip("link", "set", f"bad-{host.name}", "master", BRIDGE)
    carrier.start()
    try:
        yield
    finally:
        carrier.end()
        with suppress(HostError):
            ip("link", "set", f"to-{host.name}", "promisc", "off", "master", BRIDGE)
