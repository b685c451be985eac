"""Channels: made, changed, tested, their secrets made anew. Audited; a secret is given once, to be shown once."""

from datetime import datetime
from urllib.parse import urlsplit

from django.db import transaction

from ami_headend.alerts import conversations
from ami_headend.alerts.models import Channel, ChannelKind, Delivery
from keyvault import signing
from keyvault.audit import chain
from keyvault.audit.chain import Actor


@transaction.atomic
def save(channel: Channel, actor: Actor, now: datetime) -> str | None:
    """Store a new or changed channel, and write what it is to hear of. Gives the signing secret of a new webhook."""
    is_new = channel.pk is None
    channel.save()
    chain.record(actor, f"alert_channel.{'create' if is_new else 'change'}", _subject(channel))
    secret = None
    if is_new and channel.kind == ChannelKind.WEBHOOK:
        secret = signing.issue(channel.secret_owner, now)
    conversations.settle_channel(channel, now)
    return secret


@transaction.atomic
def rotate_secret(channel: Channel, actor: Actor, now: datetime) -> str:
    """Make another signing secret; the one before signs beside it for a day. ValueError: no webhook."""
    if channel.kind != ChannelKind.WEBHOOK:
        raise ValueError(f"{channel} is no webhook: it has no secret")
    secret = signing.issue(channel.secret_owner, now)
    chain.record(actor, "alert_channel.rotate_secret", _subject(channel))
    return secret


@transaction.atomic
def delete(channel: Channel, actor: Actor, now: datetime) -> None:
    """Remove a channel with its secrets. What was sent stays, under its name; what was not is given up."""
    waiting = Delivery.objects.filter(channel=channel, delivered_at=None, given_up_at=None)
    waiting.update(given_up_at=now, last_error="the channel was removed")
    Delivery.objects.filter(channel=channel).update(channel_name=channel.name)
    chain.record(actor, "alert_channel.delete", _subject(channel))
    signing.withdraw(channel.secret_owner)
    channel.delete()


def _subject(channel: Channel) -> dict[str, object]:
    """What the audit chain tells of a channel; of a webhook the host alone, as paths of some services are secrets."""
    return {
        "channel": channel.pk,
        "name": channel.name,
        "kind": channel.kind,
        "to": urlsplit(channel.address).hostname if channel.kind == ChannelKind.WEBHOOK else channel.address,
        "is_enabled": channel.is_enabled,
    }
