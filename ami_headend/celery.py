"""The Celery application: workers verify uplinks, beat runs the schedule in the settings."""

import gc
import os
from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery.signals import beat_init, task_postrun, task_prerun, worker_process_init, worker_ready, worker_shutdown
from django.db import connection, connections

from ami_headend import worker_pool
from ami_headend.core import broker, tasklimits
from ami_headend.health import heartbeats

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ami_headend.settings")
# Celery would make all system checks, for which every page is loaded, and not look at what they find.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")

broker.use()
worker_pool.use()
app = Celery("ami_headend")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_process_init.connect
def collect_garbage_seldom(**_: object) -> None:
    """Keep the cyclic collector from walking a batch's objects and the cached ciphers again and again.

    Verification makes no cycles: its objects are freed at once, and a whole batch stays below the threshold.
    """
    gc.freeze()
    gc.set_threshold(1_000_000, 50, 100)


@worker_process_init.connect
def bound_statements(**_: object) -> None:
    """Bound every statement and every wait for a lock in this worker process, even once the process has died."""
    bounds = (
        f"-c statement_timeout={tasklimits.STATEMENT_TIMEOUT_S}s -c lock_timeout={tasklimits.LOCK_TIMEOUT_S}s"
        f" -c client_connection_check_interval={tasklimits.CLIENT_CHECK_S}s"
    )
    options = connections["default"].settings_dict["OPTIONS"]
    options["options"] = f"{options.get('options', '')} {bounds}".strip()


@task_prerun.connect
def leave_broken_connection(**_: object) -> None:
    """Close a connection that failed in an earlier task: Django does so after requests only, and Celery seldom."""
    for used in connections.all(initialized_only=True):
        if used.errors_occurred:
            used.close_if_unusable_or_obsolete()


@task_prerun.connect
def give_statements_time(task: "Task[Any, Any]", **_: object) -> None:
    """Give the statements of a long task nearly as much time as the task has."""
    if (
        task.soft_time_limit
        and task.soft_time_limit > tasklimits.SOFT_TIME_LIMIT_S
        and not task.request.called_directly
    ):
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, false)", [f"{task.soft_time_limit - 10}s"])


@task_postrun.connect
def bound_statements_again(task: "Task[Any, Any]", **_: object) -> None:
    """Restore the bound of ordinary tasks."""
    long = task.soft_time_limit and task.soft_time_limit > tasklimits.SOFT_TIME_LIMIT_S
    if long and not task.request.called_directly and connection.connection is not None:
        with connection.cursor() as cursor:
            cursor.execute("RESET statement_timeout")


@worker_ready.connect
def show_worker_lives(sender: Any, **_: object) -> None:
    """Record in the database that this worker lives, for as long as it does."""
    queues = sorted(sender.app.amqp.queues.consume_from)
    heartbeats.keep(sender.hostname, heartbeats.WORKER, queues, sender.pool.num_processes, _look(schedule=False))


@beat_init.connect
def show_beat_lives(**_: object) -> None:
    """Record in the database that this schedule lives, for as long as it does."""
    heartbeats.keep(heartbeats.schedule_name(os.uname().nodename), heartbeats.SCHEDULE, [], 1, _look(schedule=True))


def _look(*, schedule: bool) -> Callable[[], str]:
    from ami_headend.health import host  # noqa: PLC0415 - the settings are read first

    return host.of_schedule if schedule else host.of_worker


@worker_shutdown.connect
def say_goodbye(**_: object) -> None:
    """Remove this worker's heartbeat, because it ends properly."""
    heartbeats.end()
