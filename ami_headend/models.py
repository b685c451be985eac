"""What the console keeps: answers to questions that cost too much to be asked by everyone who looks."""

from datetime import datetime, timedelta

from django.db import models

from ami_headend.core import clock


class KeptAnswer(models.Model):
    """The answer to a costly question (console/kept.py), as CBOR, and what it cost; one row for each question."""

    name = models.CharField(max_length=40, primary_key=True)
    content = models.BinaryField()
    taken_at = models.DateTimeField()
    took_s = models.FloatField(help_text="how long the database worked on it")

    class Meta:
        permissions = [("view_components", "Can see the health of the head-end's components")]

    def __str__(self) -> str:
        return f"{self.name} of {self.taken_at}"

    def is_older(self, times_as_long: float, now: datetime) -> bool:
        """Whether it is older than so many times as long as it took, or from the future."""
        return clock.has_rested(self.taken_at, timedelta(seconds=self.took_s * times_as_long), now)
