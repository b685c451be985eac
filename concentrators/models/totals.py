"""Interval totals, the numbers of expected meters, and sums that concentrators report."""

from django.db import models
from django.db.models import Q

from concentrators.models.fleet import Concentrator
from meters.models import Register


class IntervalTotal(models.Model):
    """Sum of an interval register over the meters assigned to a concentrator at the interval's start.

    Sums are in the register's resolution. How many meters were expected follows from the assignments.
    """

    pk = models.CompositePrimaryKey("concentrator_id", "register_id", "interval_minutes", "interval_start")
    concentrator = models.ForeignKey(Concentrator, models.PROTECT, related_name="+", db_index=False)
    register = models.ForeignKey(Register, models.PROTECT, related_name="+", db_index=False)
    interval_minutes = models.SmallIntegerField()
    interval_start = models.DateTimeField()
    value_sum = models.DecimalField(max_digits=30, decimal_places=0)
    meters_counted = models.IntegerField()
    meters_masked = models.IntegerField(
        db_default=0, help_text="whose value arrived and is not in the sum: masked, or unauthenticated"
    )

    class Meta:
        indexes = [models.Index(fields=["interval_start"], name="total_by_time")]

    def __str__(self) -> str:
        return f"{self.concentrator_id} {self.register_id} {self.interval_start}"


class ExpectedStep(models.Model):
    """How many meters of a concentrator are expected in the intervals of a length that begin at an instant or later.

    Until its next step. Follows from assignments, meters, installations and lengths (``expected.py``), so that a
    total is held against it by one look.
    """

    pk = models.CompositePrimaryKey("concentrator_id", "interval_minutes", "at")
    concentrator = models.ForeignKey(Concentrator, models.CASCADE, related_name="+", db_index=False)
    interval_minutes = models.SmallIntegerField()
    at = models.DateTimeField()
    meters = models.IntegerField()

    def __str__(self) -> str:
        return f"{self.concentrator_id}: {self.meters} from {self.at} on"


class StaleSteps(models.Model):
    """A concentrator whose expected steps no longer follow from its meters: triggers write it with every change.

    Only ever inserted, and deleted by whoever makes the steps anew: no change waits for another.
    """

    id = models.BigAutoField(primary_key=True)
    concentrator = models.ForeignKey(
        Concentrator, models.CASCADE, related_name="+", db_index=False, db_constraint=False
    )

    def __str__(self) -> str:
        return f"of concentrator {self.concentrator_id}"


class ReportedSum(models.Model):
    """What a concentrator says that an interval of its hop and mac meters adds up to, and what we add up ourselves.

    The sum under the highest epoch and counter stands. ``own_sum`` is over the values of the same meters that are
    here; ``differs_since`` says since when the two differ, and is empty where they do not.
    """

    pk = models.CompositePrimaryKey("concentrator_id", "register_id", "interval_minutes", "interval_start")
    concentrator = models.ForeignKey(Concentrator, models.PROTECT, related_name="+", db_index=False)
    register = models.ForeignKey(Register, models.PROTECT, related_name="+", db_index=False)
    interval_minutes = models.SmallIntegerField()
    interval_start = models.DateTimeField(db_index=True)
    value_sum = models.BigIntegerField(help_text="in the register's steps")
    meters_counted = models.IntegerField()
    epoch = models.IntegerField()
    invocation_counter = models.BigIntegerField()
    uplink_id = models.BigIntegerField()
    own_sum = models.DecimalField(max_digits=30, decimal_places=0, null=True)
    own_meters = models.IntegerField(null=True)
    compared_at = models.DateTimeField(null=True)
    differs_since = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["concentrator", "differs_since"],
                condition=Q(differs_since__isnull=False),
                name="reported_sum_differs",
            )
        ]

    def __str__(self) -> str:
        return f"{self.concentrator_id} {self.register_id} {self.interval_start}"


class UncomparedSum(models.Model):
    """A place of a reported sum that is to be compared anew: only ever inserted, so that nobody waits for another."""

    id = models.BigAutoField(primary_key=True)
    concentrator_id = models.IntegerField()
    register_id = models.SmallIntegerField()
    interval_minutes = models.SmallIntegerField()
    interval_start = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.concentrator_id} {self.register_id} {self.interval_start}"
