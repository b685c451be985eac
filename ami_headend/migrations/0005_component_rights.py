"""The health of the head-end's components is for those who have a role."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):
    dependencies = [("ami_headend", "0004_length_rights")]
    operations = [
        migrations.AlterModelOptions(
            name="keptanswer",
            options={"permissions": [("view_components", "Can see the health of the head-end's components")]},
        ),
        migrations.RunPython(roles.establish, migrations.RunPython.noop),
    ]
