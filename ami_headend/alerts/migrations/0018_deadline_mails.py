"""Channels of daily mails about deadlines of readings."""

import django.db.models.deletion
from django.db import migrations, models


def say_whose(apps, schema_editor):
    """Rules about deadlines say whose readings they are about: those that there are, all together."""
    rules = apps.get_model("alerts", "Rule").objects.using(schema_editor.connection.alias)
    rules.filter(condition="read_deadline", selector="").update(selector="all")


class Migration(migrations.Migration):

    dependencies = [
        ('alerts', '0017_commands_held'),
        ('concentrators', '0052_read_day_basis'),
        ('meters', '0022_codes_of_a_site'),
    ]

    operations = [
        migrations.AddField(
            model_name='channel',
            name='deadline',
            field=models.ForeignKey(blank=True, help_text='of daily mails: each day is told once it was due and counted', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='concentrators.readdeadline'),
        ),
        migrations.AddField(
            model_name='channel',
            name='group',
            field=models.ForeignKey(blank=True, help_text='of daily mails: only the concentrators of this group', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='meters.fleetgroup'),
        ),
        migrations.AddField(
            model_name='delivery',
            name='of_day',
            field=models.ForeignKey(help_text='of daily mails', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='concentrators.readday'),
        ),
        migrations.AlterField(
            model_name='channel',
            name='kind',
            field=models.CharField(choices=[('email', 'e-mail'), ('webhook', 'signed webhook'), ('mails', 'daily mail of a deadline')], max_length=7),
        ),
        migrations.RunPython(say_whose, migrations.RunPython.noop),
        migrations.AddConstraint(
            model_name='delivery',
            constraint=models.UniqueConstraint(fields=('of_day', 'channel', 'recipient'), name='delivery_of_day_once'),
        ),
    ]
