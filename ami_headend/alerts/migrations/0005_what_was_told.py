"""What receivers were told so far: of open alerts, and of those with a message on its way, which is written anew."""

from typing import Any

from django.db import migrations
from django.utils import timezone


def note_what_was_told(apps: Any, schema_editor: Any) -> None:
    """One conversation for each alert and receiver that had a message, as far as it still matters."""
    alias = schema_editor.connection.alias
    deliveries = apps.get_model("alerts", "Delivery").objects.using(alias)
    conversations = apps.get_model("alerts", "Conversation").objects.using(alias)
    now = timezone.now()
    for channel in apps.get_model("alerts", "Channel").objects.using(alias):
        deliveries.filter(channel=channel).update(channel_name=channel.name)
        recipients = [""] if channel.kind == "webhook" else [one.strip() for one in channel.address.split(",")]
        told = deliveries.filter(channel=channel, alert__isnull=False)
        under_way = told.filter(delivered_at=None, given_up_at=None)
        unsure = set(under_way.values_list("alert", flat=True))
        of_open = told.filter(alert__resolved_at=None).values_list("alert", "alert__notified_at")
        told_at = dict(of_open.distinct()) | dict.fromkeys(unsure)
        conversations.bulk_create(
            conversations.model(
                alert_id=alert_id,
                channel=channel,
                recipient=recipient,
                word="unsure" if alert_id in unsure else "open",
                subjects=1,
                disturbed_at=disturbed_at,
                look_at=now,
            )
            for alert_id, disturbed_at in told_at.items()
            for recipient in dict.fromkeys(recipients)
        )
        under_way.update(given_up_at=now, last_error="written anew after an upgrade")


class Migration(migrations.Migration):
    dependencies = [("alerts", "0004_conversations")]
    operations = [
        migrations.RunPython(note_what_was_told, migrations.RunPython.noop),
        migrations.RemoveField(model_name="alert", name="notified_at"),
    ]
