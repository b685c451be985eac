"""Commands: a schedule for the concentrator that a meter is assigned to, and one for another that heard it."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("concentrators", "0018_large_tables"),
    ]

    operations = [
        migrations.AddField(
            model_name='command',
            name='elsewhere_attempt_at',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='command',
            name='elsewhere_attempts',
            field=models.PositiveSmallIntegerField(db_default=0, default=0, help_text='times offered to another one'),
        ),
        migrations.AddField(
            model_name='command',
            name='failed_at',
            field=models.DateTimeField(help_text='a concentrator could not pass it on, the last time', null=True),
        ),
        migrations.AddField(
            model_name='command',
            name='failures',
            field=models.PositiveSmallIntegerField(db_default=0, default=0, help_text='times a concentrator could not pass it on'),
        ),
        migrations.AddField(
            model_name='command',
            name='late_answers',
            field=models.PositiveSmallIntegerField(db_default=0, default=0, help_text='times the meter said: it came too late'),
        ),
        migrations.AddField(
            model_name='command',
            name='offered_elsewhere_to',
            field=models.ForeignKey(db_index=False, help_text='heard the meter last, and is not its own', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='concentrators.concentrator'),
        ),
        migrations.AlterField(
            model_name='command',
            name='attempts',
            field=models.PositiveSmallIntegerField(default=0, help_text="times offered to the meter's concentrator"),
        ),
    ]
