"""Rejected frames: their evidence, counts, and acknowledgements."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Func, Q, Value

from ami_headend.core.text import NOTE_LENGTH
from concentrators.failures.kinds import FailureKind, Severity
from concentrators.models.fleet import Concentrator
from concentrators.models.ingest import Uplink
from meters.models import Meter


class Acknowledgement(models.Model):
    """A person looked at failures and noted what they were. For a day this can be taken back."""

    by = models.CharField(max_length=150)
    at = models.DateTimeField()
    note = models.CharField(max_length=NOTE_LENGTH)
    selection = models.JSONField(default=dict, help_text="which failures were meant")
    taken_back_by = models.CharField(max_length=150, blank=True, db_default="")
    taken_back_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"by {self.by} at {self.at:%Y-%m-%d %H:%M} UTC"


class IntegrityFailure(models.Model):
    """A frame that was refused, with its evidence. ``meter`` is whom the frame claims to be from.

    Lists read short ranges of the indexes by kind and state (concentrators/failures/queries.py), so that a
    page of one kind costs the same in a flood of another.
    """

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=24, choices=[(kind.value, kind.value) for kind in FailureKind])
    severity = models.SmallIntegerField(choices=[(severity.value, severity.name.lower()) for severity in Severity])
    concentrator = models.ForeignKey(Concentrator, models.PROTECT, related_name="failures")
    uplink = models.ForeignKey(Uplink, models.PROTECT, related_name="+")
    frame_index = models.PositiveIntegerField(help_text="position of the frame in the uplink, from 0")
    frame = models.BinaryField(help_text="the raw octets, as posted")
    kid = models.BinaryField(
        max_length=22,
        null=True,
        help_text="system title and epoch that the frame claims, and its session if it names one",
    )
    invocation_counter = models.BigIntegerField(null=True)
    meter = models.ForeignKey(Meter, models.PROTECT, null=True, related_name="failures")
    received_at = models.DateTimeField()
    detail = models.CharField(max_length=250)
    is_copy = models.BooleanField(
        db_default=False, help_text="the same octets were refused for the same reason before: no failure of its own"
    )
    acknowledgement = models.ForeignKey(
        Acknowledgement, models.PROTECT, null=True, db_index=False, related_name="failures"
    )
    is_open = models.GeneratedField(
        expression=Q(acknowledgement__isnull=True),  # type: ignore[arg-type]  # the stubs know no conditions here
        output_field=models.BooleanField(),
        db_persist=True,
    )

    class Meta:
        indexes = [
            models.Index(fields=["-received_at", "-id"], name="failure_by_time"),
            models.Index(fields=["kind", "is_open", "-received_at", "-id"], name="failure_by_kind"),
            models.Index(
                fields=["acknowledgement", "id"],
                condition=Q(acknowledgement__isnull=False),
                name="failure_by_acknowledgement",
            ),
            models.Index(fields=["meter", "kind", "is_open", "-received_at", "-id"], name="failure_by_meter"),
            models.Index(
                fields=["concentrator", "kind", "is_open", "-received_at", "-id"], name="failure_by_concentrator"
            ),
            models.Index(
                fields=["acknowledgement"], condition=Q(acknowledgement__isnull=False), name="failure_acknowledged"
            ),
            models.Index(fields=["kid", "invocation_counter"], name="failure_by_counter"),
            models.Index(
                Func(Func("frame", function="sha256"), Value(1), Value(16), function="substr"), name="failure_by_digest"
            ),
            models.Index(fields=["uplink"], name="failure_by_uplink"),
            models.Index(fields=["kind", "id"], include=["concentrator", "meter"], name="failure_as_stored"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} at {self.received_at:%Y-%m-%d %H:%M:%S} UTC"


class FailureGroup(models.Model):
    """The kept failures of one meter and kind, counted; of frames of no known meter, by concentrator and kind.

    Triggers keep it with every statement on the failures, so that nobody can forget it: the grouped view
    and its counts cost the same in a flood. ``concentrators`` are all that brought such frames.
    """

    kind = models.CharField(max_length=24)
    severity = models.SmallIntegerField()
    meter = models.ForeignKey(Meter, models.CASCADE, null=True, related_name="+")
    concentrator = models.ForeignKey(Concentrator, models.CASCADE, null=True, related_name="+")
    concentrators = ArrayField(models.IntegerField())
    failures = models.BigIntegerField()
    open = models.BigIntegerField()
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["meter", "kind", "concentrator"], nulls_distinct=False, name="failure_group_once"
            )
        ]
        # Each group stands in one of the two. By concentrator: two that the first migration makes.
        indexes = [
            models.Index(fields=["kind", "-last_at", "-id"], condition=Q(open__gt=0), name="failure_group_open"),
            models.Index(fields=["kind", "-last_at", "-id"], condition=Q(open__lte=0), name="failure_group_seen"),
        ]

    def __str__(self) -> str:
        return f"{self.failures} {self.kind}"


class RefusedFrame(models.Model):
    """What is left of a refused frame whose counter was taken, where its evidence is not kept: a digest, and why.

    So that the same frame, sent again, is refused for the same reason, and not taken for a counter used twice.
    """

    pk = models.CompositePrimaryKey("kid", "invocation_counter", "digest")
    kid = models.BinaryField(max_length=22)
    invocation_counter = models.BigIntegerField()
    digest = models.BinaryField(max_length=16, help_text="the first 16 octets of the frame's SHA-256")
    kind = models.CharField(max_length=24)
    received_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["received_at"], name="refused_frame_by_time")]

    def __str__(self) -> str:
        return f"{self.kind}: {bytes(self.kid).hex()} {self.invocation_counter}"


class FailureTally(models.Model):
    """How many frames of a concentrator failed in a kind and hour: goes on where the rows are capped."""

    pk = models.CompositePrimaryKey("concentrator_id", "kind", "hour")
    concentrator = models.ForeignKey(Concentrator, models.PROTECT, related_name="+")
    kind = models.CharField(max_length=24)
    hour = models.DateTimeField()
    failures = models.BigIntegerField()

    class Meta:
        indexes = [models.Index(fields=["-hour", "concentrator", "kind"], name="failure_tally_by_hour")]

    def __str__(self) -> str:
        return f"{self.failures} {self.kind}"
