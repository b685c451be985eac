"""Celery's prefork pool, except that a dead process cannot end the whole worker."""

from typing import Any

from celery.concurrency import asynpool, prefork

_AsynPool: Any = asynpool.AsynPool  # the stubs lack most of it


class Pool(_AsynPool):  # type: ignore[misc]
    """A pool that survives when the broker goes away just after one of its processes died.

    When the broker is back, Celery watches every process again, including a dead one that has no replacement yet. kombu
    5.7 has nothing to watch there, and its error ended the worker ("Unrecoverable error: ValueError('file descriptor is
    None')"). The pool replaces the dead process next anyway.
    """

    def _track_child_process(self, proc: Any, hub: Any) -> None:
        is_gone = getattr(proc, "_sentinel_poll", proc) is None
        if not is_gone:
            super()._track_child_process(proc, hub)


def use() -> None:
    """Make workers with prefork processes use this pool."""
    prefork.TaskPool.Pool = Pool
