"""A receiver of webhooks over real HTTP, as somebody else would write one: it verifies with a library of its own."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError


@dataclass
class Receiver:
    """What came, in order, once verified; ``answers`` are the next statuses (200 when there are none)."""

    port: int
    host: str = "127.0.0.1"
    secret: str = ""
    answers: list[int] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    forged: int = 0
    during: Callable[[], None] = lambda: None  # called while a message is being taken

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/hooks/ami?x=1"

    def take(self, headers: dict[str, str], body: bytes) -> int:
        try:
            Webhook(self.secret).verify(body, headers)
        except WebhookVerificationError:
            self.forged += 1
            return 401
        self.ids.append(headers["webhook-id"])
        self.headers.append(headers)
        self.bodies.append(body)
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            self.messages.append(json.loads(body))
        return status

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]


@contextmanager
def kept_place() -> Iterator[socket.socket]:
    """A port on loopback where nobody listens yet: it refuses whoever connects, and nobody else can take it."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        yield place


@contextmanager
def receiving(place: socket.socket | None = None, host: str = "127.0.0.1") -> Iterator[Receiver]:
    """A receiver of a host, until the block ends; at a ``place`` that refused so far, or at a new one."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.during()
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.take({**headers, "path": self.path}, body)
            self.send_response(status)
            if status in (301, 307):
                self.send_header("Location", receiver.url)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Not into the output of the tests."""

    with ThreadingHTTPServer((host, 0), Handler, bind_and_activate=place is None) as server:
        if place is not None:
            server.socket.close()
            server.socket, server.server_address = place, place.getsockname()
            server.server_activate()
        receiver = Receiver(server.server_address[1], host)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
