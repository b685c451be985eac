"""The groups operator, key officer, administrator and auditor, with their rights."""

from django.db import migrations

from ami_headend.signin import roles


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]
    operations = [migrations.RunPython(roles.establish, migrations.RunPython.noop)]
