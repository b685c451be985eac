"""Bench meters: their failures raise no alerts, and their concentrator may read why frames are rejected."""

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("meters", "0019_event_scheme")]
    operations = [
        migrations.AddField(
            model_name="meter",
            name="is_laboratory",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="a bench meter, whose concentrator may read why frames are rejected",
            ),
        ),
        migrations.AddIndex(
            model_name="meter",
            index=models.Index(condition=Q(("is_laboratory", True)), fields=["id"], name="meter_laboratory"),
        ),
    ]
