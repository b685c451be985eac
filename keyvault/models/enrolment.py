"""Tables of enrolment by certificate: authorities, meters that may enrol, enrolments, and revocations."""

from django.db import models

from keyvault.schemes.table import USUAL


class Authority(models.Model):
    """An authority that vouches for the public keys of meters: its Ed25519 public key (32 octets), pinned by an act.

    Certificates name it by ``kid``. From ``expires_at`` on, if set, its certificates are rejected;
    ``unpinned_at`` is when it was unpinned, until it is pinned again. Because of ``mac`` nobody can pin an authority by
    writing to the database.
    """

    kid = models.BinaryField(max_length=64, unique=True, help_text="how certificates name it (COSE label 4)")
    issuer = models.CharField(max_length=100, help_text="what certificates call iss")
    public = models.BinaryField(max_length=32, help_text="Ed25519 public key, 32 octets (RFC 8032)")
    pinned_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True)
    unpinned_at = models.DateTimeField(null=True)
    mac = models.BinaryField(default=b"", max_length=32, help_text="of all this, under the audit key")

    class Meta:
        verbose_name_plural = "authorities"

    def __str__(self) -> str:
        return self.issuer


class AwaitedEnrolment(models.Model):
    """A meter that may enrol by certificate, once: a new one, or one that an operator lets enrol again."""

    system_title = models.BinaryField(max_length=8, unique=True, help_text="EUI-64, 8 octets")
    scheme = models.CharField(max_length=32, default=USUAL)
    algorithm = models.IntegerField(help_text="COSE algorithm of the epoch that is enrolled")
    allowed_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"enrolment of {bytes(self.system_title).hex()}"


class Enrolment(models.Model):
    """A certificate that enrolled a meter: its cti is used up for good. Each authority has its own numbers."""

    cti = models.BinaryField(max_length=8, help_text="the certificate's number, 8 octets")
    system_title = models.BinaryField(max_length=8)
    epoch = models.PositiveIntegerField()
    authority = models.ForeignKey(Authority, models.PROTECT)
    certificate = models.BinaryField(max_length=512, help_text="CWT in COSE_Sign1")
    issued_at = models.DateTimeField(help_text="the certificate's iat")
    expires_at = models.DateTimeField(help_text="the certificate's exp")
    enrolled_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["system_title", "epoch"], name="enrolment_kid"),
            models.UniqueConstraint(fields=["cti", "authority"], name="enrolment_cti_of_authority"),
        ]

    def __str__(self) -> str:
        return f"enrolment of {bytes(self.system_title).hex()}, epoch {self.epoch}"


class RevokedCertificate(models.Model):
    """A certificate that its authority revoked (cti, 8 octets): it enrols no meter any more.

    An authority cannot revoke certificates of another one, whatever their numbers.
    """

    cti = models.BinaryField(max_length=8)
    authority = models.ForeignKey(Authority, models.PROTECT)
    revocation = models.BinaryField(max_length=512, help_text="COSE_Sign1 of the authority")
    revoked_at = models.DateTimeField(help_text="as the authority says")
    received_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["cti", "authority"], name="revoked_of_authority")]

    def __str__(self) -> str:
        return f"revocation of {bytes(self.cti).hex()}"
