"""The Celery application: workers verify uplinks, beat runs the schedule in the settings."""

import gc
import os
from typing import Any

from celery import Celery, Task
from celery.signals import beat_init, task_postrun, task_prerun, worker_process_init, worker_ready, worker_shutdown
from django.db import connection, connections

from ami_headend import pool
from ami_headend.core import broker, tasklimits
from ami_headend.health import heartbeats

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ami_headend.settings")
# Celery would make all system checks, for which every page is loaded, and not look at what they find.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")

broker.use()
pool.use()
app = Celery("ami_headend")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_process_init.connect
def collect_garbage_seldom(**_: object) -> None:
    """Keeps the cyclic collector from walking a batch's objects and the cached ciphers over and over.

    Verification makes no cycles, what it drops is freed at once, and a whole batch stays under the threshold.
    """
    gc.freeze()
    gc.set_threshold(1_000_000, 50, 100)


@worker_process_init.connect
def bound_statements(**_: object) -> None:
    """Bounds every statement, and every wait for a lock, of this worker process; also once the process is gone."""
    bounds = (
        f"-c statement_timeout={tasklimits.STATEMENT_TIMEOUT_S}s -c lock_timeout={tasklimits.LOCK_TIMEOUT_S}s"
        f" -c client_connection_check_interval={tasklimits.CLIENT_CHECK_S}s"
    )
    options = connections["default"].settings_dict["OPTIONS"]
    options["options"] = f"{options.get('options', '')} {bounds}".strip()


@task_prerun.connect
def leave_broken_connection(**_: object) -> None:
    """Opens a connection anew that failed an earlier task: Django looks after requests only, Celery closes seldom."""
    for used in connections.all(initialized_only=True):
        if used.errors_occurred:
            used.close_if_unusable_or_obsolete()


@task_prerun.connect
def give_statements_time(task: "Task[Any, Any]", **_: object) -> None:
    """Lets the statements of a task that may take long take nearly as long."""
    if (
        task.soft_time_limit
        and task.soft_time_limit > tasklimits.SOFT_TIME_LIMIT_S
        and not task.request.called_directly
    ):
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('statement_timeout', %s, false)", [f"{task.soft_time_limit - 10}s"])


@task_postrun.connect
def bound_statements_again(task: "Task[Any, Any]", **_: object) -> None:
    """The bound of usual tasks holds again."""
    long = task.soft_time_limit and task.soft_time_limit > tasklimits.SOFT_TIME_LIMIT_S
    if long and not task.request.called_directly and connection.connection is not None:
        with connection.cursor() as cursor:
            cursor.execute("RESET statement_timeout")


@worker_ready.connect
def show_worker_lives(sender: Any, **_: object) -> None:
    """Tells the database that this worker lives, for as long as it does."""
    queues = sorted(sender.app.amqp.queues.consume_from)
    heartbeats.keep(sender.hostname, heartbeats.WORKER, queues, sender.pool.num_processes)


@beat_init.connect
def show_beat_lives(**_: object) -> None:
    """Tells the database that this schedule lives, for as long as it does."""
    heartbeats.keep(f"beat@{os.uname().nodename}", heartbeats.SCHEDULE, [], 1)


@worker_shutdown.connect
def say_goodbye(**_: object) -> None:
    """Remove this worker's heartbeat: it ends in good order."""
    heartbeats.end()
