"""Who posts and what was posted: concentrators, tokens, uplinks, verdicts, failures and totals."""

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import ArrayField, RangeOperators
from django.db import models
from django.db.models import F, Func, Q, Value
from django.db.models.functions import Now

from ami_headend.core.names import Alike, NameField
from ami_headend.core.text import NOTE_LENGTH
from concentrators.failures.kinds import FailureKind, Severity
from keyvault.models import FleetKey
from meters.models import Meter, Period, Register, SameInteger


class Concentrator(models.Model):
    """A data concentrator unit (DCU) that posts the frames of its meters.

    One that holds keys has a system title, which no meter has: triggers hold that (docs/schemes.md).
    """

    name = NameField(max_length=120, unique=True)
    system_title = models.BinaryField(
        max_length=8, null=True, blank=True, unique=True, help_text="EUI-64, 8 octets; of a concentrator that has keys"
    )
    is_active = models.BooleanField(default=True, help_text="an inactive concentrator is refused at the door")
    created_at = models.DateTimeField(auto_now_add=True)

    # What DRF asks of request.user; a concentrator never signs in otherwise.
    is_authenticated = True
    is_anonymous = False

    class Meta:
        constraints = [
            models.UniqueConstraint(
                Alike("name"),
                name="concentrator_name_alike",
                violation_error_message="There is a concentrator with this name, or one that looks like it, already.",
            )
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


class RegistryGeneration(models.Model):
    """One row: random numbers that triggers change with every statement on meters or assignments, and on registers.

    Workers keep all three in memory for as long as it stands (concentrators/ingest/meter_cache.py).
    """

    number = models.BigIntegerField()
    registers = models.BigIntegerField(db_default=0)

    def __str__(self) -> str:
        return f"{self.number}, {self.registers}"


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

    Written by triggers where a register, a meter or a key comes, a register or an interval length changes, or a meter
    is taken back into service. Done, it goes.
    """

    id = models.BigAutoField(primary_key=True)
    cause = models.CharField(max_length=8, help_text="what has come: register, length, meter, key; or all, or clock")
    created_at = models.DateTimeField(db_default=Now())
    position = models.BigIntegerField(db_default=0, help_text="uplinks up to this id are done")
    tries = models.PositiveSmallIntegerField(db_default=0, help_text="of the uplink after them, without an end")

    def __str__(self) -> str:
        return f"{self.cause} after uplink {self.position}"


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


class IntervalTotal(models.Model):
    """Sum of an interval register over the meters assigned to a concentrator at the interval's start.

    Sums are in the register's resolution. How many meters were expected follows from the assignments.
    """

    pk = models.CompositePrimaryKey("concentrator_id", "register_id", "interval_minutes", "interval_start")
    concentrator = models.ForeignKey(Concentrator, models.PROTECT, related_name="+", db_index=False)
    register = models.ForeignKey(Register, models.PROTECT, related_name="+", db_index=False)
    interval_minutes = models.SmallIntegerField()
    interval_start = models.DateTimeField()
    value_sum = models.DecimalField(max_digits=30, decimal_places=0)
    meters_counted = models.IntegerField()

    class Meta:
        indexes = [models.Index(fields=["interval_start"], name="total_by_time")]

    def __str__(self) -> str:
        return f"{self.concentrator_id} {self.register_id} {self.interval_start}"


class ExpectedStep(models.Model):
    """How many meters of a concentrator are expected in the intervals of a length that begin at an instant or later.

    Until its next step. Follows from assignments, meters, installations and lengths (``expected.py``), so that a
    total is held against it by one look.
    """

    pk = models.CompositePrimaryKey("concentrator_id", "interval_minutes", "at")
    concentrator = models.ForeignKey(Concentrator, models.CASCADE, related_name="+", db_index=False)
    interval_minutes = models.SmallIntegerField()
    at = models.DateTimeField()
    meters = models.IntegerField()

    def __str__(self) -> str:
        return f"{self.concentrator_id}: {self.meters} from {self.at} on"


class StaleSteps(models.Model):
    """A concentrator whose expected steps no longer follow from its meters: triggers write it with every change.

    Only ever inserted, and deleted by whoever makes the steps anew: no change waits for another.
    """

    id = models.BigAutoField(primary_key=True)
    concentrator = models.ForeignKey(
        Concentrator, models.CASCADE, related_name="+", db_index=False, db_constraint=False
    )

    def __str__(self) -> str:
        return f"of concentrator {self.concentrator_id}"


class WaveState(models.TextChoices):
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
    fleet_key = models.ForeignKey(
        FleetKey, models.PROTECT, null=True, related_name="+", help_text="new keys are derived from it"
    )
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(auto_now_add=True)
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
        ]

    def __str__(self) -> str:
        return f"command {self.pk}: {self.get_kind_display()}"


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


class ReportedSum(models.Model):
    """What a concentrator says that an interval of its hop and mac meters adds up to, and what we add up ourselves.

    The sum under the highest epoch and counter stands. ``own_sum`` is over the values of the same meters that are
    here; ``differs_since`` says since when the two differ, and is empty where they do not.
    """

    pk = models.CompositePrimaryKey("concentrator_id", "register_id", "interval_minutes", "interval_start")
    concentrator = models.ForeignKey(Concentrator, models.PROTECT, related_name="+", db_index=False)
    register = models.ForeignKey(Register, models.PROTECT, related_name="+", db_index=False)
    interval_minutes = models.SmallIntegerField()
    interval_start = models.DateTimeField(db_index=True)
    value_sum = models.BigIntegerField(help_text="in the register's steps")
    meters_counted = models.IntegerField()
    epoch = models.IntegerField()
    invocation_counter = models.BigIntegerField()
    uplink_id = models.BigIntegerField()
    own_sum = models.DecimalField(max_digits=30, decimal_places=0, null=True)
    own_meters = models.IntegerField(null=True)
    compared_at = models.DateTimeField(null=True)
    differs_since = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["concentrator", "differs_since"],
                condition=Q(differs_since__isnull=False),
                name="reported_sum_differs",
            )
        ]

    def __str__(self) -> str:
        return f"{self.concentrator_id} {self.register_id} {self.interval_start}"


class UncomparedSum(models.Model):
    """A place of a reported sum that is to be compared anew: only ever inserted, so that nobody waits for another."""

    id = models.BigAutoField(primary_key=True)
    concentrator_id = models.IntegerField()
    register_id = models.SmallIntegerField()
    interval_minutes = models.SmallIntegerField()
    interval_start = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.concentrator_id} {self.register_id} {self.interval_start}"
