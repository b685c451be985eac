"""The rules that a head-end begins with, and who may see and handle alerts."""

from django.db import migrations

from ami_headend.signin import roles
from ami_headend.alerts import defaults


class Migration(migrations.Migration):
    dependencies = [
        ("alerts", "0001_initial"),
        ("ami_headend", "0001_roles"),
        ("concentrators", "0001_initial"),
        ("meters", "0001_initial"),
    ]
    operations = [
        migrations.RunPython(defaults.make_rules, migrations.RunPython.noop),
        migrations.RunPython(defaults.make_first_mark, migrations.RunPython.noop),
        migrations.RunPython(roles.establish, migrations.RunPython.noop),
    ]
