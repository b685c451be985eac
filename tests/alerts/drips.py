"""Peers that speak an octet at a time and never end: each octet starts a socket's own timeout anew."""

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

OCTET_EVERY_S = 0.05
SMTP = b"220 here\r\n", b"250-here\r\n250 STARTTLS\r\n", b"220 go on\r\n"
MAIL_TAKEN = (*SMTP[:1], b"250 here\r\n", b"250 sender\r\n", b"250 recipient\r\n", b"354 data\r\n", b"250 taken\r\n")
TLS_RECORD = b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03"  # a ServerHello that goes on for 16 KB


class Dripper:
    """What listens at ``port``; ``heard`` is what was said to it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heard = b""


@contextmanager
def dripping(text: bytes, quick: Iterable[bytes] = ()) -> Iterator[Dripper]:
    """A peer that says each of ``quick`` at once, an answer to each line or so, then ``text`` by octets without end."""
    stop = threading.Event()
    said = list(quick)

    def serve(connected: socket.socket) -> None:
        with connected, suppress(OSError):
            for number, part in enumerate(said):
                if number:
                    peer.heard += connected.recv(65_536)
                    while part.startswith(b"250 taken") and not peer.heard.endswith(b"\r\n.\r\n"):
                        peer.heard += connected.recv(65_536)
                connected.sendall(part)
            while text and not stop.is_set():
                for octet in text:
                    connected.sendall(bytes([octet]))
                    if stop.wait(OCTET_EVERY_S):
                        return
            stop.wait()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = Dripper(listening.getsockname()[1])
        threading.Thread(target=accept, daemon=True).start()
        yield peer
        stop.set()
        listening.shutdown(socket.SHUT_RDWR)
