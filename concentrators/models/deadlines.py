"""Deadlines of readings, and the history of how many had arrived by each."""

from decimal import Decimal

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from ami_headend.core.names import NameField
from concentrators.models.fleet import Concentrator
from concentrators.totals import read_deadlines
from concentrators.totals.read_deadlines import Terms

DAYS_AFTER_MAX = 31
UNSET_ZONE = "UTC"


def check_zone(name: str) -> None:
    """Raise ValidationError if there is no time zone of this name."""
    try:
        read_deadlines.zone_of(name)
    except ValueError as error:
        raise ValidationError(f"{error}.") from None


class ReadDeadline(models.Model):
    """By when the readings of a day are due. A change holds for days that are not counted yet."""

    name = NameField(max_length=60, unique=True)
    due_time = models.TimeField(help_text="time of day in the zone below, such as 07:00")
    days_after = models.PositiveSmallIntegerField(
        default=1, validators=[MinValueValidator(1), MaxValueValidator(DAYS_AFTER_MAX)], help_text="1: the day after"
    )
    zone = models.CharField(
        max_length=64,
        default=UNSET_ZONE,
        validators=[check_zone],
        help_text="time zone in which days begin and the time is meant, such as Europe/Oslo; Etc/UTC if UTC is meant",
    )
    target_percent = models.DecimalField(
        max_digits=5,
        decimal_places=2,
        default=Decimal(98),
        validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(100))],
        help_text="of the expected intervals, percent",
    )
    is_active = models.BooleanField(default=True, help_text="inactive: no more days are counted, the history stays")

    class Meta:
        verbose_name = "deadline of readings"
        verbose_name_plural = "deadlines of readings"
        constraints = [
            models.CheckConstraint(
                condition=Q(days_after__gte=1, days_after__lte=DAYS_AFTER_MAX), name="read_deadline_days_after"
            ),
            models.CheckConstraint(
                condition=Q(target_percent__gte=0, target_percent__lte=100), name="read_deadline_target"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_zone_unset(self) -> bool:
        """Whether its zone is the default, which nobody may have thought of. Who means UTC writes Etc/UTC."""
        return self.zone == UNSET_ZONE

    @property
    def terms(self) -> Terms:
        """The same for ``read_deadlines``."""
        return Terms(read_deadlines.zone_of(self.zone), self.due_time, self.days_after, self.target_percent)


class ReadDay(models.Model):
    """A day of a deadline that was counted, with the terms that held: numbers of intervals of the whole fleet.

    ``basis`` is a digest of all that it was counted from (SHA-256), and says whether any of it has changed since; None
    if another system counted the day, which stays as it is.
    """

    deadline = models.ForeignKey(ReadDeadline, models.PROTECT, related_name="days", db_index=False)
    day = models.DateField()
    start = models.DateTimeField()
    end = models.DateTimeField()
    due_at = models.DateTimeField()
    target_percent = models.DecimalField(max_digits=5, decimal_places=2)
    expected = models.BigIntegerField()
    in_time = models.BigIntegerField()
    late = models.BigIntegerField()
    basis = models.BinaryField(null=True, default=b"")
    counted_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["deadline", "day"], name="read_day_once")]
        indexes = [models.Index(fields=["start"], name="read_day_by_start")]

    def __str__(self) -> str:
        return f"{self.day} by {self.deadline_id}"


class ReadShare(models.Model):
    """The intervals of one concentrator on such a day: expected, arrived in time, and arrived late so far."""

    pk = models.CompositePrimaryKey("of_day_id", "concentrator_id")
    of_day = models.ForeignKey(ReadDay, models.CASCADE, related_name="shares", db_index=False)
    concentrator = models.ForeignKey(Concentrator, models.PROTECT, related_name="+")
    expected = models.IntegerField()
    in_time = models.IntegerField()
    late = models.IntegerField()

    def __str__(self) -> str:
        return f"{self.concentrator_id} on {self.of_day_id}"
