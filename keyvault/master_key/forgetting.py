"""A thread in each process removes key octets from the memory of a process that is idle.

A destroyed version must not remain in a worker that has no frames to verify. OpenSSL overwrites the key, which it
holds; the text of the file is freed but not overwritten, because Python cannot do that.
"""

import os
import threading
import time
import weakref
from typing import Protocol

EVERY_S = 30.0  # the longest time for which a destroyed version is kept


class Forgetful(Protocol):
    """Holds key octets, and knows when to forget them."""

    def forget(self) -> None:
        """Forget everything."""

    def forget_what_changed(self) -> None:
        """Forget everything if the source has changed since it was read."""


_watched: "weakref.WeakSet[Forgetful]" = weakref.WeakSet()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def watch(holder: Forgetful) -> None:
    """Ask the holder every EVERY_S seconds from now on, while it and the process live."""
    global _thread  # noqa: PLW0603 - one thread a process
    with _lock:
        _watched.add(holder)
        if _thread is None:
            _thread = threading.Thread(target=_look_after, name="master-key-forgetting", daemon=True)
            _thread.start()


def look() -> None:
    """Ask every holder once."""
    with _lock:
        holders = list(_watched)
    for holder in holders:
        holder.forget_what_changed()


def _look_after() -> None:
    while True:
        time.sleep(EVERY_S)
        look()


def _after_fork() -> None:
    """In a child after a fork: there is no thread, and the keys of the parent are not needed."""
    global _thread, _lock
    _thread, _lock = None, threading.Lock()
    for holder in list(_watched):
        holder.forget()


os.register_at_fork(after_in_child=_after_fork)
