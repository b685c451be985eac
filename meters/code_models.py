"""What a site puts in the place of shipped codes, and who has dealt with which meter events."""

from django.db import models

from ami_headend.core.text import NOTE_LENGTH
from meters.codes.tables import Table


class SiteCode(models.Model):
    """An entry of the site in a table of codes (``meters/codes``), instead of the shipped one or beside it."""

    table = models.CharField(max_length=16, choices=[(one.value, one.label) for one in Table])
    key = models.CharField(max_length=48, help_text="OBIS code, name of a fact, or log and code")
    value = models.JSONField()
    changed_at = models.DateTimeField()
    changed_by = models.CharField(max_length=150)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["table", "key"], name="site_code_once_each")]

    def __str__(self) -> str:
        return f"{self.key} of {self.table}"


class EventAcknowledgement(models.Model):
    """What a person noted about meter events, and when. The events themselves never change."""

    id = models.BigAutoField(primary_key=True)
    by = models.CharField(max_length=150)
    at = models.DateTimeField()
    note = models.CharField(max_length=NOTE_LENGTH)
    events = models.PositiveIntegerField(help_text="how many events it covers")

    def __str__(self) -> str:
        return f"acknowledgement {self.pk} by {self.by}"
