"""Counting begins with the first uplink that there is."""

from datetime import UTC, datetime

from django.db import migrations


def begin(apps, schema_editor):
    counted = apps.get_model("metrics", "Counted").objects.using(schema_editor.connection.alias)
    counted.create(until=datetime(1970, 1, 1, tzinfo=UTC))


class Migration(migrations.Migration):
    dependencies = [("metrics", "0001_initial")]
    operations = [migrations.RunPython(begin, migrations.RunPython.noop)]
