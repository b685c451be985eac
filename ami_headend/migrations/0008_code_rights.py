"""Administrators change the tables of codes; operators acknowledge meter events."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):

    dependencies = [
        ('ami_headend', '0007_view_rights'),
        ('meters', '0022_codes_of_a_site'),
    ]

    operations = [
        migrations.RunPython(roles.establish, migrations.RunPython.noop),
    ]
