"""Tables of scheme ``signed``: certified identities of meters, coupon lists, coupons, and proof of double use."""

from django.db import models

from keyvault.models.enrolment import Authority


class MeterIdentity(models.Model):
    """The Ed25519 key (32 octets) that an authority certified for a meter: it signs the meter's coupon lists.

    Because of ``mac`` nobody can register an identity by writing to the database. A row from before identities had one
    is confirmed by ``manage.py meter_identity confirm``.
    """

    system_title = models.BinaryField(max_length=8, db_index=True)
    public = models.BinaryField(max_length=32, unique=True, help_text="Ed25519 public key, 32 octets (RFC 8032)")
    cti = models.BinaryField(max_length=8, help_text="the certificate's number, 8 octets")
    authority = models.ForeignKey(Authority, models.PROTECT)
    certificate = models.BinaryField(max_length=512, help_text="CWT in COSE_Sign1")
    issued_at = models.DateTimeField(help_text="the certificate's iat")
    expires_at = models.DateTimeField(help_text="the certificate's exp")
    registered_at = models.DateTimeField()
    mac = models.BinaryField(default=b"", max_length=32, help_text="of title, key and certificate, under the audit key")

    class Meta:
        verbose_name_plural = "meter identities"
        constraints = [models.UniqueConstraint(fields=["cti", "authority"], name="identity_cti_of_authority")]

    def __str__(self) -> str:
        return f"identity of {bytes(self.system_title).hex()}"


class CouponList(models.Model):
    """A list that announced coupons of a meter, as the meter signed it; ``public`` is its Y (32 octets)."""

    id = models.BigAutoField(primary_key=True)
    identity = models.ForeignKey(MeterIdentity, models.PROTECT)  # its index tells of a meter's lists
    octets = models.BinaryField(max_length=1024, help_text="COSE_Sign1")
    digest = models.BinaryField(max_length=32, unique=True, help_text="SHA-256 of the octets")
    public = models.BinaryField(max_length=32, help_text="Y, a point of edwards25519")
    uplink_id = models.BigIntegerField()
    received_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"coupon list {self.pk}"


class Coupon(models.Model):
    """A coupon: what one signature of a meter may be made under, once. ``spent_on`` names that signature."""

    id = models.BigAutoField(primary_key=True)
    announced = models.ForeignKey(CouponList, models.PROTECT, db_index=False)
    system_title = models.BinaryField(max_length=8)
    epoch = models.IntegerField()
    number = models.BigIntegerField(help_text="0 to 2^32 - 1")
    point = models.BinaryField(max_length=32, unique=True, help_text="K")
    commitment = models.BinaryField(max_length=32, unique=True, help_text="C")
    spent_on = models.BinaryField(max_length=32, null=True, help_text="SHA-256 of the Sign1 that spent it")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["system_title", "epoch", "number"], name="coupon_once")]
        indexes = [models.Index(fields=["system_title"], condition=models.Q(spent_on=None), name="coupon_left")]

    def __str__(self) -> str:
        return f"coupon {self.number} of {bytes(self.system_title).hex()}, epoch {self.epoch}"


class CouponDispute(models.Model):
    """Proof that a meter signed, or announced, twice what it may once: ``second`` is the COSE_Sign1 that was refused.

    The first is kept with the readings, or is the coupon's list. One of each kind for a coupon is proof enough.
    """

    id = models.BigAutoField(primary_key=True)
    coupon = models.ForeignKey(Coupon, models.PROTECT, db_index=False)
    is_list = models.BooleanField(help_text="whether two lists announced it; else two signatures were made under it")
    second = models.BinaryField(max_length=1024)
    uplink_id = models.BigIntegerField()
    found_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["coupon", "is_list"], name="coupon_dispute_once")]

    def __str__(self) -> str:
        return f"dispute of coupon {self.coupon_id}"
