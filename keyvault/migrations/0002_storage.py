"""Counters change with every uplink: room on the page keeps their updates HOT."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("keyvault", "0001_initial")]
    operations = [
        migrations.RunSQL(
            "ALTER TABLE keyvault_invocationcounter SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05)",
            migrations.RunSQL.noop,
        )
    ]
