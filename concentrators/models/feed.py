"""The feed: lots of rows in the order of commits, the eras of their positions, and how far consumers have come."""

from typing import Any

from django.db import models
from django.db.models import Func, Q
from django.db.models.functions import Now

from ami_headend.core.names import NameField
from concentrators.feed.rows import Change, Resource
from meters.group_models import FleetGroup

ADDRESS_LENGTH, HOST_KEY_LENGTH = 500, 1_000  # characters
DELIVERY_FORMATS = ("ndjson", "csv", "parquet", "cim")


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
    owner = models.CharField(max_length=150, default="", db_default="", help_text="who made it; empty: as account")
    created_at = models.DateTimeField(db_default=Now())
    moved_at = models.DateTimeField(help_text="when its consumer last said how far it has come")

    def __str__(self) -> str:
        return self.name


class DeliveryKind(models.TextChoices):
    """How the rows of a subscription are delivered."""

    WEBHOOK = "webhook", "signed webhook"
    FOLDER = "folder", "files in a folder"
    SFTP = "sftp", "files by SFTP"


class FeedDelivery(models.Model):
    """Sends the rows of a subscription to its consumer, batch by batch; the subscription's cursor says how far it is.

    A batch that was begun has its end (``until_position`` and ``until_row``, of the row after it) here before anything
    is sent, so that whoever goes on after a crash sends the same batch again. keyvault keeps what signs or signs in.
    """

    subscription = models.OneToOneField(FeedSubscription, models.PROTECT, related_name="delivery")
    kind = models.CharField(max_length=7, choices=DeliveryKind)
    address = models.CharField(max_length=ADDRESS_LENGTH)
    format = models.CharField(max_length=8, choices=[(one, one) for one in DELIVERY_FORMATS])
    rows = models.PositiveIntegerField(help_text="the most of one batch")
    wait_minutes = models.PositiveSmallIntegerField(
        help_text="a batch that is not full goes out when its oldest row has this age"
    )
    group = models.ForeignKey(
        FleetGroup, models.PROTECT, null=True, blank=True, related_name="+", help_text="only meters in it, as of now"
    )
    host_key = models.CharField(max_length=HOST_KEY_LENGTH, blank=True, help_text="of an SFTP server: type and base64")
    is_enabled = models.BooleanField("enabled", default=True)
    created_at = models.DateTimeField(db_default=Now())
    until_position = models.BigIntegerField(null=True, editable=False)
    until_row = models.IntegerField(null=True, editable=False)
    batches = models.BigIntegerField(default=0, editable=False, help_text="that the consumer has taken")
    rows_sent = models.BigIntegerField(default=0, editable=False)
    delivered_at = models.DateTimeField(null=True, editable=False)
    attempts = models.PositiveIntegerField(default=0, editable=False, help_text="failed ones since the last batch")
    due_at = models.DateTimeField(null=True, editable=False, help_text="of the next attempt after a failed one")
    last_error = models.CharField(max_length=250, blank=True, editable=False)

    class Meta:
        verbose_name = "delivery of the feed"
        verbose_name_plural = "deliveries of the feed"

    def __str__(self) -> str:
        return f"delivery of {self.subscription}"

    @property
    def secret_owner(self) -> str:
        """Return the name of its secrets in keyvault."""
        return f"feed delivery {self.pk}"
