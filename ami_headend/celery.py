"""The Celery application: workers verify uplinks, beat runs the schedule in the settings."""

import gc
import os

from celery import Celery
from celery.signals import beat_init, task_prerun, worker_process_init
from django.db import connections

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ami_headend.settings")

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


@task_prerun.connect
def leave_broken_connection(**_: object) -> None:
    """Opens a connection anew that failed an earlier task: Django looks after requests only, Celery closes seldom."""
    for connection in connections.all(initialized_only=True):
        if connection.errors_occurred:
            connection.close_if_unusable_or_obsolete()


@beat_init.connect
def look_at_once(**_: object) -> None:
    """Has rules and components looked at as soon as the schedule runs, which passes for missing until they were."""
    app.send_task("ami_headend.alerts.tasks.evaluate_alerts", expires=30)
    app.send_task("ami_headend.tasks.look_at_components", countdown=3, expires=60)
