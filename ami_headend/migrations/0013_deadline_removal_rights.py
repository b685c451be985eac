"""The right to remove deadlines of readings, for administrators."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):
    dependencies = [
        ("ami_headend", "0012_feed_delivery_rights"),
    ]
    operations = [migrations.RunPython(roles.establish, migrations.RunPython.noop)]
