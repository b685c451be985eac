"""Operators see the interval lengths that meters measured in before."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):
    dependencies = [("ami_headend", "0003_kept_answers"), ("meters", "0004_interval_lengths")]
    operations = [migrations.RunPython(roles.establish, migrations.RunPython.noop)]
