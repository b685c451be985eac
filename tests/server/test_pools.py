"""A request is answered within the seconds of its pool, those in which it waited for a thread among them."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ami_headend.server.pools import Size, _Threads

ANSWER_S = 4.0


class Blocking:
    """A channel whose request is answered when it is let go."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def service(self) -> None:
        self.began.set()
        self.go.wait(30)


@pytest.fixture
def pool() -> Iterator[_Threads]:
    threads = _Threads("test", Size(1, ANSWER_S))
    yield threads
    threads.stop()


def queued(pool: _Threads) -> Blocking:
    channel: Any = Blocking()
    assert pool.put(channel)
    blocking: Blocking = channel
    return blocking


def test_half_of_the_time_is_for_waiting_and_what_waited_has_the_rest(
    pool: _Threads, caplog: pytest.LogCaptureFixture
) -> None:
    first = queued(pool)
    assert first.began.wait(5)
    at_s = time.monotonic()
    second, third = queued(pool), queued(pool)
    assert pool.overdue(at_s + ANSWER_S / 2 - 0.5) == []
    first.go.set()
    assert second.began.wait(5)
    assert pool.overdue(at_s + ANSWER_S / 2 + 1) == [third]
    assert "no answer within" not in caplog.text
    # Counted from when it came, not from when a thread was free for it.
    assert pool.overdue(at_s + ANSWER_S + 2) == []
    assert "no answer within 4 s" in caplog.text
    second.go.set()


def test_a_pool_whose_threads_never_end_is_stuck(pool: _Threads) -> None:
    at_s = time.monotonic()
    assert not pool.is_stuck(at_s + 1_000)
    blocked = queued(pool)
    assert blocked.began.wait(5)
    assert not pool.is_stuck(at_s + 2 * ANSWER_S + 29)
    assert pool.is_stuck(time.monotonic() + 2 * ANSWER_S + 31)
    blocked.go.set()
