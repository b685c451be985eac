"""Clients that no library would let be so rude: raw sockets that stop half-way, drip, and do not read."""

import socket
import time
from contextlib import suppress

TIMEOUT_S = 20.0


def connected(port: int, receive_octets: int | None = None) -> socket.socket:
    """A connection; with a small buffer, so that what is not read is soon not sent either."""
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if receive_octets is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_octets)
    client.settimeout(TIMEOUT_S)
    client.connect(("127.0.0.1", port))
    return client


def sent(port: int, octets: bytes, receive_octets: int | None = None) -> socket.socket:
    """A connection over which so much was sent, and nothing more."""
    client = connected(port, receive_octets)
    client.sendall(octets)
    return client


def head(method: str, path: str, **headers: str) -> bytes:
    """A request's head; names of headers with _ for -."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def answer_of(client: socket.socket) -> bytes:
    """All that is answered until the server closes the connection, or sends nothing for a while."""
    parts = []
    with suppress(TimeoutError, ConnectionError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def asked(port: int, octets: bytes) -> bytes:
    """The whole answer to octets, after which nothing more is sent."""
    with sent(port, octets) as client:
        client.shutdown(socket.SHUT_WR)
        return answer_of(client)


def drip_until_closed(client: socket.socket, octets: bytes, every_s: float, within_s: float) -> bytes:
    """Sends octet by octet until the server answers or closes; gives what it said. Fails where it never does."""
    client.settimeout(every_s)
    began_s = time.monotonic()
    for octet in octets * 1000:
        if time.monotonic() - began_s > within_s:
            raise AssertionError(f"the server let a client drip for {within_s:g} s")
        with suppress(TimeoutError):
            said = client.recv(4096)
            client.settimeout(TIMEOUT_S)
            return said + answer_of(client)
        client.send(bytes([octet]))
    raise AssertionError("not reached")
