"""The feed: lots of rows in the order of commits, the eras of their positions, and how far consumers have come."""

from typing import Any

from django.db import models
from django.db.models import Func, Q
from django.db.models.functions import Now

from ami_headend.core.names import NameField
from concentrators.feed.rows import Change, Resource


class TransactionIdField(models.Field[Any, Any]):
    """The id of a transaction, which never wraps around (PostgreSQL's xid8)."""

    def db_type(self, connection: Any) -> str:
        return "xid8"


class ClockTimestamp(Func):
    """The time of the statement, not of the transaction's beginning."""

    template = "clock_timestamp()"
    output_field = models.DateTimeField()


class CurrentTransaction(Func):
    template = "pg_current_xact_id()"
    output_field = TransactionIdField()


class FeedLot(models.Model):
    """What one transaction stored or corrected, packed (``concentrators.feed.packed``), and its position in the feed.

    ``position`` is empty until the sequencer has numbered it, in the order of commits; from then on it never changes.
    ``readings_before`` and ``events_before`` are how many rows all earlier positions have. The packs go after
    FEED_KEEP_DAYS; the rest stays as long as readings, to say what a consumer that comes too late has to read again.
    """

    id = models.BigAutoField(primary_key=True)
    xid = TransactionIdField(db_default=CurrentTransaction())
    position = models.BigIntegerField(null=True, unique=True)
    change = models.CharField(max_length=12, choices=[(one.value, one.value) for one in Change])
    readings = models.IntegerField()
    events = models.IntegerField()
    captured_from = models.DateTimeField()
    captured_to = models.DateTimeField()
    stored_at = models.DateTimeField(db_default=ClockTimestamp())
    reading_rows = models.BinaryField(null=True)
    event_rows = models.BinaryField(null=True)
    readings_before = models.BigIntegerField(null=True)
    events_before = models.BigIntegerField(null=True)

    class Meta:
        indexes = [models.Index(fields=["id"], condition=Q(position=None), name="feed_lot_without_position")]

    def __str__(self) -> str:
        return f"lot {self.pk} at position {self.position}"


class FeedEra(models.Model):
    """A span in which positions are valid. A restore ends one, and begins the next at the positions of the backup.

    ``position`` is the last one that it shares with ``parent``, the era that the backup was made in; the first era has
    no parent.
    """

    name = models.CharField(max_length=16, primary_key=True)
    parent = models.ForeignKey("self", models.PROTECT, null=True, related_name="+", db_index=False, db_constraint=False)
    position = models.BigIntegerField()
    began_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class FeedHead(models.Model):
    """One row: the present era, and the last position with how many rows there are up to it.

    ``first_kept`` is the first position whose rows are kept, ``checked`` the last that validation has looked at.
    """

    era = models.ForeignKey(FeedEra, models.PROTECT, related_name="+", db_index=False)
    position = models.BigIntegerField(default=0)
    readings = models.BigIntegerField(default=0)
    events = models.BigIntegerField(default=0)
    first_kept = models.BigIntegerField(default=1)
    checked = models.BigIntegerField(default=0, db_default=0)

    def __str__(self) -> str:
        return f"position {self.position} of era {self.era_id}"


class FeedSubscription(models.Model):
    """How far a consumer has come: everything before row ``row`` of ``position`` is with it."""

    name = NameField(max_length=60, unique=True)
    resource = models.CharField(max_length=8, choices=[(one.value, one.value) for one in Resource])
    era = models.CharField(max_length=16)
    position = models.BigIntegerField()
    row = models.IntegerField()
    profile = models.JSONField(
        default=dict, db_default={}, help_text="how its messages of IEC 61968-9 are written: docs/formats.md"
    )
    account = models.CharField(max_length=150, help_text="who moved it last")
    created_at = models.DateTimeField(db_default=Now())
    moved_at = models.DateTimeField(help_text="when its consumer last said how far it has come")

    def __str__(self) -> str:
        return self.name
