"""Sums that concentrators say, and which of them are to be compared."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('concentrators', '0028_set_concentrator'),
        ('meters', '0015_reading_scheme'),
    ]

    operations = [
        migrations.CreateModel(
            name='UncomparedSum',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('concentrator_id', models.IntegerField()),
                ('register_id', models.SmallIntegerField()),
                ('interval_minutes', models.SmallIntegerField()),
                ('interval_start', models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name='ReportedSum',
            fields=[
                ('pk', models.CompositePrimaryKey('concentrator_id', 'register_id', 'interval_minutes', 'interval_start', blank=True, editable=False, primary_key=True, serialize=False)),
                ('interval_minutes', models.SmallIntegerField()),
                ('interval_start', models.DateTimeField(db_index=True)),
                ('value_sum', models.BigIntegerField(help_text="in the register's steps")),
                ('meters_counted', models.IntegerField()),
                ('epoch', models.IntegerField()),
                ('invocation_counter', models.BigIntegerField()),
                ('uplink_id', models.BigIntegerField()),
                ('own_sum', models.DecimalField(decimal_places=0, max_digits=30, null=True)),
                ('own_meters', models.IntegerField(null=True)),
                ('compared_at', models.DateTimeField(null=True)),
                ('differs_since', models.DateTimeField(null=True)),
                ('concentrator', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='concentrators.concentrator')),
                ('register', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='meters.register')),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('differs_since__isnull', False)), fields=['concentrator', 'differs_since'], name='reported_sum_differs')],
            },
        ),
    ]
