"""Commands to meters, and rollouts of device keys."""

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from concentrators.models.fleet import Concentrator
from keyvault.models import Approval, FleetKey
from meters.models import Meter


class WaveState(models.TextChoices):
    HELD = "held", "held (a second person must release it)"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped", "stopped (failure budget spent)"
    CANCELLED = "cancelled"
    FINISHED = "finished"


class RotationWave(models.Model):
    """New device keys for many meters, at a bounded rate, with a failure budget that stops it."""

    name = models.CharField(max_length=120)
    state = models.CharField(max_length=9, choices=WaveState, default=WaveState.RUNNING)
    rate_per_hour = models.PositiveIntegerField(help_text="key commands queued an hour at most")
    failure_budget = models.PositiveIntegerField(help_text="commands that may fail or expire before the wave stops")
    algorithm = models.IntegerField(null=True, help_text="of the new keys; empty: as the old one's")
    scheme = models.CharField(
        max_length=32, blank=True, default="", db_default="", help_text="of the new keys; empty: as the old one's"
    )
    agreement_key = models.CharField(
        max_length=100, blank=True, default="", db_default="", help_text="name of that which new keys go with, if any"
    )
    fleet_key = models.ForeignKey(
        FleetKey, models.PROTECT, null=True, related_name="+", help_text="new keys are derived from it"
    )
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(auto_now_add=True)
    approval = models.ForeignKey(
        Approval, models.PROTECT, null=True, related_name="+", help_text="that a second person decides or decided"
    )
    finished_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.name


class WaveMeter(models.Model):
    """A meter that a wave is to give a new key; ``command`` is empty until its turn comes."""

    wave = models.ForeignKey(RotationWave, models.CASCADE, related_name="meters")
    meter = models.ForeignKey(Meter, models.PROTECT, related_name="+")
    command = models.OneToOneField("Command", models.PROTECT, null=True, related_name="wave_meter")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["wave", "meter"], name="wave_meter_once")]
        indexes = [models.Index(fields=["wave", "id"], condition=Q(command=None), name="wave_waiting")]

    def __str__(self) -> str:
        return f"{self.meter_id} in wave {self.wave_id}"


class CommandKind(models.IntegerChoices):
    """The first element of a command's plaintext (docs/frame.md)."""

    SET_KEY = 1, "set key"
    READ_NOW = 2, "read now"
    RESEND = 3, "resend"
    SET_CLOCK = 4, "set clock"
    SET_INTERVAL = 5, "set interval"
    SET_CONCENTRATOR = 7, "set concentrator"


class CommandState(models.TextChoices):
    HELD = "held", "held (a second person must release it)"
    QUEUED = "queued"
    OFFERED = "offered", "offered (a concentrator has fetched it)"
    DELIVERED = "delivered", "delivered (the concentrator says so)"
    DONE = "done", "done (the meter says so)"
    REFUSED = "refused", "refused (the meter says so)"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Command(models.Model):
    """A command to a meter: sealed once under a key, offered octet for octet, done when the meter says so.

    The number that the meter sees and answers is the row's id. ``octets`` is the sealed frame: what it
    holds of a key is ciphertext. The concentrator that the meter is assigned to has a schedule of its own
    (``next_attempt_at``), and so has another one that heard the meter last (``elsewhere_attempt_at``; empty: the
    same): neither can put the other off.
    """

    id = models.BigAutoField(primary_key=True)
    meter = models.ForeignKey(Meter, models.PROTECT, related_name="commands")
    kind = models.PositiveSmallIntegerField(choices=CommandKind)
    parameters = models.JSONField(default=dict, help_text="times, lengths, epochs; never a key")
    state = models.CharField(max_length=9, choices=CommandState, default=CommandState.QUEUED)
    octets = models.BinaryField(null=True)
    kid = models.BinaryField(max_length=10, null=True, help_text="sealed under")
    key_version = models.PositiveIntegerField(null=True, help_text="of the key that it was sealed under")
    invocation_counter = models.BigIntegerField(null=True)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="times offered to the meter's concentrator")
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(auto_now_add=True)
    next_attempt_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    offered_at = models.DateTimeField(null=True, help_text="first fetched")
    offered_to = models.ForeignKey(Concentrator, models.PROTECT, null=True, related_name="+")
    elsewhere_attempts = models.PositiveSmallIntegerField(
        db_default=0, default=0, help_text="times offered to another one"
    )
    elsewhere_attempt_at = models.DateTimeField(null=True)
    offered_elsewhere_to = models.ForeignKey(
        Concentrator,
        models.PROTECT,
        null=True,
        db_index=False,
        related_name="+",
        help_text="heard the meter last, and is not its own",
    )
    delivered_at = models.DateTimeField(null=True)
    failures = models.PositiveSmallIntegerField(
        db_default=0, default=0, help_text="times a concentrator could not pass it on"
    )
    failed_at = models.DateTimeField(null=True, help_text="a concentrator could not pass it on, the last time")
    late_answers = models.PositiveSmallIntegerField(
        db_default=0, default=0, help_text="times the meter said: it came too late"
    )
    ended_at = models.DateTimeField(null=True, help_text="done, refused, expired or cancelled")
    approval = models.ForeignKey(
        Approval,
        models.PROTECT,
        null=True,
        db_index=False,
        related_name="+",
        help_text="that a second person decides or decided",
    )
    entered_at = models.DateTimeField(null=True, help_text="set interval: when the registry took the length over")

    class Meta:
        indexes = [
            models.Index(
                fields=["meter", "next_attempt_at"],
                condition=Q(state__in=["queued", "offered", "delivered"]),
                name="command_open",
            ),
            models.Index(
                fields=["expires_at"], condition=Q(state__in=["queued", "offered", "delivered"]), name="command_expiry"
            ),
            models.Index(
                fields=["meter"],
                condition=Q(kind=5, entered_at=None) & ~Q(state__in=["refused", "cancelled"]),
                name="command_announced_length",
            ),
            models.Index(fields=["approval"], condition=Q(approval__isnull=False), name="command_approval"),
        ]

    def __str__(self) -> str:
        return f"command {self.pk}: {self.get_kind_display()}"


class LimitSpan(models.TextChoices):
    """What the commands of a limit are counted over."""

    ACT = "act", "in one act"
    HOUR = "hour", "an hour"
    DAY = "day", "a day"


class CommandLimit(models.Model):
    """How many commands of a kind an account may give; what is beyond is held until a second person releases it."""

    kind = models.PositiveSmallIntegerField(choices=CommandKind)
    span = models.CharField(
        max_length=4, choices=LimitSpan, help_text="one act is a command, a wave, or an order to many"
    )
    most = models.PositiveIntegerField(help_text="commands; 0: each needs a second person")
    share_percent = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="for one act: no more than this share of the meters in service, if it is more than 100 commands",
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        verbose_name="account",
        help_text="that has this limit in place of the general one, with the programs whose tokens it made; "
        "empty: every one",
    )
    account = models.CharField(
        max_length=160,
        blank=True,
        verbose_name="program or system user",
        help_text="token:NAME of a program that has this limit instead and is counted by itself, or a system user of "
        "the terminal who has no account",
    )

    class Meta:
        verbose_name = "limit of commands"
        verbose_name_plural = "limits of commands"
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "span", "account"],
                condition=Q(owner=None),
                name="command_limit_once",
                violation_error_message="There is a limit for this kind, span and account already: change that one.",
            ),
            models.UniqueConstraint(
                fields=["kind", "span", "owner"],
                name="command_limit_owner",
                violation_error_message="There is a limit for this kind, span and account already: change that one.",
            ),
            models.CheckConstraint(
                condition=Q(share_percent=None) | Q(span=LimitSpan.ACT),
                name="command_limit_share",
                violation_error_message="Only a limit of one act can be a share of the meters.",
            ),
        ]

    def __str__(self) -> str:
        whose = f" of {self.owner or self.account}" if self.owner_id or self.account else ""
        return f"{self.get_kind_display()} {self.get_span_display()}{whose}"


class CommandTally(models.Model):
    """How many commands an account gave in a minute that were not held."""

    account = models.CharField(max_length=160, help_text="account:NUMBER, token:NAME, or a system user's name")
    kind = models.PositiveSmallIntegerField(choices=CommandKind)
    minute = models.DateTimeField(help_text="when it began")
    number = models.PositiveIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["account", "kind", "minute"], name="command_tally_once")]
        indexes = [models.Index(fields=["minute"], name="command_tally_minute")]

    def __str__(self) -> str:
        return f"{self.account}, {self.get_kind_display()}, {self.minute}"
