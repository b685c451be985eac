"""Rules, the alerts that they raise, channels, conversations and messages."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from ami_headend.alerts.reminders import Word
from ami_headend.core.text import NOTE_LENGTH, check_one_line
from concentrators.failures.kinds import Severity
from concentrators.models import ReadDay, ReadDeadline
from meters.group_models import FleetGroup


class Condition(models.TextChoices):
    """The conditions of rules. ``ami_headend/alerts/conditions`` finds them; ``advice.py`` says what to do."""

    FAILURE_RATE = "failure_rate", "share of refused frames"
    KIND_SEEN = "kind_seen", "integrity failures of a kind"
    METER_EVENT = "meter_event", "meter events (tamper, cover opened)"
    OUTAGE = "outage", "meters of a concentrator without power"
    SILENT_METER = "silent_meter", "silent meter"
    SILENT_CONCENTRATOR = "silent_concentrator", "silent concentrator"
    COMPLETENESS = "completeness", "completeness of intervals"
    READ_DEADLINE = "read_deadline", "readings that were not there by a deadline"
    AGGREGATE_MISMATCH = "aggregate_mismatch", "sums of a concentrator that differ from ours"
    REGISTERS_DIFFER = "registers_differ", "meters whose registers and intervals differ"
    ROTATION_STALLED = "rotation_stalled", "stalled rotation"
    KEYS_WORN = "keys_worn", "device keys due for replacement"
    AGREEMENT_KEY_IN_USE = "agreement_key_in_use", "replaced agreement key still in use"
    AUTHORITY_EXPIRES = "authority_expires", "authority about to expire"
    MASK_AUTHORITY = "mask_authority", "mask authority that does not answer"
    MASKED_REFUSED = "masked_refused", "masked totals that are refused"
    FEED_LAG = "feed_lag", "consumer of the feed that lags"
    COUPONS_OUT = "coupons_out", "meter without coupons"
    AUDIT_BROKEN = "audit_broken", "broken audit chain"
    MASTER_KEY_DOWN = "master_key_down", "unusable master key"
    QUEUE_LAG = "queue_lag", "uplinks that wait too long"
    BACKUP_OVERDUE = "backup_overdue", "overdue backup"
    API_TOKEN_EXPIRES = "api_token_expires", "token of a program about to expire"
    SIEM_BEHIND = "siem_behind", "security events that wait for the SIEM"
    COMMANDS_HELD = "commands_held", "commands that wait for a second person"
    COMPONENT_DOWN = "component_down", "component that is not well"


class SubjectKind(models.TextChoices):
    """The kind of subject of an alert; all but the last three name a row by its id."""

    METER = "meter", "meter"
    CONCENTRATOR = "concentrator", "concentrator"
    WAVE = "wave", "rotation wave"
    AGREEMENT_KEY = "agreement", "agreement key"
    AUTHORITY = "authority", "authority"
    COMPONENT = "component", "component"
    MASTER_KEY = "master_key", "master key"
    FLEET = "fleet", "the whole head-end"


SEVERITIES = [(severity.value, severity.name.lower()) for severity in Severity]


class Rule(models.Model):
    """A condition with its thresholds. ``parameters.py`` says what each number means for a condition.

    ``marks`` is what the rule remembers from one evaluation to the next.
    """

    name = models.CharField(max_length=120, unique=True, validators=[check_one_line])
    condition = models.CharField(max_length=20, choices=Condition)
    selector = models.CharField(
        max_length=40, blank=True, help_text="kind of failure; or log, code or severity of events"
    )
    threshold = models.FloatField(null=True, blank=True)
    period_minutes = models.PositiveIntegerField(null=True, blank=True)
    group = models.ForeignKey(
        FleetGroup,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="only meters and concentrators of this group, as of now",
    )
    severity = models.SmallIntegerField(choices=SEVERITIES, default=Severity.WARNING.value)
    quiet_minutes = models.PositiveIntegerField(default=240, help_text="receivers are reminded after this time")
    is_enabled = models.BooleanField("enabled", default=True)
    evaluated_at = models.DateTimeField(null=True, editable=False)
    took_ms = models.PositiveIntegerField(default=0, editable=False)
    last_error = models.CharField(max_length=250, blank=True, editable=False)
    marks = models.JSONField(default=dict, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Alert(models.Model):
    """A problem that a rule found with one subject, from its beginning to its end.

    At most one alert is open per rule and subject. One that begins again within the rule's quiet time is the same
    alert.
    """

    id = models.BigAutoField(primary_key=True)
    rule = models.ForeignKey(Rule, models.PROTECT, related_name="alerts")
    severity = models.SmallIntegerField(choices=SEVERITIES)
    subject_kind = models.CharField(max_length=12, choices=SubjectKind)
    subject_id = models.BigIntegerField(default=0, help_text="the id of its row; 0 if it has no row")
    subject = models.CharField(max_length=120, help_text="its name at the last evaluation")
    subjects = models.PositiveIntegerField(default=1, help_text="the number of subjects at the last evaluation")
    summary = models.CharField(max_length=250)
    opened_at = models.DateTimeField()
    seen_at = models.DateTimeField(help_text="last evaluation that found it")
    resolved_at = models.DateTimeField(null=True)
    acknowledged_at = models.DateTimeField(null=True)
    acknowledged_by = models.CharField(max_length=150, blank=True)
    snoozed_until = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["rule", "subject_kind", "subject_id"], condition=Q(resolved_at=None), name="alert_open_once"
            )
        ]
        indexes = [
            models.Index(fields=["-severity", "opened_at"], condition=Q(resolved_at=None), name="alert_open"),
            models.Index(fields=["rule", "subject_kind", "subject_id", "-id"], name="alert_by_subject"),
            models.Index(fields=["-resolved_at"], condition=Q(resolved_at__isnull=False), name="alert_history"),
        ]
        permissions = [("handle_alert", "Can acknowledge and snooze alerts")]

    def __str__(self) -> str:
        return f"{self.rule.name}: {self.subject}"


class Step(models.TextChoices):
    """An event in the history of an alert."""

    OPENED = "opened", "opened"
    REOPENED = "reopened", "began again"
    REMINDED = "reminded", "reminded"
    ACKNOWLEDGED = "acknowledged", "acknowledged"
    SNOOZED = "snoozed", "snoozed"
    WOKEN = "woken", "snooze ended"
    NOTED = "noted", "noted"
    RESOLVED = "resolved", "ended"


class AlertStep(models.Model):
    """One line of an alert's history; ``actor`` is empty if the head-end itself acted."""

    id = models.BigAutoField(primary_key=True)
    alert = models.ForeignKey(Alert, models.CASCADE, related_name="steps")
    at = models.DateTimeField()
    step = models.CharField(max_length=12, choices=Step)
    actor = models.CharField(max_length=150, blank=True)
    note = models.CharField(max_length=NOTE_LENGTH, blank=True)

    def __str__(self) -> str:
        return f"{self.step} at {self.at}"


class ChannelKind(models.TextChoices):
    EMAIL = "email", "e-mail"
    WEBHOOK = "webhook", "signed webhook"
    DEADLINE = "mails", "daily mail of a deadline"


class Channel(models.Model):
    """Receivers of alerts of a least severity; or, of the daily mail of a deadline, for all or for one group.

    keyvault stores the signing secret of a webhook.
    """

    name = models.CharField(max_length=120, unique=True, validators=[check_one_line])
    kind = models.CharField(max_length=7, choices=ChannelKind)
    address = models.CharField(
        max_length=1000, help_text="an https:// address, or e-mail addresses separated by commas"
    )
    least_severity = models.SmallIntegerField(
        "least severity",
        choices=SEVERITIES,
        default=Severity.WARNING.value,
        help_text="only alerts of at least this severity are sent",
    )
    deadline = models.ForeignKey(
        ReadDeadline,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="of daily mails: each day is told once it was due and counted",
    )
    group = models.ForeignKey(
        FleetGroup,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        help_text="of daily mails: only the concentrators of this group",
    )
    is_enabled = models.BooleanField("enabled", default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        permissions = [("rotate_channel_secret", "Can make new signing secrets of webhooks")]

    def __str__(self) -> str:
        return self.name

    @property
    def recipients(self) -> list[str]:
        """Return each e-mail address; for a webhook, its one receiver, which has no name."""
        if self.kind == ChannelKind.WEBHOOK:
            return [""]
        return list(dict.fromkeys(address.strip() for address in self.address.split(",")))

    @property
    def secret_owner(self) -> str:
        """Return the name of this channel's signing secrets in keyvault."""
        return f"alert channel {self.pk}"


class GatheredSubjects(models.Model):
    """The subjects of a shared alert at the last evaluation: at most SUBJECTS_KEPT ids."""

    alert = models.OneToOneField(Alert, models.CASCADE, primary_key=True, related_name="gathered")
    kind = models.CharField(max_length=12, choices=SubjectKind)
    ids = ArrayField(models.BigIntegerField())

    def __str__(self) -> str:
        return f"{len(self.ids)} of {self.alert_id}"


class Conversation(models.Model):
    """What one receiver of a channel knows of an alert, and when to decide again: see reminders.py.

    ``recipient`` is one e-mail address of the channel; empty for a webhook. At most one message is under way.
    """

    id = models.BigAutoField(primary_key=True)
    alert = models.ForeignKey(Alert, models.CASCADE, related_name="conversations")
    channel = models.ForeignKey(Channel, models.CASCADE, related_name="conversations")
    recipient = models.CharField(max_length=254, blank=True)
    word = models.CharField(
        max_length=7, choices=[(word.value, word.value) for word in Word], default=Word.NOTHING.value
    )
    subjects = models.PositiveIntegerField(default=0, help_text="the number of subjects in its last message")
    disturbed_at = models.DateTimeField(null=True, help_text="its last message about a problem")
    flaps = models.PositiveSmallIntegerField(default=0)
    look_at = models.DateTimeField(null=True, help_text="when to send it a message, if nothing changes until then")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["alert", "channel", "recipient"], name="conversation_once")]
        indexes = [models.Index(fields=["look_at"], condition=Q(look_at__isnull=False), name="conversation_due")]

    def __str__(self) -> str:
        return f"{self.channel} of {self.alert_id}: {self.word}"


class Delivery(models.Model):
    """One message to one receiver. It is sent until it is taken, replaced or given up; a lost task costs only time.

    ``body`` is fixed when it is written, so that every attempt says the same. ``leased_at`` is set while a worker sends
    it. When its channel is removed, the message stays under the channel's name.
    """

    id = models.BigAutoField(primary_key=True)
    channel = models.ForeignKey(Channel, models.SET_NULL, null=True, related_name="deliveries")
    channel_name = models.CharField("name of the channel", max_length=120, default="")
    recipient = models.CharField(max_length=254, blank=True)
    alert = models.ForeignKey(Alert, models.CASCADE, null=True, related_name="deliveries")
    conversation = models.ForeignKey(Conversation, models.SET_NULL, null=True, related_name="deliveries")
    of_day = models.ForeignKey(ReadDay, models.SET_NULL, null=True, related_name="+", help_text="of daily mails")
    event = models.CharField(max_length=20)
    body = models.JSONField()
    created_at = models.DateTimeField()
    due_at = models.DateTimeField(help_text="when the sweep sends it, if nobody did before")
    leased_at = models.DateTimeField(null=True, help_text="when a worker began to send it")
    attempts = models.PositiveSmallIntegerField(default=0)
    delivered_at = models.DateTimeField(null=True)
    given_up_at = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=250, blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        constraints = [
            models.UniqueConstraint(
                fields=["conversation"],
                condition=Q(delivered_at=None, given_up_at=None, conversation__isnull=False),
                name="delivery_one_under_way",
            ),
            models.UniqueConstraint(fields=["of_day", "channel", "recipient"], name="delivery_of_day_once"),
        ]
        indexes = [
            models.Index(
                fields=["due_at"], condition=Q(delivered_at=None, given_up_at=None), name="delivery_undelivered"
            ),
            models.Index(fields=["channel", "-id"], name="delivery_by_channel"),
            models.Index(fields=["channel"], condition=Q(leased_at__isnull=False), name="delivery_leased"),
        ]

    def __str__(self) -> str:
        return f"{self.event} to {self.channel_name}{f' ({self.recipient})' if self.recipient else ''}"

    @property
    def message_id(self) -> str:
        """The same at every attempt, so that receivers recognise the message."""
        return f"msg_{self.pk}"


class StoredMark(models.Model):
    """The highest ids of failures and meter events at a time: rows with higher ids were stored later.

    Neither ``received_at`` nor ``captured_at`` says when a row was stored: an uplink may wait and be judged again.
    """

    at = models.DateTimeField(primary_key=True)
    failure_id = models.BigIntegerField()
    event_id = models.BigIntegerField()

    def __str__(self) -> str:
        return str(self.at)
