"""Concentrators whose names people cannot tell apart are one: refused where rows stand that would be."""

from django.db import migrations, models

import ami_headend.core.names
from ami_headend.core.names import refuse_alike_rows


def refuse(apps, schema_editor):
    refuse_alike_rows(schema_editor.connection, "concentrators_concentrator", "name")


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0023_registry_mismatch")]
    operations = [
        migrations.RunPython(refuse, migrations.RunPython.noop),
        migrations.AddConstraint(
            model_name="concentrator",
            constraint=models.UniqueConstraint(
                ami_headend.core.names.Alike("name"),
                name="concentrator_name_alike",
                violation_error_message="There is a concentrator with this name, or one that looks like it, already.",
            ),
        ),
    ]
