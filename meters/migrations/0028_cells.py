"""Meters that were moved to another cell."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("meters", "0027_restoring")]
    operations = [
        migrations.AlterField(
            model_name="meter",
            name="status",
            field=models.CharField(
                choices=[
                    ("commissioned", "Commissioned"),
                    ("suspended", "Suspended"),
                    ("retired", "Retired"),
                    ("moved", "Moved"),
                ],
                default="commissioned",
                max_length=12,
            ),
        ),
    ]
