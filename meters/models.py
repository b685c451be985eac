"""The meter registry, and what meters say: readings and events."""

from django.contrib.postgres.constraints import ExclusionConstraint
from django.contrib.postgres.fields import DateTimeRangeField, RangeOperators
from django.db import models
from django.db.models import Func, Q

from ami_headend.core.names import Alike, NameField
from meters import (
    archive_models,  # noqa: F401 - tables of this app, too
    code_models,
    group_models,  # noqa: F401 - tables of this app, too
)
from meters.readings.obis import RegisterKind


class MeterStatus(models.TextChoices):
    COMMISSIONED = "commissioned"
    SUSPENDED = "suspended"
    RETIRED = "retired"
    MOVED = "moved"  # to another cell (docs/scaling.md): its frames are accepted and it is commanded there


class Period(Func):
    """The half-open period [from, to) of a dated row; an empty end is open."""

    function = "TSTZRANGE"
    output_field = DateTimeRangeField()


class SameInteger(Func):
    """An integer as a range of one, so that GiST excludes equal ones without the contrib extension btree_gist."""

    template = "int4range(%(expressions)s, %(expressions)s, '[]')"


class Meter(models.Model):
    """A meter by its system title (EUI-64, 8 octets); its keys are known to keyvault by that title only."""

    system_title = models.BinaryField(max_length=8, unique=True, help_text="EUI-64, 8 octets")
    serial_number = NameField(max_length=64, unique=True)
    name = NameField(max_length=120, blank=True)
    status = models.CharField(max_length=12, choices=MeterStatus, default=MeterStatus.COMMISSIONED)
    interval_minutes = models.PositiveSmallIntegerField(default=30, help_text="length of one load-profile interval")
    mask_group = models.CharField(
        max_length=60, blank=True, default="", db_default="", help_text="the mask authorities that it was made with"
    )
    commissioned_at = models.DateTimeField(help_text="intervals are expected from here on")
    retired_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    is_laboratory = models.BooleanField(
        default=False, db_default=False, help_text="a bench meter, whose concentrator may read why frames are rejected"
    )

    class Meta:
        indexes = [models.Index(fields=["id"], condition=Q(is_laboratory=True), name="meter_laboratory")]
        constraints = [
            models.CheckConstraint(
                condition=Q(interval_minutes__gte=1, interval_minutes__lte=1440), name="meter_interval_minutes"
            ),
            models.UniqueConstraint(
                Alike("serial_number"),
                name="meter_serial_number_alike",
                violation_error_message="There is a meter with this serial number, or one that looks like it, already.",
            ),
        ]

    def __str__(self) -> str:
        return self.serial_number


class EarlierLength(models.Model):
    """An interval length that a meter measured in before, and until when; empty ``valid_from``: from its beginning.

    From the end of the last one on ``Meter.interval_minutes`` holds: a meter that never changed has none of these.
    """

    meter = models.ForeignKey(Meter, models.PROTECT, related_name="earlier_lengths", db_index=False)
    interval_minutes = models.PositiveSmallIntegerField()
    valid_from = models.DateTimeField(null=True, blank=True)
    valid_to = models.DateTimeField()

    class Meta:
        verbose_name = "previous interval length"
        constraints = [
            models.CheckConstraint(
                condition=Q(interval_minutes__gte=1, interval_minutes__lte=1440), name="earlier_length_minutes"
            ),
            models.UniqueConstraint(fields=["meter", "valid_to"], name="earlier_length_end"),
            ExclusionConstraint(
                name="earlier_length_one_at_a_time",
                expressions=[
                    (SameInteger("meter_id"), RangeOperators.OVERLAPS),
                    (Period("valid_from", "valid_to"), RangeOperators.OVERLAPS),
                ],
                violation_error_message="The meter has another interval length in that period.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.meter} in {self.interval_minutes} min until {self.valid_to:%Y-%m-%d %H:%M} UTC"


class Place(models.Model):
    """Where energy is metered: a metering point, whichever meter hangs there."""

    name = NameField(max_length=120, unique=True)
    address = NameField(max_length=250, blank=True)
    customer_reference = NameField(max_length=64, blank=True, help_text="of the customer or contract, elsewhere")
    latitude = models.DecimalField(
        max_digits=8, decimal_places=6, null=True, blank=True, help_text="degrees north, WGS 84"
    )
    longitude = models.DecimalField(
        max_digits=9, decimal_places=6, null=True, blank=True, help_text="degrees east, WGS 84"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(
                Alike("name"),
                name="place_name_alike",
                violation_error_message="There is a place with this name, or one that looks like it, already.",
            ),
            models.CheckConstraint(
                condition=Q(latitude=None, longitude=None)
                | Q(latitude__isnull=False, longitude__isnull=False)
                & Q(latitude__gte=-90, latitude__lte=90, longitude__gte=-180, longitude__lte=180),
                name="place_coordinates",
                violation_error_message="Latitude (-90 to 90) and longitude (-180 to 180) go together.",
            ),
        ]
        indexes = [models.Index(fields=["customer_reference", "id"], name="place_by_reference")]

    def __str__(self) -> str:
        return self.name


class Installation(models.Model):
    """A meter at a place over a period; an exchange ends one and begins the next at the same instant."""

    meter = models.ForeignKey(Meter, models.PROTECT, related_name="installations")
    place = models.ForeignKey(Place, models.PROTECT, related_name="installations")
    installed_at = models.DateTimeField()
    removed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            ExclusionConstraint(
                name=f"installation_one_{field}",
                expressions=[
                    (SameInteger(f"{field}_id"), RangeOperators.OVERLAPS),
                    (Period("installed_at", "removed_at"), RangeOperators.OVERLAPS),
                ],
                violation_error_message=f"This {field} already has an installation in that period.",
            )
            for field in ("meter", "place")
        ]

    def __str__(self) -> str:
        return f"{self.meter} at {self.place}"


class Register(models.Model):
    """A register that readings may name: OBIS code, kind, unit and scaler (DLMS: value x 10^scaler unit).

    Immutable but for its name and its bounds, once readings stand on it: they are in its steps.
    """

    id = models.SmallAutoField(primary_key=True)
    obis_code = models.CharField(max_length=24, unique=True)
    kind = models.CharField(max_length=13, choices=[(kind.value, kind.value) for kind in RegisterKind])
    unit = models.CharField(max_length=8, help_text="SenML unit (RFC 8428, RFC 8798)")
    scaler = models.SmallIntegerField(default=0, help_text="one step is 10^scaler units")
    name = models.CharField(max_length=120)
    minimum = models.BigIntegerField(
        null=True, blank=True, help_text="lowest plausible value, in steps; a frame that says less waits"
    )
    maximum = models.BigIntegerField(
        null=True, blank=True, help_text="highest plausible value, in steps; a frame that says more waits"
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(minimum=None) | Q(maximum=None) | Q(minimum__lte=models.F("maximum")),
                name="register_bounds",
                violation_error_message="The lowest plausible value is above the highest.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.obis_code} {self.name}"


class PushProfile(models.Model):
    """What the DLMS notifications of one form say: a version, which never changes but for being retired.

    ``sample`` is a notification of the form, of a meter whose title is ``sample_title``, decrypted, and without what it
    measured.

    A notification is read by the profile of its form for the longest beginning of its meter's title; of
    equal ones by the newest.
    """

    name = NameField(max_length=64)
    version = models.PositiveSmallIntegerField()
    title_prefix = models.BinaryField(max_length=8, help_text="3 to 8 octets: which meters' titles begin so")
    definition = models.JSONField()
    skeleton = models.TextField(help_text="the form of its notifications, with the values blanked")
    skeleton_sha256 = models.BinaryField(max_length=32)
    sample = models.BinaryField(max_length=4096)
    sample_title = models.BinaryField(max_length=8)
    created_at = models.DateTimeField(auto_now_add=True)
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "version"], name="push_profile_version")]

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


class Reading(models.Model):
    """One value of one register at one time, an exact integer in the register's resolution.

    ``interval_minutes`` is the length of the interval for interval registers and 0 for all others;
    ``uplink_id`` names the uplink that brought it, ``scheme`` the scheme that protected it on its way: its number in
    docs/frame.md section 10, NULL for ccm (docs/adr/0030). Partitioned by month of ``captured_at``; the
    primary key has the time first, so that random meters still write next to each other.
    No foreign keys: they would cost a look-up a row, and meters and registers are never deleted.
    """

    pk = models.CompositePrimaryKey("captured_at", "meter_id", "register_id")
    captured_at = models.DateTimeField()
    value = models.BigIntegerField()
    uplink_id = models.BigIntegerField()
    meter = models.ForeignKey(Meter, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    register = models.ForeignKey(Register, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    interval_minutes = models.SmallIntegerField(default=0)
    scheme = models.SmallIntegerField(
        null=True, help_text="number of the scheme that protected it; empty: the usual one"
    )

    def __str__(self) -> str:
        return f"meter {self.meter_id} register {self.register_id} at {self.captured_at:%Y-%m-%d %H:%M:%S} UTC"


class MaskedReading(models.Model):
    """One masked value of one interval, which says nothing alone (docs/schemes.md): 64 bits, stored as a signed number.

    Of the values of a set the mask authorities tell what they add up to; ``set_id`` names it, NULL while the value is
    in none. Partitioned as readings are, and without foreign keys as they are.
    """

    pk = models.CompositePrimaryKey("captured_at", "meter_id", "register_id")
    captured_at = models.DateTimeField()
    value = models.BigIntegerField(help_text="the masked value, as a signed number of 64 bits")
    uplink_id = models.BigIntegerField()
    set_id = models.BigIntegerField(null=True, help_text="the set that its total is of")
    received_at = models.DateTimeField()
    meter = models.ForeignKey(Meter, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    register = models.ForeignKey(Register, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    interval_minutes = models.SmallIntegerField()
    scheme = models.SmallIntegerField()

    def __str__(self) -> str:
        return f"meter {self.meter_id} register {self.register_id} at {self.captured_at:%Y-%m-%d %H:%M:%S} UTC, masked"


class Signature(models.Model):
    """A signature of a meter over a pack of readings, with the pack, under the coupon of that epoch and number.

    Kept as long as its readings: partitioned by month of ``captured_at``, the latest time that the pack says. Of a pack
    that was refused it is the time of receipt: the coupon was spent all the same.
    """

    pk = models.CompositePrimaryKey("captured_at", "meter_id", "epoch", "number")
    captured_at = models.DateTimeField(help_text="the latest time that it says")
    meter = models.ForeignKey(Meter, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    epoch = models.IntegerField()
    number = models.BigIntegerField(help_text="of the coupon, 0 to 2^32 - 1")
    uplink_id = models.BigIntegerField()
    octets = models.BinaryField(help_text="COSE_Sign1")

    def __str__(self) -> str:
        return f"signature {self.number} of meter {self.meter_id}, epoch {self.epoch}"


class MeterEvent(models.Model):
    """What a meter reported of itself: tamper, cover opened, outage, clock set.

    A log may hold several events of one second: one is the same again where its value is, too.
    """

    id = models.BigAutoField(primary_key=True)
    meter = models.ForeignKey(Meter, models.PROTECT, related_name="events", db_index=False)
    register = models.ForeignKey(Register, models.PROTECT, related_name="+")
    captured_at = models.DateTimeField()
    value = models.BigIntegerField()
    uplink_id = models.BigIntegerField()
    received_at = models.DateTimeField()
    scheme = models.SmallIntegerField(
        null=True, help_text="number of the scheme that protected it; empty: the usual one"
    )

    acknowledgement = models.ForeignKey(
        code_models.EventAcknowledgement, models.SET_NULL, null=True, related_name="+", db_index=False
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["meter", "register", "captured_at", "value"], name="meter_event_once_each")
        ]
        indexes = [
            models.Index(fields=["-captured_at", "-id"], name="meter_event_by_time"),
            models.Index(fields=["register", "value", "-captured_at"], name="meter_event_by_code"),
            models.Index(fields=["meter", "captured_at"], name="meter_event_of_meter"),
        ]

    def __str__(self) -> str:
        return f"{self.register} of {self.meter} at {self.captured_at:%Y-%m-%d %H:%M:%S} UTC"


class HouseholdAccess(models.Model):
    """Access to readings or places of household meters: a row for each account, door, meter and hour.

    ``account`` is the account's name, ``door`` the name of the page or address. Neither ``meter`` nor ``place``: rows
    of any meter, as in a list or an export of all. A place that is removed leaves its number here.
    """

    id = models.BigAutoField(primary_key=True)
    hour = models.DateTimeField()
    account = models.CharField(max_length=150)
    door = models.CharField(max_length=60)
    meter = models.ForeignKey(Meter, models.PROTECT, null=True, related_name="+")
    place = models.ForeignKey(
        Place, models.DO_NOTHING, null=True, related_name="+", db_constraint=False, db_index=False
    )
    requests = models.PositiveIntegerField(default=1)
    first_at = models.DateTimeField()
    last_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = "access to household data"
        verbose_name_plural = "accesses to household data"
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "account", "door", "meter", "place"],
                name="household_access_once_an_hour",
                nulls_distinct=False,
            )
        ]

    def __str__(self) -> str:
        return f"{self.account} at {self.door}"
