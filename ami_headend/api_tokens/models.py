"""Tokens of programs."""

from datetime import datetime

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from ami_headend.core.names import NameField
from ami_headend.core.text import check_one_line


class ApiToken(models.Model):
    """How a program signs in. Of its secrets only digests are stored: the present one, and after a rotation the
    previous one until ``previous_until``.

    A revoked token stays, so that records that name it can be explained.
    """

    name = NameField(max_length=100, validators=[check_one_line], help_text="the program, as records name it")
    scopes = ArrayField(models.CharField(max_length=20))
    group_ids = ArrayField(
        models.IntegerField(),
        null=True,
        blank=True,
        help_text="groups of meters that it is limited to; null: all meters. A group that is removed opens nothing",
    )
    digest = models.BinaryField(max_length=32, unique=True)
    created_at = models.DateTimeField()
    created_by = models.CharField(max_length=150)
    maker = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="the account that has the present secret: it made the token, or rotated it last",
    )
    issued_at = models.DateTimeField(help_text="of the present secret")
    expires_at = models.DateTimeField()
    previous_digest = models.BinaryField(max_length=32, null=True, blank=True, unique=True)
    previous_until = models.DateTimeField(null=True, blank=True)
    previous_maker = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="the account that has the previous secret, if it is not the maker",
    )
    previous_used_at = models.DateTimeField(null=True, blank=True, help_text="when the previous secret was used last")
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="to the minute")
    last_used_from = models.CharField(max_length=45, blank=True, help_text="address")

    class Meta:
        verbose_name = "API token"
        ordering = ["name", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["name"],
                condition=Q(revoked_at=None),
                name="api_token_name_in_use",
                violation_error_message="another token has this name",
            )
        ]

    def __str__(self) -> str:
        return self.name

    def state(self, now: datetime) -> str:
        """Whether it is ``valid``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at <= now else "valid"

    def maker_of(self, *, is_previous: bool) -> int | None:
        """Return the account (by id) that has one of its secrets, and stands behind what is done with it."""
        return self.previous_maker_id if is_previous and self.previous_maker_id is not None else self.maker_id

    def takes_previous(self, now: datetime) -> bool:
        """Whether its previous secret is good, too."""
        return self.state(now) == "valid" and self.previous_until is not None and self.previous_until > now
