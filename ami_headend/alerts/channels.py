"""Channels: made, changed, tested, their secrets made anew. Audited; a secret is given once, to be shown once."""

from datetime import datetime
from urllib.parse import urlsplit

from django.db import transaction

from ami_headend.alerts.models import Channel, ChannelKind
from keyvault import audit, signing
from keyvault.audit import Actor


@transaction.atomic
def save(channel: Channel, actor: Actor, now: datetime) -> str | None:
    """Store a new or changed channel. Gives the signing secret of a new webhook, None otherwise."""
    is_new = channel.pk is None
    channel.save()
    audit.record(actor, f"alert_channel.{'create' if is_new else 'change'}", _subject(channel))
    if is_new and channel.kind == ChannelKind.WEBHOOK:
        return signing.issue(channel.secret_owner, now)
    return None


@transaction.atomic
def rotate_secret(channel: Channel, actor: Actor, now: datetime) -> str:
    """Make another signing secret; the one before signs beside it for a day. ValueError: no webhook."""
    if channel.kind != ChannelKind.WEBHOOK:
        raise ValueError(f"{channel} is no webhook: it has no secret")
    secret = signing.issue(channel.secret_owner, now)
    audit.record(actor, "alert_channel.rotate_secret", _subject(channel))
    return secret


@transaction.atomic
def delete(channel: Channel, actor: Actor) -> None:
    """Remove a channel with its secrets and what was to be sent by it."""
    audit.record(actor, "alert_channel.delete", _subject(channel))
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
