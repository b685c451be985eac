"""The audit chain, and approvals by a second person."""

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.fields.json import KeyTextTransform


class AuditKey(models.Model):
    """The key of the audit chain's HMAC (32 octets), wrapped under the master key like a fleet key. One row."""

    wrapped = models.BinaryField()
    master_key_version = models.PositiveIntegerField(db_index=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return "audit key"


class AuditRecord(models.Model):
    """One act on keys or rights: who did what, to which keys, when, from where, with what result.

    Append-only: a trigger refuses changes. ``number`` has no gaps; ``mac`` is HMAC-SHA-256 (32 octets) over the record
    and the mac before it, which reveals changed or removed rows.
    """

    number = models.BigIntegerField(primary_key=True)
    at = models.DateTimeField()
    actor = models.CharField(max_length=150, help_text="account, or the system user of a command")
    source = models.CharField(max_length=100, help_text="from where: address, or command and host")
    act = models.CharField(max_length=60)
    subject = models.JSONField(default=dict, help_text="keys by id and fingerprint, counts; never octets of keys")
    result = models.CharField(max_length=250)
    mac = models.BinaryField(max_length=32)

    class Meta:
        permissions = [("export_auditrecord", "Can verify and export the audit record")]
        indexes = [
            models.Index(fields=["-at"], name="audit_by_time"),
            models.Index(
                KeyTextTransform("kid", "subject"),
                F("number").desc(),
                name="audit_of_authority",
                condition=Q(act__in=["authority.pin", "authority.unpin"]),
            ),
            models.Index(
                fields=["number"], name="audit_of_mask_withdrawals", condition=Q(act="mask_authority.withdraw")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.number} {self.act} by {self.actor}"


class Approval(models.Model):
    """A sensitive act that one person requested, and that another must approve before it is done, once.

    ``subject`` is exactly what is to be done: the approval is valid for nothing else. Names stay as they were then; the
    accounts beside them still say who it was after an account is renamed.
    """

    act = models.CharField(max_length=60)
    subject = models.JSONField(default=dict)
    reason = models.CharField(max_length=250, blank=True, help_text="why it is to be done")
    requested_by = models.CharField(max_length=150)
    requester = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    requested_at = models.DateTimeField(auto_now_add=True)
    approved_by = models.CharField(max_length=150, blank=True)
    approver = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    approved_at = models.DateTimeField(null=True)
    refused_by = models.CharField(max_length=150, blank=True)
    refused_at = models.DateTimeField(null=True)
    refusal = models.CharField(max_length=250, blank=True, db_default="", help_text="why it was refused")
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    class Meta:
        permissions = [("decide_approval", "Can approve or refuse what another person asked for")]
        constraints = [
            models.CheckConstraint(condition=~Q(approved_by=F("requested_by")), name="approval_by_another"),
            models.CheckConstraint(
                condition=Q(requester=None) | Q(approver=None) | ~Q(approver=F("requester")),
                name="approval_by_another_account",
            ),
            models.CheckConstraint(condition=Q(used_at=None) | Q(approved_at__isnull=False), name="approval_first"),
        ]
        indexes = [models.Index(fields=["expires_at"], condition=Q(used_at=None), name="approval_open")]

    def __str__(self) -> str:
        return f"{self.act}, asked for by {self.requested_by}"
