"""Bodies are ciphertext and do not compress; totals change often and stay HOT with room on the page."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0001_initial")]
    operations = [
        migrations.RunSQL(
            [
                "ALTER TABLE concentrators_uplink ALTER COLUMN body SET STORAGE EXTERNAL",
                "ALTER TABLE concentrators_uplink SET (fillfactor = 70)",
                "ALTER TABLE concentrators_intervaltotal SET (fillfactor = 70)",
                "ALTER TABLE concentrators_failuretally SET (fillfactor = 70)",
            ],
            migrations.RunSQL.noop,
        )
    ]
