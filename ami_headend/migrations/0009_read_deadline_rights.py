"""The rights over deadlines of readings, for the roles."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):
    dependencies = [
        ("ami_headend", "0008_code_rights"),
        ("concentrators", "0048_read_deadlines"),
    ]
    operations = [migrations.RunPython(roles.establish, migrations.RunPython.noop)]
