"""Months of readings that are files instead of partitions."""

from django.db import models


class MonthState(models.TextChoices):
    """How far a month is on its way into the archive, or out of it."""

    CLOSED = "closed"  # nothing is stored or corrected in it any more; its readings are in the database
    WRITTEN = "written"  # and its files are written, and were read again
    ARCHIVED = "archived"  # its readings are in the files alone
    RESTORING = "restoring"  # its readings are on their way back; the files have all of them
    RESTORED = "restored"  # its readings are in the database again, and the files are of no account
    FORGOTTEN = "forgotten"  # past retention: its files are being deleted


IN_FILES = (MonthState.ARCHIVED, MonthState.RESTORING)  # whose readings are read from files
CLOSED = (MonthState.CLOSED, MonthState.WRITTEN, *IN_FILES)  # in which nothing is stored or corrected


class ArchivedMonth(models.Model):
    """A month of readings on its way, and its files.

    ``parts`` names the files, one for each day, with rows, octets and SHA-256; ``registers`` has for each register (by
    id) what its readings add up to, column by column (``archive.layout.Sums``).
    """

    month = models.DateTimeField(primary_key=True, help_text="its first instant, UTC")
    state = models.CharField(max_length=9, choices=MonthState)
    parts = models.JSONField(default=list)
    registers = models.JSONField(default=dict)
    changed_at = models.DateTimeField()
    checked_at = models.DateTimeField(null=True, help_text="when its files were last compared with what was noted")
    under_way = models.JSONField(
        default=dict,
        db_default={},
        help_text="a round over its files: since when, how many are done, what was wrong; empty: none",
    )
    fault = models.TextField(default="", db_default="", help_text="what was wrong then; empty: nothing")

    def __str__(self) -> str:
        return f"{self.month:%Y-%m} {self.state}"
