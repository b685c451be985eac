"""What was counted so far, from the first uplink on, as the three migrations before left it."""

from datetime import UTC, datetime

from django.db import migrations, models

def begin(apps, schema_editor):
    """Counting begins with the first uplink that there is."""
    counted = apps.get_model("metrics", "Counted").objects.using(schema_editor.connection.alias)
    counted.create(until=datetime(1970, 1, 1, tzinfo=UTC))


class Migration(migrations.Migration):

    replaces = [
        ('metrics', '0001_initial'),
        ('metrics', '0002_begin'),
        ('metrics', '0003_kept'),
    ]

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Counted',
            fields=[
                ('id', models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('until', models.DateTimeField()),
                ('uplinks', models.BigIntegerField(default=0)),
                ('octets', models.BigIntegerField(default=0)),
                ('frames', models.JSONField(default=dict)),
                ('latencies', models.JSONField(default=list)),
                ('latency_s', models.FloatField(default=0, help_text='sum')),
            ],
        ),
        migrations.RunPython(begin),
    ]
