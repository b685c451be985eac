"""Tables of masked totals: sets of meters, what mask authorities are asked about them, and what they answered."""

from django.db import models

from keyvault.models.masking import MaskAuthority
from meters.models import Meter, Register


class MaskedSet(models.Model):
    """The meters (at least ten) of a mask group whose masked values of one register and start are added up together.

    ``titles`` are their system titles (8 octets each), in order; ``masked_sum`` is that of the masked values, modulo
    2^64. ``total`` is what the values add up to, once every authority has answered: in the register's steps. Where it
    can have none, ``refusal`` says why; a set is never changed, so its values are in no total then.
    """

    register = models.ForeignKey(Register, models.PROTECT, related_name="+", db_index=False)
    interval_start = models.DateTimeField()
    interval_minutes = models.SmallIntegerField()
    mask_group = models.CharField(max_length=60, blank=True)
    part = models.SmallIntegerField(help_text="of several sets that were made of one register and start at once")
    titles = models.BinaryField()
    meters = models.IntegerField()
    masked_sum = models.DecimalField(max_digits=20, decimal_places=0)
    total = models.DecimalField(max_digits=20, decimal_places=0, null=True)
    refusal = models.CharField(max_length=250, blank=True)
    made_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["interval_start", "id"], name="masked_set_by_time"),
            models.Index(fields=["id"], name="masked_set_open", condition=models.Q(closed_at=None)),
            models.Index(fields=["closed_at"], name="masked_set_refused", condition=~models.Q(refusal="")),
        ]

    def __str__(self) -> str:
        return f"{self.meters} meters at {self.interval_start:%Y-%m-%d %H:%M} UTC"


class MaskQuestion(models.Model):
    """What one mask authority is asked about a set, until it has answered, and its signed answer.

    ``refusal`` is the code of its last refusal, ``error`` why the last try failed, ``failing_since`` since when.
    """

    set = models.ForeignKey(MaskedSet, models.CASCADE, related_name="questions")
    authority = models.ForeignKey(MaskAuthority, models.PROTECT, related_name="+")
    answer = models.BinaryField(null=True, max_length=512, help_text="COSE_Sign1 of the authority")
    mask_sum = models.DecimalField(max_digits=20, decimal_places=0, null=True)
    answered_at = models.DateTimeField(null=True)
    due_at = models.DateTimeField()
    tries = models.IntegerField(db_default=0)
    refusal = models.CharField(max_length=40, blank=True)
    error = models.CharField(max_length=250, blank=True)
    failing_since = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["set", "authority"], name="mask_question_once")]
        indexes = [models.Index(fields=["due_at"], name="mask_question_due", condition=models.Q(answer=None))]

    def __str__(self) -> str:
        return f"question {self.pk} to {self.authority_id}"


class MaskedMeter(models.Model):
    """Whether a mask authority has taken a meter, as it says; before it has, the meter comes into no set."""

    meter = models.ForeignKey(Meter, models.CASCADE, related_name="+")
    authority = models.ForeignKey(MaskAuthority, models.CASCADE, related_name="+", db_index=False)
    taken_at = models.DateTimeField(null=True)
    asked_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["meter", "authority"], name="masked_meter_once")]

    def __str__(self) -> str:
        return f"meter {self.meter_id} at {self.authority_id}"
