"""The watch of a web host, a process beside those that answer: it tells the database that the host lives and how it is,
and evaluates the rules of alerts while no worker does.
"""

import os
import select
import signal
import socket
import threading
from functools import partial

from django.conf import settings
from django.db import connections

from ami_headend.alerts.standing_in import StandIn
from ami_headend.health import heartbeats, host
from ami_headend.server import lifesigns
from ami_headend.server.supervisor import Serve

_TURN_S = 1.0


def watching(processes: int) -> Serve:
    """Return the watch beside so many processes that answer."""
    return partial(_watch, processes)


def _watch(processes: int, listening: socket.socket, alive: int, signs: int) -> None:
    """Watch until SIGTERM, or until the other end of the pipe ``alive`` is closed. Signs of life go to ``signs``."""
    listening.close()
    connections.close_all()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    heartbeats.keep(heartbeats.web_name(os.uname().nodename), heartbeats.WEB, [], processes, host.of_worker)
    if settings.ALERT_STAND_IN_AFTER_S:
        StandIn().start()
    while not ended.is_set():
        lifesigns.show(signs)
        if select.select([alive], [], [], _TURN_S)[0]:
            return  # the supervisor was killed: this host did not end properly, and its heartbeat says so
    heartbeats.end()
