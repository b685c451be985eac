"""A DLMS meter that pushes over TCP, through the proxy, to the listener of a web host.

Nothing answers a push. What was in memory of a listener that is killed is lost unless the meter sends it again, so the
meter notes when its connection broke, and sends all of it once more at the end.
"""

import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event

from django.db import connections

from concentrators.fleet import registry
from concentrators.models import Concentrator, Uplink
from concentrators.simulator.notifications import notification
from concentrators.simulator.packs import interval_payload
from meters.models import PushProfile, Reading
from tests.concentrators.dlms_devices import DlmsDevice, dlms_meter, profile
from tests.concentrators.fleet import HALF_HOUR_S, INTERVAL, START_S, register_id
from tests.concentrators.listener.test_cutters import wrapped
from tests.flows.load import FIRST
from tests.flows.site import wait_verified
from tests.flows.stack import wait_for
from tests.rack.services import LISTENED_TO, LISTENER_PORT

_MAKER = b"RCK"
_PAUSE_S, _TIMEOUT_S = 0.3, 5.0
_DEFINITION = {"kind": "obis", "clock": {"from": "apdu"}, "interval_time": "start"}


def prepare() -> None:
    """The concentrator that the listeners are told of is there and active, and so is the form of the notifications."""
    concentrator = Concentrator.objects.filter(name=LISTENED_TO).first() or Concentrator(name=LISTENED_TO)
    concentrator.is_active = True
    registry.save(concentrator, ["is_active"])
    if not PushProfile.objects.filter(name="rack").exists():
        profile(_apdu(0), _MAKER + bytes(5), _DEFINITION, "rack")


def _apdu(interval: int) -> bytes:
    return notification(interval_payload(START_S + interval * HALF_HOUR_S, 10_000 + interval, _wh(interval)), 1)


def _wh(interval: int) -> int:
    return 100 + interval % 1_000


@dataclass
class PushMeter:
    """A meter that pushes an interval after the other; ``broke`` counts connections that ended under it."""

    host: str
    device: DlmsDevice = field(init=False)
    pushed: int = 0
    broke: int = 0
    ended: Event = field(default_factory=Event)

    def __post_init__(self) -> None:
        concentrator = Concentrator.objects.get(name=LISTENED_TO)
        self.device = dlms_meter(_MAKER + secrets.token_bytes(5), secrets.token_bytes(32), concentrator)

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                self._push_while_open()
            except OSError:
                self.broke += 1
                self.ended.wait(_PAUSE_S)

    def _push_while_open(self) -> None:
        with socket.create_connection((self.host, LISTENER_PORT), timeout=_TIMEOUT_S) as link:
            while not self.ended.is_set():
                if self._is_closed(link):
                    raise ConnectionResetError
                self._send(link, self.pushed)
                self.pushed += 1
                self.ended.wait(_PAUSE_S)

    @staticmethod
    def _is_closed(link: socket.socket) -> bool:
        """Whether the other side has ended the connection: it never says anything."""
        link.setblocking(False)
        try:
            return link.recv(1) == b""
        except BlockingIOError:
            return False
        finally:
            link.settimeout(_TIMEOUT_S)

    def _send(self, link: socket.socket, number: int) -> None:
        link.sendall(wrapped(self.device.frame(_apdu(FIRST + number), number + 1)))

    def stored(self) -> dict[int, int]:
        """The energy of each interval that stands, by its number from 0 on; each stands once."""
        rows = Reading.objects.filter(meter=self.device.meter, register_id=register_id(INTERVAL))
        found = list(rows.values_list("captured_at", "value"))
        values = {(int(at.timestamp()) - START_S) // HALF_HOUR_S - FIRST: value for at, value in found}
        assert len(values) == len(found), "a push was stored twice"
        return values

    def assert_true(self, timeout_s: float) -> int:
        """What was pushed stands, each once; where a connection broke, after it is sent again. How many was lost."""
        connections.close_all()
        truth = {number: _wh(FIRST + number) for number in range(self.pushed)}
        if not self.broke:
            wait_for("every push is stored", lambda: self.stored() == truth, timeout_s)
            return 0
        with suppress(TimeoutError):
            self._wait_quiet(timeout_s)
        lost = sorted(truth.keys() - self.stored().keys())
        until = time.monotonic() + timeout_s
        while self.stored() != truth:
            assert time.monotonic() < until, f"not every push is stored within {timeout_s:.0f} s of sending it again"
            with suppress(OSError):  # the connection breaks once more: all of it is sent once more
                self._push_again(until)
        wait_verified(self._uplinks(), timeout_s)
        return len(lost)

    def _push_again(self, until: float) -> None:
        """Send everything once more, and wait for it; raises OSError where the connection ends before."""
        with socket.create_connection((self.host, LISTENER_PORT), timeout=_TIMEOUT_S) as link:
            for number in range(self.pushed):
                self._send(link, number)
            with suppress(TimeoutError):
                self._wait_quiet(until - time.monotonic())

    def _wait_quiet(self, timeout_s: float) -> None:
        """Wait until nothing comes any more of what listeners may still hold."""
        until, before, since = time.monotonic() + timeout_s, -1, time.monotonic()
        while time.monotonic() - since < 3:
            found = len(self.stored())
            if found != before:
                before, since = found, time.monotonic()
            if time.monotonic() > until:
                raise TimeoutError
            time.sleep(0.2)

    def _uplinks(self) -> list[int]:
        rows = Uplink.objects.filter(concentrator__name=LISTENED_TO).order_by("pk")
        return list(rows.values_list("pk", flat=True))
