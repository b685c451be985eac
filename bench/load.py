"""The load: concentrators post ready bodies over open connections, each after the answer to the last."""

import http.client
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

CLIENTS = 4


class LoadError(Exception):
    """The server did not accept a body."""


class Body(NamedTuple):
    """A body to post, and the token of the concentrator that posts it."""

    token: str
    octets: bytes


class Posted(NamedTuple):
    """An accepted body: its uplink (None row by row), when it was sent (Unix), and how long the answer took."""

    uplink: int | None
    sent_at: float
    seconds: float


def post(
    port: int, path: str, content_type: str, bodies: Sequence[Body], per_second: float | None = None
) -> list[Posted]:
    """Post all bodies in turn with CLIENTS clients, as fast as they are accepted or at a steady pace."""
    began = time.time()
    turn = iter(range(len(bodies)))
    lock = threading.Lock()

    def client() -> list[Posted]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        posted: list[Posted] = []
        try:
            while True:
                with lock:
                    index = next(turn, None)
                if index is None:
                    return posted
                if per_second is not None:
                    time.sleep(max(0.0, began + index / per_second - time.time()))
                posted.append(_post(connection, path, content_type, bodies[index]))
        finally:
            connection.close()

    with ThreadPoolExecutor(CLIENTS) as executor:
        jobs = [executor.submit(client) for _ in range(CLIENTS)]
        return [posted for job in jobs for posted in job.result()]


def _post(connection: http.client.HTTPConnection, path: str, content_type: str, body: Body) -> Posted:
    headers = {"Content-Type": content_type, "Authorization": f"Bearer {body.token}"}
    sent_at = time.time()
    connection.request("POST", path, body.octets, headers)
    response = connection.getresponse()
    answer = response.read()
    seconds = time.time() - sent_at
    if response.status not in (200, 201, 202):
        raise LoadError(f"{path} answered {response.status}: {answer[:300]!r}")
    return Posted(json.loads(answer).get("uplink"), sent_at, seconds)
