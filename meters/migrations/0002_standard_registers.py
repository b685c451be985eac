"""The registers of the catalogue in meters/readings/obis.py, as they stood when this migration was written."""

from django.db import migrations

from meters.readings.obis import STANDARD_REGISTERS


def add(apps, schema_editor):
    register = apps.get_model("meters", "Register")
    register.objects.bulk_create(
        [
            register(obis_code=row.obis_code, kind=row.kind, unit=row.unit, scaler=row.scaler, name=row.name)
            for row in STANDARD_REGISTERS
        ]
    )


class Migration(migrations.Migration):
    dependencies = [("meters", "0001_initial")]
    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
