"""Cached answers of the console, and heartbeats of processes."""

from datetime import datetime, timedelta

from django.contrib.postgres.fields import ArrayField
from django.db import models

from ami_headend.core import clock


class KeptAnswer(models.Model):
    """The cached answer to a costly question (cached_answers.py), as CBOR, and its cost; one row for each question."""

    name = models.CharField(max_length=40, primary_key=True)
    content = models.BinaryField()
    taken_at = models.DateTimeField()
    took_s = models.FloatField(help_text="how long the database worked on it")

    class Meta:
        permissions = [("view_components", "Can see the health of the head-end's components")]

    def __str__(self) -> str:
        return f"{self.name} of {self.taken_at}"

    def is_older(self, times_as_long: float, now: datetime) -> bool:
        """Whether the answer is older than ``times_as_long`` times the time it took, or lies in the future."""
        return clock.has_rested(self.taken_at, timedelta(seconds=self.took_s * times_as_long), now)


class Heartbeat(models.Model):
    """A worker or schedule that lives, or lived lately (health/heartbeats.py); times are the database's own."""

    name = models.CharField(max_length=120, primary_key=True)
    kind = models.CharField(max_length=10)
    queues = ArrayField(models.CharField(max_length=40))
    processes = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    beat_at = models.DateTimeField()
    clock_off_s = models.FloatField(help_text="how far the host's clock is ahead of the database's")

    def __str__(self) -> str:
        return self.name
