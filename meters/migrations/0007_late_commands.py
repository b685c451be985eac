"""The event register by which meters say that a command came too late."""

from django.db import migrations


def add(apps, schema_editor):
    register = apps.get_model("meters", "Register")
    register.objects.bulk_create(
        [register(obis_code="0-0:96.13.2", kind="event", unit="count", scaler=0, name="Command came too late: its number")],
        ignore_conflicts=True,  # a database made from scratch has it from the catalogue already
    )


class Migration(migrations.Migration):
    dependencies = [("meters", "0006_names")]
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
