"""Events of a meter in order of time: what ended an outage is its next event. Takes the place of the plain index."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("meters", "0022_codes_of_a_site")]
    operations = [
        migrations.AddIndex(
            model_name="meterevent",
            index=models.Index(fields=["meter", "captured_at"], name="meter_event_of_meter"),
        ),
        migrations.AlterField(
            model_name="meterevent",
            name="meter",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="events",
                to="meters.meter",
            ),
        ),
    ]
