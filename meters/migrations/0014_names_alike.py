"""Serial numbers and places that people cannot tell apart are one: refused where rows stand that would be."""

from django.db import migrations, models

import ami_headend.core.names
from ami_headend.core.names import refuse_alike_rows


def refuse(apps, schema_editor):
    refuse_alike_rows(schema_editor.connection, "meters_meter", "serial_number")
    refuse_alike_rows(schema_editor.connection, "meters_place", "name")


class Migration(migrations.Migration):
    dependencies = [("meters", "0013_place_by_reference")]
    operations = [
        migrations.RunPython(refuse, migrations.RunPython.noop),
        migrations.RemoveConstraint(model_name="meter", name="meter_serial_number"),
        migrations.AddConstraint(
            model_name="meter",
            constraint=models.UniqueConstraint(
                ami_headend.core.names.Alike("serial_number"),
                name="meter_serial_number_alike",
                violation_error_message="There is a meter with this serial number, or one that looks like it, already.",
            ),
        ),
        migrations.AddConstraint(
            model_name="place",
            constraint=models.UniqueConstraint(
                ami_headend.core.names.Alike("name"),
                name="place_name_alike",
                violation_error_message="There is a place with this name, or one that looks like it, already.",
            ),
        ),
    ]
