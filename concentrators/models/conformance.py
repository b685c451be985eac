"""Conformance runs of laboratory meters: what each step gave, and what the meter did."""

from django.db import models
from django.db.models import Q

from concentrators.models.fleet import Concentrator
from concentrators.models.ingest import Uplink
from meters.models import Meter


class StepVerdict(models.TextChoices):
    PASSED = "passed"
    FAILED = "failed"
    LEFT_OUT = "left_out", "left out"


class ConformanceRun(models.Model):
    """One run over a laboratory meter. Unfinished, it is resumed."""

    meter = models.ForeignKey(Meter, models.PROTECT, related_name="+")
    started_by = models.CharField(max_length=150)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["meter"], condition=Q(finished_at=None), name="conformance_one_at_a_time")
        ]

    def __str__(self) -> str:
        return f"conformance run {self.pk} of {self.meter}"


class ConformanceStep(models.Model):
    """A step that was done, and its verdict; ``detail`` says what the meter did instead."""

    run = models.ForeignKey(ConformanceRun, models.CASCADE, related_name="steps")
    name = models.CharField(max_length=60)
    verdict = models.CharField(max_length=8, choices=StepVerdict)
    detail = models.CharField(max_length=250, blank=True)
    ended_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "name"], name="conformance_step_once")]

    def __str__(self) -> str:
        return f"{self.name}: {self.verdict}"


class RepeatedUplink(models.Model):
    """The concentrator of a laboratory meter posted an uplink again while the meter was given octets.

    A meter that keeps its frames answers again with the same octets; the uplinks themselves show no trace of that.
    """

    id = models.BigAutoField(primary_key=True)
    concentrator = models.ForeignKey(Concentrator, models.CASCADE, related_name="+")
    uplink = models.ForeignKey(Uplink, models.CASCADE, related_name="+", db_constraint=False)
    posted_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.uplink}, again"


class LaboratoryOffer(models.Model):
    """Octets for a laboratory meter, offered to its concentrator like a command, and gone when the step is over.

    ``number`` is of the numbers of commands, so that no command has it too.
    """

    number = models.BigIntegerField(primary_key=True)
    meter = models.ForeignKey(Meter, models.PROTECT, related_name="+")
    octets = models.BinaryField(max_length=1024)
    offered_at = models.DateTimeField(null=True)
    delivered_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"octets {self.number} for {self.meter}"
