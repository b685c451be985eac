"""Limits of commands go with accounts, whatever their names become."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

BIND = """
UPDATE concentrators_commandlimit l SET owner_id = u.id FROM auth_user u WHERE l.account = u.username
"""
_TWICE = "There is a limit for this kind, span and account already: change that one."


class Migration(migrations.Migration):
    dependencies = [
        ("concentrators", "0057_tallies_by_account"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]
    operations = [
        migrations.AddField(
            model_name="commandlimit",
            name="owner",
            field=models.ForeignKey(
                blank=True,
                help_text="that has this limit in place of the general one, with the programs whose tokens it made; "
                "empty: every one",
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to=settings.AUTH_USER_MODEL,
                verbose_name="account",
            ),
        ),
        migrations.AlterField(
            model_name="commandlimit",
            name="account",
            field=models.CharField(
                blank=True,
                help_text="token:NAME of a program that has this limit instead and is counted by itself, or a system "
                "user of the terminal who has no account",
                max_length=160,
                verbose_name="program or system user",
            ),
        ),
        migrations.RunSQL([BIND, "SET CONSTRAINTS ALL IMMEDIATE"], migrations.RunSQL.noop),
        migrations.RemoveConstraint(model_name="commandlimit", name="command_limit_once"),
        migrations.AddConstraint(
            model_name="commandlimit",
            constraint=models.UniqueConstraint(
                condition=models.Q(("owner", None)),
                fields=("kind", "span", "account"),
                name="command_limit_once",
                violation_error_message=_TWICE,
            ),
        ),
        migrations.AddConstraint(
            model_name="commandlimit",
            constraint=models.UniqueConstraint(
                fields=("kind", "span", "owner"), name="command_limit_owner", violation_error_message=_TWICE
            ),
        ),
    ]
