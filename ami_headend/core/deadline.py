"""A deadline for whatever a block does, such as a read from a server that hangs and so keeps no timeout itself."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class DeadlineError(Exception):
    """The time was over."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises DeadlineError inside the block once its time is over. Not to be nested.

    By SIGALRM, which Python gives to the main thread alone: in another thread the block runs without one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum: int, frame: FrameType | None) -> None:
        raise DeadlineError

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
