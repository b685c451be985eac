"""Administrators make tokens of programs; auditors see them."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):

    dependencies = [
        ('ami_headend', '0002_push_profile_rights'),
        ('api_tokens', '0001_initial'),
    ]

    operations = [
        migrations.RunPython(roles.establish, migrations.RunPython.noop),
    ]
