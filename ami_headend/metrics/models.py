"""Stored state of metrics: counts that only grow."""

from django.db import models


class Counted(models.Model):
    """The counts of all uplinks verified before ``until``. One row.

    ``frames`` is by verdict as first given. ``latencies`` counts uplinks by the bounds in ``counting.BOUNDS_S``, with
    those beyond the last bound at the end.
    """

    until = models.DateTimeField()
    uplinks = models.BigIntegerField(default=0)
    octets = models.BigIntegerField(default=0)
    frames = models.JSONField(default=dict)
    latencies = models.JSONField(default=list)
    latency_s = models.FloatField(default=0, help_text="sum")

    def __str__(self) -> str:
        return f"counted until {self.until}"
