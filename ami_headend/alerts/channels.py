"""Channels: create, change, delete, new secrets. Each act is audited; a secret is returned once, to be shown once."""

from datetime import datetime
from urllib.parse import urlsplit

from django.db import transaction

from ami_headend.alerts import deadline_mails, reminders_store
from ami_headend.alerts.models import Channel, ChannelKind, Delivery
from ami_headend.core import rows
from keyvault import webhook_signatures
from keyvault.audit import chain
from keyvault.audit.chain import Actor


@transaction.atomic
def save(channel: Channel, actor: Actor, now: datetime) -> str | None:
    """Store a new or changed channel and write its messages. Return the signing secret of a new webhook."""
    is_new = channel.pk is None
    if not is_new:
        rows.hold(channel)
    channel.save()
    chain.record(actor, f"alert_channel.{'create' if is_new else 'change'}", _subject(channel))
    secret = None
    if is_new and channel.kind == ChannelKind.WEBHOOK:
        secret = webhook_signatures.issue(channel.secret_owner, now)
    if channel.kind == ChannelKind.DEADLINE:
        deadline_mails.withdraw(channel, now)
    else:
        reminders_store.settle_channel(channel, now)
    return secret


@transaction.atomic
def rotate_secret(channel: Channel, actor: Actor, now: datetime) -> str:
    """Make a new signing secret; messages are signed with the old one too for a day. ValueError: not a webhook."""
    if channel.kind != ChannelKind.WEBHOOK:
        raise ValueError(f"{channel} is not a webhook: it has no secret")
    secret = webhook_signatures.issue(channel.secret_owner, now)
    chain.record(actor, "alert_channel.rotate_secret", _subject(channel))
    return secret


@transaction.atomic
def delete(channel: Channel, actor: Actor, now: datetime) -> None:
    """Remove a channel with its secrets. Sent messages stay under its name; unsent ones are given up."""
    rows.hold(channel)
    waiting = Delivery.objects.filter(channel=channel, delivered_at=None, given_up_at=None)
    waiting.update(given_up_at=now, last_error="the channel was removed")
    Delivery.objects.filter(channel=channel).update(channel_name=channel.name)
    chain.record(actor, "alert_channel.delete", _subject(channel))
    webhook_signatures.withdraw(channel.secret_owner)
    channel.delete()


def _subject(channel: Channel) -> dict[str, object]:
    """Return what the audit chain records of a channel; only the host of a webhook, as some paths contain secrets."""
    return {
        "channel": channel.pk,
        "name": channel.name,
        "kind": channel.kind,
        "to": urlsplit(channel.address).hostname if channel.kind == ChannelKind.WEBHOOK else channel.address,
        "is_enabled": channel.is_enabled,
        "deadline": None if channel.deadline is None else channel.deadline.name,
        "group": None if channel.group is None else str(channel.group),
    }
