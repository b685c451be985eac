"""The processes of a worker, as Celery's prefork pool keeps them, without the end of the worker that one may bring."""

from typing import Any

from celery.concurrency import asynpool, prefork

_AsynPool: Any = asynpool.AsynPool  # the stubs lack most of it


class Pool(_AsynPool):  # type: ignore[misc]
    """Celery's, which outlives a broker that goes away while one of its processes has just died.

    When the broker is back, Celery watches every process anew, also one that is dead and has not been replaced yet: of
    that one there is nothing to watch any more, and kombu 5.7 says so by an error that ended the worker ("Unrecoverable
    error: ValueError('file descriptor is None')"). Its replacement is the next thing that the pool does anyway.
    """

    def _track_child_process(self, proc: Any, hub: Any) -> None:
        is_gone = getattr(proc, "_sentinel_poll", proc) is None
        if not is_gone:
            super()._track_child_process(proc, hub)


def use() -> None:
    """Have workers with prefork processes keep them in this pool."""
    prefork.TaskPool.Pool = Pool
