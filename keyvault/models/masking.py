"""The table of pinned mask authorities."""

from django.db import models


class MaskAuthority(models.Model):
    """A mask authority whose answers count: its address, and its Ed25519 public key (32 octets).

    Meters of one ``mask_group`` were made with the keys of all its authorities. ``mac`` keeps whoever writes to the
    database alone from pinning an authority of their own, and from undoing a withdrawal. A withdrawn one is asked no
    more.
    """

    name = models.CharField(max_length=60, unique=True)
    url = models.CharField(max_length=200, help_text="where it answers, without the path")
    mask_group = models.CharField(max_length=60, blank=True, help_text="which meters were made with it")
    public = models.BinaryField(max_length=32, unique=True, help_text="Ed25519 public key, 32 octets (RFC 8032)")
    pinned_at = models.DateTimeField()
    withdrawn_at = models.DateTimeField(null=True)
    mac = models.BinaryField(max_length=32, help_text="of all this but the time of pinning, under the audit key")

    class Meta:
        verbose_name_plural = "mask authorities"

    def __str__(self) -> str:
        return self.name
