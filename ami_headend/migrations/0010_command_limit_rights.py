"""The rights over limits of commands, for the roles."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):
    dependencies = [
        ("ami_headend", "0009_read_deadline_rights"),
        ("concentrators", "0050_command_limits"),
    ]
    operations = [migrations.RunPython(roles.establish, migrations.RunPython.noop)]
