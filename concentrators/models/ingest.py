"""Posted uplinks, and what has their frames judged again."""

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from ami_headend.core.text import NOTE_LENGTH
from concentrators.models.fleet import Concentrator


class Uplink(models.Model):
    """One posted body: its octets (decoded), their SHA-256, and what became of its frames.

    While ``verified_at`` is empty, a worker or the sweep still owes its verdicts; once set,
    accepted + duplicate + rejected = frames, always. ``body`` is emptied when its keeping ends.
    """

    id = models.BigAutoField(primary_key=True)
    concentrator = models.ForeignKey(Concentrator, models.PROTECT, related_name="uplinks")
    received_at = models.DateTimeField()
    corrected_at = models.DateTimeField(
        null=True, help_text="received at, by a right clock, where the head-end's was behind (ClockCorrection)"
    )
    sha256 = models.BinaryField(max_length=32)
    body = models.BinaryField(null=True)
    octets = models.PositiveIntegerField()
    frames = models.PositiveIntegerField()
    accepted = models.PositiveIntegerField(default=0)
    duplicate = models.PositiveIntegerField(default=0)
    rejected = models.PositiveIntegerField(default=0)
    failures = models.JSONField(default=dict, help_text="rejected frames by kind")
    waiting = models.PositiveIntegerField(default=0, help_text="rejected frames that may be judged again")
    waiting_frames = models.JSONField(null=True, help_text="indexes of those frames in the uplink, by kind")
    verified_at = models.DateTimeField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="failed attempts to verify")
    claims = models.PositiveSmallIntegerField(db_default=0, help_text="times the sweep enqueued it again")
    begun = models.PositiveSmallIntegerField(
        db_default=0, help_text="times work on it began after the sweep had claimed it"
    )
    progress = models.JSONField(null=True, help_text="how far it is, where it is verified piece by piece")
    due_at = models.DateTimeField(help_text="when the sweep enqueues it again, if not verified")
    last_error = models.CharField(max_length=500, blank=True)

    class Meta:
        permissions = [
            ("verify_again_uplink", "Can have frames judged again that wait"),
            ("correct_clock_uplink", "Can say that the head-end's clock was behind, and have frames judged again"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["concentrator", "sha256"], condition=Q(body__isnull=False), name="uplink_once"
            ),
            models.CheckConstraint(
                condition=Q(verified_at=None) | Q(frames=F("accepted") + F("duplicate") + F("rejected")),
                name="uplink_verdicts_add_up",
            ),
        ]
        indexes = [
            models.Index(fields=["due_at"], condition=Q(verified_at=None), name="uplink_unverified"),
            models.Index(fields=["concentrator", "id"], condition=Q(verified_at=None), name="uplink_in_turn"),
            models.Index(fields=["received_at"], condition=Q(body__isnull=False), name="uplink_kept"),
            models.Index(fields=["id"], condition=Q(waiting__gt=0, body__isnull=False), name="uplink_waiting"),
            models.Index(fields=["concentrator", "-received_at"], name="uplink_by_concentrator"),
            models.Index(fields=["verified_at"], condition=Q(verified_at__isnull=False), name="uplink_by_verdict"),
        ]

    def __str__(self) -> str:
        return f"uplink {self.pk}"


class ClockCorrection(models.Model):
    """Somebody says that the head-end's clock was behind: which times it gave, and by how much they were too low.

    Uplinks received from ``start`` on and before ``end``, by that clock, have a corrected time of receipt.
    """

    start = models.DateTimeField()
    end = models.DateTimeField()
    behind_s = models.PositiveIntegerField(help_text="seconds that the clock was behind")
    first_uplink = models.BigIntegerField(null=True, help_text="uplinks before it are left alone")
    by = models.CharField(max_length=150)
    at = models.DateTimeField()
    note = models.CharField(max_length=NOTE_LENGTH)

    def __str__(self) -> str:
        return f"{self.behind_s} s behind from {self.start:%Y-%m-%d %H:%M:%S} to {self.end:%Y-%m-%d %H:%M:%S} UTC"


class Reverification(models.Model):
    """What frames wait for has come, or may have: those that wait for it are to be judged again, uplink by uplink.

    Written by triggers where a push profile, a register, a meter or a key comes, a register or an interval length
    changes, or a meter is taken back into service. Done, it goes.
    """

    id = models.BigAutoField(primary_key=True)
    cause = models.CharField(
        max_length=8, help_text="what has come: profile, register, length, meter, key; or all, or clock"
    )
    created_at = models.DateTimeField(db_default=Now())
    position = models.BigIntegerField(db_default=0, help_text="uplinks up to this id are done")
    tries = models.PositiveSmallIntegerField(db_default=0, help_text="of the uplink after them, without an end")

    def __str__(self) -> str:
        return f"{self.cause} after uplink {self.position}"


class ListenerFigures(models.Model):
    """What a listener for DLMS meters has counted, over all its lives under one name; for metrics.

    ``connections`` are those open at ``told_at``, by the database's clock; all other numbers only grow.
    """

    name = models.CharField(max_length=120, primary_key=True, help_text="host, address, port and link")
    told_at = models.DateTimeField()
    connections = models.IntegerField()
    accepted = models.BigIntegerField(default=0, help_text="connections that were served")
    refused = models.BigIntegerField(default=0, help_text="connections that were closed for a reason")
    cut_off = models.BigIntegerField(default=0, help_text="connections that ended amid a notification")
    notifications = models.BigIntegerField(default=0, help_text="notifications that came whole")
    committed = models.BigIntegerField(default=0, help_text="of these, those in stored uplinks")
    dropped = models.BigIntegerField(default=0, help_text="of these, those that reception refused")

    def __str__(self) -> str:
        return self.name
