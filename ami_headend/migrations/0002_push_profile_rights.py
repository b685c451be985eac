"""Operators register push profiles; administrators and auditors see them."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):

    dependencies = [
        ('ami_headend', '0001_squashed_0007_access_rights'),
        ('meters', '0018_push_profiles'),
    ]

    operations = [
        migrations.RunPython(roles.establish, migrations.RunPython.noop),
    ]
