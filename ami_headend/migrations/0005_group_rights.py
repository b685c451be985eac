"""The rights of groups of meters, places and concentrators, for the roles."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):
    dependencies = [
        ("ami_headend", "0004_feed_rights"),
        ("meters", "0021_groups"),
        ("concentrators", "0045_groups"),
    ]
    operations = [migrations.RunPython(roles.establish, migrations.RunPython.noop)]
