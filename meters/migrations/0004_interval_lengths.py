"""Interval lengths that meters measured in before, dated."""

import django.contrib.postgres.constraints
import django.db.models.deletion
import meters.models
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('meters', '0003_command_registers'),
    ]

    operations = [
        migrations.CreateModel(
            name='EarlierLength',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('interval_minutes', models.PositiveSmallIntegerField()),
                ('valid_from', models.DateTimeField(blank=True, null=True)),
                ('valid_to', models.DateTimeField()),
                ('meter', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='earlier_lengths', to='meters.meter')),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('interval_minutes__gte', 1), ('interval_minutes__lte', 1440)), name='earlier_length_minutes'), models.UniqueConstraint(fields=('meter', 'valid_to'), name='earlier_length_end'), django.contrib.postgres.constraints.ExclusionConstraint(expressions=[(meters.models.SameInteger('meter_id'), '&&'), (meters.models.Period('valid_from', 'valid_to'), '&&')], name='earlier_length_one_at_a_time', violation_error_message='The meter has another interval length in that period.')],
            },
        ),
    ]
