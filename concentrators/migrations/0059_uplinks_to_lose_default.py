"""Code that does not know the column can add concentrators."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0058_limits_by_account")]
    operations = [
        migrations.AlterField(
            model_name="concentrator",
            name="uplinks_to_lose",
            field=models.PositiveSmallIntegerField(
                db_default=0,
                default=0,
                editable=False,
                help_text="in a conformance run of a laboratory meter, on purpose",
            ),
        ),
    ]
