"""Concentrators: registry, tokens, assigned meters, and the keys and reports of those that hold keys."""

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import ArrayField, RangeOperators
from django.db import models
from django.db.models import Q

from ami_headend.core.names import Alike, NameField
from meters.group_models import FleetGroup
from meters.models import Meter, Period, SameInteger


class Concentrator(models.Model):
    """A data concentrator unit (DCU) that posts the frames of its meters.

    One that holds keys has a system title, which no meter has: triggers hold that (docs/schemes.md).
    """

    name = NameField(max_length=120, unique=True)
    system_title = models.BinaryField(
        max_length=8, null=True, blank=True, unique=True, help_text="EUI-64, 8 octets; of a concentrator that has keys"
    )
    is_active = models.BooleanField(default=True, help_text="an inactive concentrator is refused at the door")
    moved_to = models.CharField(
        max_length=16, blank=True, default="", db_default="", editable=False, help_text="the cell that has it now"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    uplinks_to_lose = models.PositiveSmallIntegerField(
        default=0, db_default=0, editable=False, help_text="in a conformance run of a laboratory meter, on purpose"
    )

    # What DRF asks of request.user; a concentrator never signs in otherwise.
    is_authenticated = True
    is_anonymous = False

    class Meta:
        constraints = [
            models.UniqueConstraint(
                Alike("name"),
                name="concentrator_name_alike",
                violation_error_message="There is a concentrator with this name, or one that looks like it, already.",
            ),
            models.CheckConstraint(
                condition=Q(moved_to="") | Q(is_active=False),
                name="concentrator_moved_is_not_active",
                violation_error_message="This concentrator was moved to another cell: only that one may let it in.",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ConcentratorToken(models.Model):
    """A bearer token of 256 random bits, of which only the SHA-256 is kept. Several may be valid at once."""

    concentrator = models.ForeignKey(Concentrator, models.CASCADE, related_name="tokens")
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    label = models.CharField(max_length=120, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="to the minute")

    def __str__(self) -> str:
        return self.label or f"token {self.pk}"


class Assignment(models.Model):
    """A meter belongs to a concentrator over a period; intervals starting in it count to that concentrator."""

    meter = models.ForeignKey(Meter, models.PROTECT, related_name="assignments")
    concentrator = models.ForeignKey(Concentrator, models.PROTECT, related_name="assignments")
    valid_from = models.DateTimeField()
    valid_to = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            ExclusionConstraint(
                name="assignment_one_concentrator",
                expressions=[
                    (SameInteger("meter_id"), RangeOperators.OVERLAPS),
                    (Period("valid_from", "valid_to"), RangeOperators.OVERLAPS),
                ],
                violation_error_message="The meter is already assigned in that period.",
            )
        ]
        indexes = [
            models.Index(fields=["meter", "valid_to"], condition=Q(valid_to__isnull=False), name="assignment_ended"),
        ]

    def __str__(self) -> str:
        return f"{self.meter} to {self.concentrator} from {self.valid_from:%Y-%m-%d %H:%M} UTC"


class ConcentratorInGroup(models.Model):
    """A concentrator is in a group; the meters that are assigned to it now are in it, too."""

    pk = models.CompositePrimaryKey("group_id", "concentrator_id")
    group = models.ForeignKey(FleetGroup, models.CASCADE, related_name="+", db_index=False)
    concentrator = models.ForeignKey(Concentrator, models.CASCADE, related_name="+")

    def __str__(self) -> str:
        return f"concentrator {self.concentrator_id} in {self.group_id}"


class RegistryGeneration(models.Model):
    """One row: random numbers that triggers change with every statement on meters or assignments, and on registers.

    Workers keep all three in memory for as long as it stands (concentrators/ingest/meter_cache.py).
    """

    number = models.BigIntegerField()
    registers = models.BigIntegerField(db_default=0)

    def __str__(self) -> str:
        return f"{self.number}, {self.registers}"


class HopKeySet(models.Model):
    """The keys of hop tags as they were sealed for a concentrator, given again octet for octet until one changes.

    What is sealed is derived of the keys in the vault: nothing is lost where the row is.
    """

    concentrator = models.OneToOneField(Concentrator, models.CASCADE, primary_key=True, related_name="hop_keys")
    digest = models.BinaryField(max_length=32, null=True, help_text="of what is in it, and of what it is sealed under")
    octets = models.BinaryField(null=True, help_text="a CBOR sequence of COSE_Encrypt0")
    sealed_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"hop keys of {self.concentrator_id}"


class HopFailure(models.Model):
    """What a concentrator says that it dropped on its local link, by meter, hour and reason."""

    pk = models.CompositePrimaryKey("concentrator_id", "hour", "meter_id", "reason")
    concentrator = models.ForeignKey(Concentrator, models.CASCADE, related_name="+", db_index=False)
    hour = models.DateTimeField(db_index=True)
    meter = models.ForeignKey(Meter, models.CASCADE, related_name="+")
    reason = models.CharField(max_length=12)
    frames = models.BigIntegerField()
    samples = ArrayField(models.BinaryField(), help_text="frames as they came")
    reported_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.frames} {self.reason} of meter {self.meter_id}"
