"""Operators and key officers acknowledge failures, and have waiting frames judged again."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):
    dependencies = [("ami_headend", "0001_roles")]
    operations = [migrations.RunPython(roles.establish, migrations.RunPython.noop)]
