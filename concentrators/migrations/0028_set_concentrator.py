"""A command that tells a meter its concentrator."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0027_hop_keys")]
    operations = [
        migrations.AlterField(
            model_name="command",
            name="kind",
            field=models.PositiveSmallIntegerField(
                choices=[
                    (1, "set key"),
                    (2, "read now"),
                    (3, "resend"),
                    (4, "set clock"),
                    (5, "set interval"),
                    (7, "set concentrator"),
                ]
            ),
        ),
    ]
