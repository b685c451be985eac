"""The row that says which beat is at work."""

from datetime import UTC, datetime

from django.db import migrations, models


def make_row(apps, schema_editor):
    """Make the row, with a lease that is over."""
    over = datetime(2000, 1, 1, tzinfo=UTC)
    rows = apps.get_model("ami_headend", "ScheduleLease").objects.using(schema_editor.connection.alias)
    rows.get_or_create(id=1, defaults={"taken_at": over, "until": over})


class Migration(migrations.Migration):

    dependencies = [
        ('ami_headend', '0010_command_limit_rights'),
    ]

    operations = [
        migrations.CreateModel(
            name='ScheduleLease',
            fields=[
                ('id', models.PositiveSmallIntegerField(default=1, primary_key=True, serialize=False)),
                ('holder', models.CharField(blank=True, help_text='host, process and a random part', max_length=200)),
                ('host', models.CharField(blank=True, max_length=120)),
                ('taken_at', models.DateTimeField()),
                ('until', models.DateTimeField()),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('id', 1)), name='schedule_lease_one')],
            },
        ),
        migrations.RunPython(make_row, migrations.RunPython.noop),
    ]
