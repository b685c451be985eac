"""Hop keys as they were sealed for concentrators, and what concentrators say that they dropped."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('concentrators', '0026_system_titles'),
        ('meters', '0015_reading_scheme'),
    ]

    operations = [
        migrations.CreateModel(
            name='HopKeySet',
            fields=[
                ('concentrator', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, primary_key=True, related_name='hop_keys', serialize=False, to='concentrators.concentrator')),
                ('digest', models.BinaryField(help_text='of what is in it, and of what it is sealed under', max_length=32, null=True)),
                ('octets', models.BinaryField(help_text='a CBOR sequence of COSE_Encrypt0', null=True)),
                ('sealed_at', models.DateTimeField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name='HopFailure',
            fields=[
                ('pk', models.CompositePrimaryKey('concentrator_id', 'hour', 'meter_id', 'reason', blank=True, editable=False, primary_key=True, serialize=False)),
                ('hour', models.DateTimeField(db_index=True)),
                ('reason', models.CharField(max_length=12)),
                ('frames', models.BigIntegerField()),
                ('samples', django.contrib.postgres.fields.ArrayField(base_field=models.BinaryField(), help_text='frames as they came', size=None)),
                ('reported_at', models.DateTimeField()),
                ('concentrator', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='concentrators.concentrator')),
                ('meter', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='meters.meter')),
            ],
        ),
    ]
