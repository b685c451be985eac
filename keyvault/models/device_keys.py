"""Device keys at rest, and their invocation counters. Key octets are stored only wrapped."""

from django.db import models
from django.db.models import F, Q

from keyvault.cose.algorithms import AES_CCM_16_64_128
from keyvault.schemes.table import USUAL, algorithm_choices, scheme_choices


class Int8MultiRangeField(models.Field):  # type: ignore[type-arg]
    """PostgreSQL's int8multirange; Django has no field of its own for multiranges."""

    def db_type(self, connection: object) -> str:
        return "int8multirange"


class KeyState(models.TextChoices):
    PENDING = "pending"
    ACTIVE = "active"
    RETIRING = "retiring"
    RETIRED = "retired"
    COMPROMISED = "compromised"


class KeySource(models.TextChoices):
    STORED = "stored", "stored (random, wrapped under the master key)"
    DERIVED = "derived", "derived (from a fleet key and the system title)"
    AGREED = "agreed", "agreed (X25519 with the meter's public key)"


class FleetKey(models.Model):
    """A key of 32 octets from which device keys are derived; it is wrapped like a stored device key."""

    name = models.CharField(max_length=100, unique=True)
    wrapped = models.BinaryField(help_text="COSE_Encrypt0, A256GCM, kid = master key version")
    master_key_version = models.PositiveIntegerField(db_index=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class AgreementState(models.TextChoices):
    """The state of a version of an agreement key."""

    ACTIVE = "active"
    REPLACED = "replaced"
    CUT_OFF = "cut_off", "cut off"


class AgreementKey(models.Model):
    """One version of an X25519 key pair of the head-end, by which it agrees on keys with meters.

    ``wrapped`` is the private key (32 octets) as COSE_Encrypt0 (A256GCM) under the master key, bound by its AAD to
    name and version. Versions are never deleted: the epochs of meters name theirs.
    """

    name = models.CharField(max_length=100)
    version = models.PositiveIntegerField()
    public = models.BinaryField(max_length=32, unique=True, help_text="X25519 public key, 32 octets (RFC 7748)")
    wrapped = models.BinaryField(help_text="COSE_Encrypt0, A256GCM, kid = master key version")
    master_key_version = models.PositiveIntegerField(db_index=True)
    state = models.CharField(max_length=8, choices=AgreementState, default=AgreementState.ACTIVE)
    created_at = models.DateTimeField(auto_now_add=True)
    replaced_at = models.DateTimeField(null=True)
    cut_off_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["name", "version"], name="agreement_key_version"),
            models.UniqueConstraint(fields=["name"], condition=Q(state="active"), name="agreement_key_one_active"),
        ]

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


class DevicePublicKey(models.Model):
    """An X25519 public key (32 octets), which belongs to one meter and never to another.

    The row of an agreed device key has its public key, too; this table keeps two meters from having the same one.
    """

    public = models.BinaryField(max_length=32, unique=True)
    system_title = models.BinaryField(max_length=8, db_index=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"public key of {bytes(self.system_title).hex()}"


class DeviceKey(models.Model):
    """One key of one device: epoch 0 is its transfer key, epochs from 1 protect frames.

    ``wrapped`` is a stored key as COSE_Encrypt0 (A256GCM) under the master key, bound by its AAD to system title, epoch
    and purpose. A derived key stores only its fleet key. For an agreed key it is the public key of the meter: that is
    no secret, but whoever could replace it could act as the meter. ``agreement_key`` is the version with which the key
    was agreed on, and to which an envelope is sealed. ``version`` moves with every change of what the key opens, so
    that caches with the version in their key need no invalidation.
    """

    system_title = models.BinaryField(max_length=8, help_text="EUI-64, 8 octets")
    epoch = models.PositiveIntegerField(help_text="0 is the transfer key")
    algorithm = models.IntegerField(choices=algorithm_choices, default=AES_CCM_16_64_128, help_text="COSE algorithm")
    scheme = models.CharField(
        max_length=32,
        choices=scheme_choices,
        default=USUAL,
        db_default=USUAL,
        help_text="the scheme that protects its readings",
    )
    state = models.CharField(max_length=11, choices=KeyState, default=KeyState.ACTIVE)
    source = models.CharField(max_length=7, choices=KeySource, default=KeySource.STORED)
    fleet_key = models.ForeignKey(FleetKey, models.PROTECT, null=True, blank=True)
    agreement_key = models.ForeignKey(AgreementKey, models.PROTECT, null=True, blank=True, db_index=False)
    wrapped = models.BinaryField(null=True)
    master_key_version = models.PositiveIntegerField(null=True, db_index=True)
    version = models.PositiveIntegerField(default=1)
    fingerprint = models.BinaryField(max_length=8, null=True, help_text="names the key in audit; tells nothing of it")
    created_at = models.DateTimeField(auto_now_add=True)
    offered_at = models.DateTimeField(null=True, help_text="a concentrator has fetched it: the meter may have it")
    activated_at = models.DateTimeField(null=True, help_text="first valid frame")
    retiring_at = models.DateTimeField(null=True, help_text="the next epoch was activated")

    class Meta:
        permissions = [
            ("provision_devicekey", "Can give devices keys"),
            ("rotate_devicekey", "Can replace device keys by new ones"),
            ("compromise_devicekey", "Can cut device keys off for good"),
            ("export_devicekey", "Can export device keys, if another person approves"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["system_title", "epoch"], name="device_key_kid"),
            models.UniqueConstraint(
                fields=["system_title"], condition=Q(state="active", epoch__gt=0), name="device_key_one_active"
            ),
            models.UniqueConstraint(
                fields=["system_title"], condition=Q(state="pending", epoch__gt=0), name="device_key_one_pending"
            ),
            models.CheckConstraint(condition=Q(epoch__lte=0xFFFF), name="device_key_epoch_2_octets"),
            models.CheckConstraint(
                condition=Q(source="stored", wrapped__isnull=False, master_key_version__isnull=False, fleet_key=None)
                | Q(source="derived", wrapped=None, master_key_version=None, fleet_key__isnull=False)
                | Q(
                    source="agreed",
                    wrapped__isnull=False,
                    master_key_version__isnull=False,
                    fleet_key=None,
                    agreement_key__isnull=False,
                ),
                name="device_key_source",
            ),
        ]
        indexes = [
            models.Index(fields=["retiring_at"], condition=Q(state="retiring"), name="device_key_retiring"),
            models.Index(  # finds the few of a scheme among millions; no index helps for the usual scheme
                fields=["scheme", "system_title"],
                condition=Q(state="active", epoch__gt=0) & ~Q(scheme=USUAL),
                name="device_key_scheme",
            ),
            models.Index(
                fields=["agreement_key", "state"],
                condition=Q(agreement_key__isnull=False),
                name="device_key_agreement",
            ),
        ]

    def __str__(self) -> str:
        return f"{bytes(self.system_title).hex()} epoch {self.epoch}"


class InvocationCounter(models.Model):
    """Which invocation counters of one device key were taken: all from floor to highest except the gaps.

    Nothing is known below ``floor``; ``highest`` -1 means that no counter was taken. ``heard_at`` and ``heard_via`` (an
    id of the caller: the concentrator) describe the last accepted frame. ``key_version`` copies the version of the key
    row, so that one compare-and-set here finds a changed counter and a changed key. The row is narrow and its indexes
    hardly ever change: updates stay HOT.
    """

    key = models.OneToOneField(DeviceKey, models.CASCADE, primary_key=True, related_name="counter")
    key_version = models.PositiveIntegerField(default=1)
    highest = models.BigIntegerField(default=-1)
    floor = models.BigIntegerField(default=0)
    gaps = Int8MultiRangeField(db_default=models.Value("{}"))
    heard_at = models.DateTimeField(null=True)
    heard_via = models.IntegerField(null=True)
    session_floor = models.BinaryField(
        default=b"", db_default=b"", max_length=12, help_text="the highest session that was given up"
    )

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(floor__lte=F("highest") + 1), name="counter_floor")]
        indexes = [
            # The devices of a concentrator: it changes when another concentrator hears a device.
            models.Index(fields=["heard_via"], condition=Q(heard_via__isnull=False), name="counter_heard_via")
        ]

    def __str__(self) -> str:
        return f"counter of key {self.key_id}"


class Session(models.Model):
    """Which counters of one session of a device key were taken, and when it was heard, as of a key's own counter.

    ``context`` is the kid context (12 octets), which names it; sessions of a key rank by it. ``key_version`` is that of
    the key, too: a trigger moves it. A session begins, and is given up, with the row of the key's own counter held,
    where ``session_floor`` stands; its frames write nothing but its own row.
    """

    key = models.ForeignKey(DeviceKey, models.CASCADE, db_index=False, related_name="sessions")
    key_version = models.PositiveIntegerField(default=1)
    context = models.BinaryField(max_length=12)
    highest = models.BigIntegerField()
    floor = models.BigIntegerField(default=0)
    gaps = Int8MultiRangeField(db_default=models.Value("{}"))
    heard_at = models.DateTimeField(null=True)
    heard_via = models.IntegerField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["key", "context"], name="session_of_key"),
            models.CheckConstraint(condition=Q(floor__lte=F("highest") + 1), name="session_counter_floor"),
        ]
        indexes = [models.Index(fields=["heard_via"], condition=Q(heard_via__isnull=False), name="session_heard_via")]

    def __str__(self) -> str:
        return f"session {bytes(self.context).hex()} of key {self.key_id}"


# Tables whose rows are deleted before that of their device key.
TABLES_OF_A_KEY = ("keyvault_session", "keyvault_invocationcounter", "keyvault_downlinkcounter", "keyvault_tagfailures")


class DownlinkCounter(models.Model):
    """The last invocation counter used for commands under one device key: max(last + 1, 256 x Unix seconds)."""

    key = models.OneToOneField(DeviceKey, models.CASCADE, primary_key=True, related_name="downlink_counter")
    last = models.BigIntegerField()

    def __str__(self) -> str:
        return f"downlink counter of key {self.key_id}: {self.last}"


class TagFailures(models.Model):
    """How many frames with a bad tag named one device key. Anyone can send them: they only raise an alarm."""

    key = models.OneToOneField(DeviceKey, models.CASCADE, primary_key=True, related_name="tag_failures")
    failures = models.BigIntegerField()

    class Meta:
        verbose_name = verbose_name_plural = "invalid tags by key"

    def __str__(self) -> str:
        return f"{self.failures} bad tags for key {self.key_id}"
