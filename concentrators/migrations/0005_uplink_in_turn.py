"""The uplinks that a concentrator has waiting, in their order."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0004_waiting_frames")]
    operations = [
        migrations.AddIndex(
            model_name="uplink",
            index=models.Index(
                fields=["concentrator", "id"], condition=models.Q(verified_at=None), name="uplink_in_turn"
            ),
        )
    ]
