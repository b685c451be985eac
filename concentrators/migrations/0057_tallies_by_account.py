"""Tallies of commands go by the number of an account: its name may change."""

from django.conf import settings
from django.db import migrations, models

BY_NUMBER = """
UPDATE concentrators_commandtally t SET account = 'account:' || u.id FROM auth_user u WHERE t.account = u.username
"""
BY_NAME = """
UPDATE concentrators_commandtally t SET account = u.username FROM auth_user u WHERE t.account = 'account:' || u.id
"""


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0056_cells"), migrations.swappable_dependency(settings.AUTH_USER_MODEL)]
    operations = [
        migrations.AlterField(
            model_name="commandtally",
            name="account",
            field=models.CharField(help_text="account:NUMBER, token:NAME, or a system user's name", max_length=160),
        ),
        migrations.RunSQL(BY_NUMBER, BY_NAME),
    ]
