"""Beat's scheduler. It uses the monotonic clock, so that setting the wall clock cannot silence it.

Celery's own scheduler stores the wall clock's time of each last run in a file. Once the clock has been ahead, an entry
would wait until that time comes round again, even after a restart. Here every entry is an interval, its first run comes
soon after the start, and nothing is stored. Beat may run on several hosts: the one that holds the lease
(``ami_headend.schedule_lease``) is at work, the others wait.
"""

import logging
import time
from typing import Any

from celery import beat
from celery.schedules import schedstate

from ami_headend.core import sd_notify
from ami_headend.core.broker_errors import BROKER_ERRORS, summary
from ami_headend.health import heartbeats
from ami_headend.schedule_lease import ASK_S, Lease

logger = logging.getLogger(__name__)

_ScheduleEntry: Any = beat.ScheduleEntry  # the stubs lack most of them
_Scheduler: Any = beat.Scheduler

QUEUE_MAX = 50  # messages in the queue; if nobody takes these, more would not help
_STEP_S = 0.2  # between the first runs, in the order of the schedule
_SELDOM_S = 300.0  # entries that are less frequent run first when beat has been up for a minute
_SELDOM_AFTER_S = 60.0


class SteadyEntry(_ScheduleEntry):  # type: ignore[misc]
    """An entry with the monotonic time of its next run."""

    def __init__(self, *args: Any, due_at: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.due_at = time.monotonic() if due_at is None else due_at

    @property
    def every_s(self) -> float:
        return float(self.schedule.run_every.total_seconds())

    def is_due(self) -> schedstate:
        left_s = self.due_at - time.monotonic()
        return schedstate(True, self.every_s) if left_s <= 0 else schedstate(False, left_s)

    def _next_instance(self, last_run_at: Any = None) -> "SteadyEntry":
        following: SteadyEntry = super()._next_instance(last_run_at)
        following.due_at = time.monotonic() + self.every_s
        return following

    __next__ = next = _next_instance


class SteadyScheduler(_Scheduler):  # type: ignore[misc]
    """Sends tasks that are due, except to a full queue. If the broker refuses one, the next run tries again."""

    Entry = SteadyEntry
    _lease: Lease | None = None
    _is_at_work = False
    producer = None  # taken from the application's pool: Celery's own would block or end beat while no broker answers

    def setup_schedule(self) -> None:
        super().setup_schedule()
        self._begin()

    def _begin(self) -> None:
        """Have every entry run soon, one after the other."""
        now = time.monotonic()
        for index, name in enumerate(self.app.conf.beat_schedule):
            entry = self.schedule[name]
            entry.due_at = now + index * _STEP_S + (_SELDOM_AFTER_S if entry.every_s > _SELDOM_S else 0)

    def install_default_entries(self, data: Any) -> None:
        """Install none: no results are stored, so none need cleaning up."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        sd_notify.show()
        if self._lease is None:
            self._lease = Lease()
            self._lease.start()
        is_at_work = self._lease.is_held()
        if is_at_work != self._is_at_work:
            self._is_at_work = is_at_work
            logger.warning("this beat %s", "is at work now" if is_at_work else "waits: it does not hold the lease")
            self._begin()
            self._heap = None  # made anew, from when each entry is due now
        return float(super().tick(*args, **kwargs)) if is_at_work else ASK_S

    def close(self) -> None:
        super().close()
        if self._lease is not None:
            self._lease.give_up()
        heartbeats.end()

    def apply_entry(self, entry: SteadyEntry, producer: Any = None) -> None:
        try:
            if self._waiting(entry) < QUEUE_MAX:
                self.apply_async(entry, advance=False, retry=False)
            else:
                logger.warning("%s is left out: its queue is full of tasks that nobody has taken yet", entry.name)
        except Exception as error:
            if not isinstance(error, BROKER_ERRORS) and not isinstance(error.__context__, BROKER_ERRORS):
                logger.exception("%s is not sent", entry.name)
                return
            logger.warning("%s is not sent; its next run will be tried: %s", entry.name, summary(error))

    def _waiting(self, entry: SteadyEntry) -> int:
        queue = self.app.amqp.router.route({}, str(entry.task))["queue"]
        connection: Any  # the stubs take it for a producer
        with self.app.pool.acquire(block=True) as connection:
            return int(connection.default_channel.queue_declare(queue.name).message_count)

    def _when(self, entry: SteadyEntry, next_time_to_run: float, mktime: Any = None) -> float:
        return time.monotonic() + max(0.0, next_time_to_run)
