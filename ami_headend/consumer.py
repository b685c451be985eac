"""The main loop of a worker, which shows that it lives: while it runs, and while it waits for a broker that is away."""

from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker import consumer

from ami_headend.core import lifesign

_Consumer: Any = consumer.Consumer  # the stubs lack most of it


class Consumer(_Consumer):  # type: ignore[misc]
    """Celery's, with a sign of life from its own loop: one that hangs gives none, whatever the threads beside it do."""

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        hub.call_repeatedly(lifesign.EVERY_S, lifesign.show)

    def ensure_connected(self, conn: Any) -> Any:
        """As Celery's; no timer runs meanwhile, so that each second of waiting gives its sign here."""
        lifesign.show()
        conn.ensure_connection = partial(_wait_alive, conn.ensure_connection)
        return super().ensure_connected(conn)


def _wait_alive(wait: Callable[..., Any], *args: Any, callback: Callable[[], Any], **kwargs: Any) -> Any:
    def each_second() -> None:
        lifesign.show()
        callback()

    return wait(*args, callback=each_second, **kwargs)
