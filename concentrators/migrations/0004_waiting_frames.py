from django.db import migrations, models
from django.db.models import Q

# What is known of uplinks that were verified before: where every waiting frame has its failure row. Of the others
# nothing tells which frames wait, and they are never judged again.
FILL = """
    UPDATE concentrators_uplink u SET waiting_frames = w.frames
    FROM (SELECT uplink_id, jsonb_object_agg(kind, indexes) AS frames, sum(n) AS n
          FROM (SELECT uplink_id, kind, jsonb_agg(frame_index ORDER BY frame_index) AS indexes, count(*) AS n
                FROM concentrators_integrityfailure WHERE kind IN ('unknown_device', 'unknown_epoch')
                GROUP BY uplink_id, kind) AS by_kind
          GROUP BY uplink_id) AS w
    WHERE u.id = w.uplink_id AND u.waiting > 0 AND u.waiting = w.n
"""


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0003_rotation")]

    operations = [
        migrations.AddField(
            model_name="uplink",
            name="waiting_frames",
            field=models.JSONField(help_text="indexes of those frames in the uplink, by kind", null=True),
        ),
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
        migrations.AddIndex(
            model_name="uplink",
            index=models.Index(fields=["id"], condition=Q(waiting__gt=0, body__isnull=False), name="uplink_waiting"),
        ),
    ]
