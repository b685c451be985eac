"""The meters of a scheme other than the usual one are found by an index."""

from django.db import migrations, models
from django.db.models import Q


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0016_agreement_keys")]
    operations = [
        migrations.AddIndex(
            model_name="devicekey",
            index=models.Index(
                condition=Q(state="active", epoch__gt=0) & ~Q(scheme="ccm"),
                fields=["scheme", "system_title"],
                name="device_key_scheme",
            ),
        ),
    ]
