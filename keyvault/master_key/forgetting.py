"""Key octets leave the memory of a process that does nothing, looked after in the background by each process itself.

A version that was destroyed must not live on in a worker that has no frames to verify. What is forgotten is overwritten
by OpenSSL, which holds the key; the text of the file is freed, and not overwritten: Python cannot.
"""

import os
import threading
import time
import weakref
from typing import Protocol

EVERY_S = 30.0  # the bound: what was destroyed is held so long at most


class Forgetful(Protocol):
    """Holds key octets, and knows when it must not any more."""

    def forget(self) -> None:
        """Hold nothing any more."""

    def forget_what_changed(self) -> None:
        """Hold nothing any more where what it was read from has changed since."""


_watched: "weakref.WeakSet[Forgetful]" = weakref.WeakSet()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def watch(holder: Forgetful) -> None:
    """From now on the holder is asked every EVERY_S, for as long as it and the process live."""
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
    """In a child: no thread came along, and what the parent held is nothing that the child has asked for."""
    global _thread, _lock
    _thread, _lock = None, threading.Lock()
    for holder in list(_watched):
        holder.forget()


os.register_at_fork(after_in_child=_after_fork)
