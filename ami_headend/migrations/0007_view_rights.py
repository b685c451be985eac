"""The right to share saved views, for administrators."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):
    dependencies = [("ami_headend", "0006_saved_views")]
    operations = [migrations.RunPython(roles.establish, migrations.RunPython.noop)]
