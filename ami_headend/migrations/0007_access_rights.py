from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):
    """The record of who looked at households' data is for auditors."""

    dependencies = [
        ('ami_headend', '0006_heartbeats'),
        ('meters', '0011_household_access'),
    ]

    operations = [migrations.RunPython(roles.establish, migrations.RunPython.noop)]
