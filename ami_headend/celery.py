"""The Celery application: workers verify uplinks, beat runs the schedule in the settings."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ami_headend.settings")

app = Celery("ami_headend")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
