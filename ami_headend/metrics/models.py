"""Stored state of metrics: counts that only grow."""

from django.db import models


class Counted(models.Model):
    """The counts of all uplinks that were ever verified, except those in ``Uncounted``. One row.

    ``frames`` is by verdict as first given. ``latencies`` counts uplinks by the bounds in ``counting.BOUNDS_S``, with
    those beyond the last bound at the end.
    """

    until = models.DateTimeField(help_text="far ahead: code of before, which counts by time, counts nothing beside")
    uplinks = models.BigIntegerField(default=0)
    octets = models.BigIntegerField(default=0)
    frames = models.JSONField(default=dict)
    latencies = models.JSONField(default=list)
    latency_s = models.FloatField(default=0, help_text="sum")

    def __str__(self) -> str:
        return f"{self.uplinks} uplinks"


class Uncounted(models.Model):
    """A verified uplink that is not counted yet, as it was first judged.

    A trigger adds it in the transaction that verifies the uplink; whoever counts it deletes it.
    """

    id = models.BigAutoField(primary_key=True)
    octets = models.PositiveIntegerField()
    accepted = models.PositiveIntegerField()
    duplicate = models.PositiveIntegerField()
    failures = models.JSONField(help_text="rejected frames by kind, as first judged")
    took_s = models.FloatField(help_text="from post to verified, not below 0")

    def __str__(self) -> str:
        return f"verified after {self.took_s} s"
