"""Limits of what an account may command alone, with those that are shipped, and what is held beyond them."""

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models

from concentrators.commands import command_limits


def ship(apps, schema_editor):
    """Make the limits that every new head-end has; administrators change them."""
    rows = apps.get_model("concentrators", "CommandLimit").objects.using(schema_editor.connection.alias)
    for kind, span, most, share_percent in command_limits.SHIPPED:
        rows.get_or_create(
            kind=kind, span=span, account="", defaults={"most": most, "share_percent": share_percent}
        )


class Migration(migrations.Migration):

    dependencies = [
        ('concentrators', '0049_register_differences'),
        ('keyvault', '0030_refusal'),
        ('meters', '0022_codes_of_a_site'),
    ]

    operations = [
        migrations.CreateModel(
            name='CommandLimit',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.PositiveSmallIntegerField(choices=[(1, 'set key'), (2, 'read now'), (3, 'resend'), (4, 'set clock'), (5, 'set interval'), (7, 'set concentrator')])),
                ('span', models.CharField(choices=[('act', 'in one act'), ('hour', 'an hour'), ('day', 'a day')], help_text='one act is a command, a wave, or an order to many', max_length=4)),
                ('most', models.PositiveIntegerField(help_text='commands; 0: each needs a second person')),
                ('share_percent', models.PositiveSmallIntegerField(blank=True, help_text='for one act: no more than this share of the meters in service, if it is more than 100 commands', null=True, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(100)])),
                ('account', models.CharField(blank=True, help_text='name of an account, or token:NAME of a program, that has this limit in place of the general one; empty: every one', max_length=160)),
            ],
            options={
                'verbose_name': 'limit of commands',
                'verbose_name_plural': 'limits of commands',
            },
        ),
        migrations.CreateModel(
            name='CommandTally',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('account', models.CharField(max_length=160)),
                ('kind', models.PositiveSmallIntegerField(choices=[(1, 'set key'), (2, 'read now'), (3, 'resend'), (4, 'set clock'), (5, 'set interval'), (7, 'set concentrator')])),
                ('minute', models.DateTimeField(help_text='when it began')),
                ('number', models.PositiveIntegerField()),
            ],
        ),
        migrations.AddField(
            model_name='command',
            name='approval',
            field=models.ForeignKey(db_index=False, help_text='that a second person decides or decided', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='keyvault.approval'),
        ),
        migrations.AddField(
            model_name='rotationwave',
            name='approval',
            field=models.ForeignKey(help_text='that a second person decides or decided', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='keyvault.approval'),
        ),
        migrations.AlterField(
            model_name='command',
            name='state',
            field=models.CharField(choices=[('held', 'held (a second person must release it)'), ('queued', 'Queued'), ('offered', 'offered (a concentrator has fetched it)'), ('delivered', 'delivered (the concentrator says so)'), ('done', 'done (the meter says so)'), ('refused', 'refused (the meter says so)'), ('expired', 'Expired'), ('cancelled', 'Cancelled')], default='queued', max_length=9),
        ),
        migrations.AlterField(
            model_name='rotationwave',
            name='state',
            field=models.CharField(choices=[('held', 'held (a second person must release it)'), ('running', 'Running'), ('paused', 'Paused'), ('stopped', 'stopped (failure budget spent)'), ('cancelled', 'Cancelled'), ('finished', 'Finished')], default='running', max_length=9),
        ),
        migrations.AddIndex(
            model_name='command',
            index=models.Index(condition=models.Q(('approval__isnull', False)), fields=['approval'], name='command_approval'),
        ),
        migrations.AddConstraint(
            model_name='commandlimit',
            constraint=models.UniqueConstraint(fields=('kind', 'span', 'account'), name='command_limit_once', violation_error_message='There is a limit for this kind, span and account already: change that one.'),
        ),
        migrations.AddConstraint(
            model_name='commandlimit',
            constraint=models.CheckConstraint(condition=models.Q(('share_percent', None), ('span', 'act'), _connector='OR'), name='command_limit_share', violation_error_message='Only a limit of one act can be a share of the meters.'),
        ),
        migrations.AddIndex(
            model_name='commandtally',
            index=models.Index(fields=['minute'], name='command_tally_minute'),
        ),
        migrations.AddConstraint(
            model_name='commandtally',
            constraint=models.UniqueConstraint(fields=('account', 'kind', 'minute'), name='command_tally_once'),
        ),
        migrations.RunPython(ship, migrations.RunPython.noop),
    ]
