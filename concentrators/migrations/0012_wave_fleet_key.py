"""A wave may derive the new keys from a fleet key."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0011_verify_again"), ("keyvault", "0005_epochs")]
    operations = [
        migrations.AddField(
            model_name="rotationwave",
            name="fleet_key",
            field=models.ForeignKey(
                help_text="new keys are derived from it",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="keyvault.fleetkey",
            ),
        ),
    ]
