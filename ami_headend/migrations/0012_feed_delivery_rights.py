"""The rights over deliveries of the feed, for the roles."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):
    dependencies = [
        ("ami_headend", "0011_schedule_lease"),
        ("concentrators", "0051_feed_delivery"),
    ]
    operations = [migrations.RunPython(roles.establish, migrations.RunPython.noop)]
