"""Differences between registers and intervals. Readings from before this are compared on demand (check_registers)."""

import django.db.models.deletion
from django.db import migrations, models


def begin(apps, schema_editor):
    """What was told so far is passed over: it may be months."""
    heads = apps.get_model("concentrators", "FeedHead").objects.using(schema_editor.connection.alias)
    heads.update(checked=models.F("position"))


class Migration(migrations.Migration):

    dependencies = [
        ('concentrators', '0048_read_deadlines'),
        ('meters', '0022_codes_of_a_site'),
    ]

    operations = [
        migrations.AddField(
            model_name='feedhead',
            name='checked',
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AlterField(
            model_name='feedlot',
            name='change',
            field=models.CharField(choices=[('new', 'new'), ('relabelled', 'relabelled'), ('flagged', 'flagged'), ('cleared', 'cleared')], max_length=12),
        ),
        migrations.CreateModel(
            name='UncheckedDay',
            fields=[
                ('pk', models.CompositePrimaryKey('day', 'meter_id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('day', models.DateField()),
                ('meter', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='meters.meter')),
            ],
        ),
        migrations.CreateModel(
            name='RegisterDifference',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('span_start', models.DateTimeField()),
                ('span_end', models.DateTimeField()),
                ('unit', models.CharField(max_length=8)),
                ('scaler', models.SmallIntegerField()),
                ('advance', models.DecimalField(decimal_places=0, help_text='of the register, in steps', max_digits=50)),
                ('interval_sum', models.DecimalField(decimal_places=0, help_text='in steps', max_digits=50)),
                ('found_at', models.DateTimeField()),
                ('cleared_at', models.DateTimeField(null=True)),
                ('meter', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='meters.meter')),
                ('register', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='meters.register')),
            ],
            options={
                'indexes': [
                    models.Index(fields=['span_start', 'id'], name='register_difference_by_time'),
                    models.Index(condition=models.Q(('cleared_at', None)), fields=['span_start', 'id'], name='register_difference_open'),
                ],
                'constraints': [models.UniqueConstraint(fields=('meter', 'register', 'span_start', 'span_end'), name='register_difference_once_each')],
            },
        ),
        migrations.RunPython(begin, migrations.RunPython.noop),
    ]
