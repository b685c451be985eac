"""Rotations of the master key, backups that need its versions, and secrets that sign webhooks."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q


class RotationState(models.TextChoices):
    RUNNING = "running"
    STOPPED = "stopped"
    FINISHED = "finished"


class MasterKeyRotation(models.Model):
    """The rewrap of every secret under another master key version, batch by batch; it continues where it stopped."""

    to_version = models.PositiveIntegerField()
    state = models.CharField(max_length=8, choices=RotationState, default=RotationState.RUNNING)
    batch_size = models.PositiveIntegerField()
    total = models.BigIntegerField(help_text="secrets to rewrap when it began")
    rewrapped = models.BigIntegerField(default=0)
    unreadable = models.BigIntegerField(default=0, help_text="secrets that did not open, and were left as they were")
    last_device_key_id = models.BigIntegerField(default=0, help_text="device keys up to here are done")
    started_at = models.DateTimeField(auto_now_add=True)
    beat_at = models.DateTimeField(help_text="last batch")
    finished_at = models.DateTimeField(null=True)

    class Meta:
        permissions = [
            ("rotate_masterkey", "Can rotate the master key"),
            ("destroy_masterkey", "Can destroy a version of the master key, if another person approves"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["state"], condition=~Q(state="finished"), name="rotation_one_at_a_time")
        ]

    def __str__(self) -> str:
        return f"to master key version {self.to_version}: {self.rewrapped} of {self.total}"


class Backup(models.Model):
    """A dump of the database that exists somewhere: the master key versions that it needs are not destroyed.

    Its row is committed before the dump begins, and so is in the dump itself: it tells a database that is restored from
    it after which record of the key journal the replay begins.
    """

    name = models.CharField(max_length=60, unique=True)
    place = models.CharField(max_length=500, help_text="host and folder where it was made")
    made_at = models.DateTimeField()
    journal_number = models.BigIntegerField(help_text="the key journal up to here is in it")
    versions = ArrayField(models.PositiveIntegerField(), help_text="master key versions that its secrets are under")
    active_version = models.PositiveIntegerField(help_text="what came later is under this one, or a later one")
    keep_until = models.DateTimeField()
    sha256 = models.BinaryField(max_length=32, null=True)
    octets = models.BigIntegerField(null=True)
    finished_at = models.DateTimeField(null=True, help_text="empty: under way, or ended badly")
    pruned_at = models.DateTimeField(null=True, help_text="deleted; it needs nothing any more")

    def __str__(self) -> str:
        return self.name


class SigningSecret(models.Model):
    """A secret that signs webhooks (32 octets), or that opens a receiver, wrapped like a fleet key.

    ``owner`` is whatever sends the messages. After a rotation the previous secret also signs until ``expires_at``.
    """

    owner = models.CharField(max_length=100)
    wrapped = models.BinaryField()
    master_key_version = models.PositiveIntegerField(db_index=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["owner"], condition=Q(expires_at=None), name="signing_secret_one_current")
        ]

    def __str__(self) -> str:
        return f"signing secret of {self.owner}"
