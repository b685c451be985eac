"""Events that wait for the SIEM, and how sending them stands.

Triggers note an event in the transaction that it comes from (migration 0001), so that none is lost, in whatever order
transactions commit. A row goes once the receiver has read the event.
"""

from django.db import models
from django.db.models.functions import Now

from ami_headend.core.text import counted


class Source(models.TextChoices):
    """The table that an event comes from."""

    AUDIT = "audit", "record of the audit chain"
    ALERT = "alert", "step of an alert"
    SIGN_IN = "sign-in", "attempts to sign in"
    REJECTED = "rejected", "rejected frames of a concentrator"


class Pending(models.Model):
    """A row whose event is to be sent; if the row changes before that, ``version`` grows and it is sent again."""

    pk = models.CompositePrimaryKey("source", "key")
    source = models.CharField(max_length=8, choices=Source)
    key = models.CharField(max_length=80, help_text="names the row: its number, or concentrator:kind:hour")
    version = models.BigIntegerField(db_default=1)
    noted_at = models.DateTimeField(db_default=Now())
    due_at = models.DateTimeField(db_default=Now())

    class Meta:
        indexes = [models.Index(fields=["due_at"], name="siem_pending_by_time")]

    def __str__(self) -> str:
        return f"{self.source} {self.key}"


class Shipping(models.Model):
    """How sending stands: one row. While ``is_on`` is false, nothing is noted."""

    is_on = models.BooleanField(default=False)
    sent = models.BigIntegerField(default=0, help_text="events that a receiver has read")
    sent_at = models.DateTimeField(null=True)
    attempts = models.PositiveIntegerField(default=0, help_text="failed ones since the last that did not")
    due_at = models.DateTimeField(null=True, help_text="of the next attempt after a failed one")
    leased_until = models.DateTimeField(null=True, help_text="a worker sends until then, or died")
    last_error = models.CharField(max_length=250, blank=True)

    def __str__(self) -> str:
        return f"{counted(self.sent, 'event was', 'events were')} sent"
