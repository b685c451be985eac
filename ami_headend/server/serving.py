"""One process of the web server, set up from the settings; it runs until it is stopped."""

import gc
import signal
import socket
import sys

from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections

from ami_headend.celery import app
from ami_headend.server.channel import Deadlines
from ami_headend.server.loop import Server, ServerLimits
from ami_headend.server.pools import Pools, Size
from ami_headend.server.request_classes import Pool

STOP_S = 10.0
_ANSWER_GRACE_S = 30.0
_ANSWER_OCTETS_PER_S = 4096.0
_REDIS_S = 1.0
_SWITCH_S = 0.002  # the longest that a computing thread runs before others get a turn, so that posts do not wait long


def sizes() -> dict[Pool, Size]:
    """Return the number of threads of each pool in a process, and its deadline."""
    return {
        Pool.LIVE: Size(1, 5.0),
        Pool.WATCH: Size(2, settings.WEB_PROBE_S),
        Pool.INGEST: Size(settings.WEB_INGEST_THREADS, settings.WEB_POST_S),
        Pool.SIGN_IN: Size(1, settings.WEB_PAGE_S),
        Pool.PROGRAM: Size(settings.WEB_PROGRAM_THREADS, settings.WEB_PAGE_S),
        Pool.EXPORT: Size(settings.WEB_EXPORT_THREADS, settings.WEB_EXPORT_S),
        Pool.PEOPLE: Size(settings.WEB_PAGE_THREADS, settings.WEB_PAGE_S),
    }


def limits() -> ServerLimits:
    """Return the limits of a process by the settings."""
    deadlines = Deadlines(
        min(settings.WEB_HEAD_S, settings.WEB_REQUEST_S),
        settings.WEB_REQUEST_S,
        settings.WEB_IDLE_S,
        settings.WEB_ANSWER_S,
        min(_ANSWER_GRACE_S, settings.WEB_ANSWER_S),
        _ANSWER_OCTETS_PER_S,
    )
    return ServerLimits(
        deadlines,
        settings.WEB_CONNECTIONS,
        settings.WEB_SPOOL_OCTETS,
        settings.UPLINK_MAX_OCTETS,
        settings.URL_PREFIX,
        STOP_S,
    )


def serve(application: WSGIHandler, listening: socket.socket, alive: int, lifesigns: int) -> None:
    """Serve until SIGTERM, or until the other end of the pipe ``alive`` is closed.

    Signs of life go to the pipe ``lifesigns``.
    """
    connections.close_all()
    # A stored post does not wait long for Redis: the sweep enqueues what Redis did not take.
    app.conf.broker_transport_options |= {"socket_timeout": _REDIS_S, "socket_connect_timeout": _REDIS_S}
    gc.enable()
    sys.setswitchinterval(_SWITCH_S)
    pools = Pools(sizes())
    server = Server(application, listening, pools, limits())
    server.stop_when_closed(alive)
    server.show_life_to(lifesigns)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    server.run()
    pools.shutdown()
