"""Deadlines of readings with their history, and a first one: the day after, by 07:00."""

import datetime
import ami_headend.core.names
import concentrators.models.deadlines
import django.core.validators
import django.db.models.deletion
from decimal import Decimal
from django.db import migrations, models


def make_first(apps, schema_editor):
    """Make the deadline that every new head-end has; administrators change it."""
    rows = apps.get_model("concentrators", "ReadDeadline").objects.using(schema_editor.connection.alias)
    rows.get_or_create(name="Day after, 07:00", defaults={"due_time": datetime.time(7)})


class Migration(migrations.Migration):

    dependencies = [
        ('concentrators', '0047_feed_profile'),
    ]

    operations = [
        migrations.CreateModel(
            name='ReadDeadline',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', ami_headend.core.names.NameField(max_length=60, unique=True)),
                ('due_time', models.TimeField(help_text='time of day in the zone below, such as 07:00')),
                ('days_after', models.PositiveSmallIntegerField(default=1, help_text='1: the day after', validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(31)])),
                ('zone', models.CharField(default='UTC', help_text='time zone in which days begin and the time is meant, such as Europe/Oslo', max_length=64, validators=[concentrators.models.deadlines.check_zone])),
                ('target_percent', models.DecimalField(decimal_places=2, default=Decimal('98'), help_text='of the expected intervals, percent', max_digits=5, validators=[django.core.validators.MinValueValidator(Decimal('0')), django.core.validators.MaxValueValidator(Decimal('100'))])),
                ('is_active', models.BooleanField(default=True, help_text='inactive: no more days are counted, the history stays')),
            ],
            options={
                'verbose_name': 'deadline of readings',
                'verbose_name_plural': 'deadlines of readings',
                'constraints': [models.CheckConstraint(condition=models.Q(('days_after__gte', 1), ('days_after__lte', 31)), name='read_deadline_days_after'), models.CheckConstraint(condition=models.Q(('target_percent__gte', 0), ('target_percent__lte', 100)), name='read_deadline_target')],
            },
        ),
        migrations.CreateModel(
            name='ReadDay',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('day', models.DateField()),
                ('start', models.DateTimeField()),
                ('end', models.DateTimeField()),
                ('due_at', models.DateTimeField()),
                ('target_percent', models.DecimalField(decimal_places=2, max_digits=5)),
                ('expected', models.BigIntegerField()),
                ('in_time', models.BigIntegerField()),
                ('late', models.BigIntegerField()),
                ('arrived', models.BigIntegerField()),
                ('counted_at', models.DateTimeField()),
                ('deadline', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='days', to='concentrators.readdeadline')),
            ],
        ),
        migrations.CreateModel(
            name='ReadShare',
            fields=[
                ('pk', models.CompositePrimaryKey('of_day_id', 'concentrator_id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('expected', models.IntegerField()),
                ('in_time', models.IntegerField()),
                ('late', models.IntegerField()),
                ('concentrator', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='concentrators.concentrator')),
                ('of_day', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='shares', to='concentrators.readday')),
            ],
        ),
        migrations.AddIndex(
            model_name='readday',
            index=models.Index(fields=['start'], name='read_day_by_start'),
        ),
        migrations.AddConstraint(
            model_name='readday',
            constraint=models.UniqueConstraint(fields=('deadline', 'day'), name='read_day_once'),
        ),
        migrations.RunPython(make_first, migrations.RunPython.noop),
    ]
