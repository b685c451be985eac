"""The one socket on which the web server listens; all its processes accept from it."""

import socket

from ami_headend.server.loop import BACKLOG


def listen(host: str, port: int) -> socket.socket:
    """Return the socket from which all processes accept; OSError if the address cannot be used."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(address)
    listening.listen(BACKLOG)
    listening.setblocking(False)
    return listening
