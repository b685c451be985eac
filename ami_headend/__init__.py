"""The project: settings, urls, Celery, embedded services."""

from ami_headend.celery import app as celery_app

__all__ = ["celery_app"]
