"""The main loop of a worker. It sends signs of life while it runs and while it waits for a broker."""

from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker import consumer

from ami_headend.core import sd_notify

RETRY_S = 2.0  # Celery's own waits grow to half a minute, for which a broker that is back would stand idle
_Consumer: Any = consumer.Consumer  # the stubs lack most of it


class Consumer(_Consumer):  # type: ignore[misc]
    """Celery's consumer, with a sign of life sent by its own loop, so that a loop that hangs sends none."""

    def register_with_event_loop(self, hub: Any) -> None:
        super().register_with_event_loop(hub)
        hub.call_repeatedly(sd_notify.EVERY_S, sd_notify.show)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect as Celery does, but try every two seconds, with a sign of life in each: no timer runs meanwhile."""
        sd_notify.show()
        conn.ensure_connection = partial(_wait_alive, conn.ensure_connection)
        return super().ensure_connected(conn)


def _wait_alive(wait: Callable[..., Any], *args: Any, callback: Callable[[], Any], **kwargs: Any) -> Any:
    def each_second() -> None:
        sd_notify.show()
        callback()

    return wait(*args, callback=each_second, interval_start=RETRY_S, interval_step=0, interval_max=RETRY_S, **kwargs)
