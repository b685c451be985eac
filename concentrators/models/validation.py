"""Validation: registers that advanced by another energy than the intervals of the same time add up to."""

from django.db import models
from django.db.models import Q

from meters.models import Meter, Register


class UncheckedDay(models.Model):
    """A day (UTC) of a meter on which registers and intervals are to be compared, once the day is over."""

    pk = models.CompositePrimaryKey("day", "meter_id")
    day = models.DateField()
    meter = models.ForeignKey(Meter, models.CASCADE, related_name="+", db_index=False, db_constraint=False)

    def __str__(self) -> str:
        return f"{self.day} of meter {self.meter_id}"


class RegisterDifference(models.Model):
    """A span of a meter in which a cumulative register advanced by another energy than its intervals add up to.

    ``register`` is that of the intervals. The numbers are exact, in steps of 10^``scaler`` ``unit``. ``cleared_at``
    says since when it holds no longer: what came later made both equal, or divided the span.
    """

    id = models.BigAutoField(primary_key=True)
    meter = models.ForeignKey(Meter, models.PROTECT, related_name="+", db_index=False)
    register = models.ForeignKey(Register, models.PROTECT, related_name="+", db_index=False)
    span_start = models.DateTimeField()
    span_end = models.DateTimeField()
    unit = models.CharField(max_length=8)
    scaler = models.SmallIntegerField()
    advance = models.DecimalField(max_digits=50, decimal_places=0, help_text="of the register, in steps")
    interval_sum = models.DecimalField(max_digits=50, decimal_places=0, help_text="in steps")
    found_at = models.DateTimeField()
    cleared_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["meter", "register", "span_start", "span_end"], name="register_difference_once_each"
            )
        ]
        indexes = [
            models.Index(fields=["span_start", "id"], name="register_difference_by_time"),
            models.Index(fields=["span_start", "id"], condition=Q(cleared_at=None), name="register_difference_open"),
        ]

    def __str__(self) -> str:
        return f"{self.register} of {self.meter} from {self.span_start:%Y-%m-%d %H:%M} UTC"
