"""The event registers by which meters answer commands."""

from django.db import migrations

REGISTERS = [("0-0:96.13.0", "Command done: its number"), ("0-0:96.13.1", "Command refused: its number")]


def add(apps, schema_editor):
    register = apps.get_model("meters", "Register")
    register.objects.bulk_create(
        [register(obis_code=code, kind="event", unit="count", scaler=0, name=name) for code, name in REGISTERS],
        ignore_conflicts=True,  # a database made from scratch has them from the catalogue already
    )


class Migration(migrations.Migration):
    dependencies = [("meters", "0002_standard_registers")]
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
