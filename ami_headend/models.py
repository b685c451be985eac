"""Cached answers of the console, heartbeats of processes, the lease of the schedule, and saved views of lists."""

from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models

from ami_headend.core import clock
from ami_headend.core.names import Alike, NameField


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
    """A worker, schedule or web host that lives, or lived lately (health/heartbeats.py), by the database's clock."""

    name = models.CharField(max_length=120, primary_key=True)
    kind = models.CharField(max_length=10)
    queues = ArrayField(models.CharField(max_length=40))
    processes = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    beat_at = models.DateTimeField()
    clock_off_s = models.FloatField(help_text="how far the host's clock is ahead of the database's")
    trouble = models.CharField(max_length=250, blank=True, db_default="", help_text="what is wrong on its host")

    def __str__(self) -> str:
        return self.name


class ScheduleLease(models.Model):
    """The one row that says which beat is at work (schedule_lease.py); times are the database's own."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    holder = models.CharField(max_length=200, blank=True, help_text="host, process and a random part")
    host = models.CharField(max_length=120, blank=True)
    taken_at = models.DateTimeField()
    until = models.DateTimeField()

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="schedule_lease_one")]

    def __str__(self) -> str:
        return self.host


class SavedView(models.Model):
    """The filters and the order of a list page, as its address has them, under a name of the owner's.

    An administrator may share one with a role: whoever has the role sees it on the page, too.
    """

    id = models.AutoField(primary_key=True)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    page = models.CharField(max_length=60, help_text="name of the page")
    name = NameField(max_length=60)
    query = models.CharField(max_length=2_000, blank=True)
    role = models.ForeignKey(
        "auth.Group", models.CASCADE, null=True, blank=True, related_name="+", help_text="who else sees it"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                "owner",
                "page",
                Alike("name"),
                name="saved_view_alike",
                violation_error_message="You have a view of this name, or one that looks like it, here already.",
            )
        ]
        permissions = [("share_savedview", "Can share saved views with a role")]

    def __str__(self) -> str:
        return self.name
